"""What a real server makes of our configuration, of initdb, and of what we read in pg_control.

In scope: hostile values, settings that must hold, logging in, pg_control against pg_controldata.
Out of scope: life and death of the process, see test_postgres_process.py.
"""

import re
import stat
import subprocess
from pathlib import Path

import psycopg
import pytest
from fixtures.servers import Fleet

from sqlnode.control_file import (
    ClusterState,
    ControlFile,
    ControlFileError,
    read_control_file,
    require_supported,
)
from sqlnode.postgres import (
    InitdbError,
    InitdbOptions,
    Postgres,
    PostgresSettings,
    SettingsError,
    initdb,
    request_standby,
)

pytestmark = pytest.mark.postgres

HOSTILE_VALUES = [
    "plain",
    "it's",
    "'",
    "''",
    "back\\slash",
    "ends with \\",
    "octal \\101 \\x41",
    "two\nlines",
    "x'\nfsync = on\n#",
    "x\\'\nfsync = on\n#",
    "carriage\r\nreturn\ttab",
    "# no comment",
    "$user, %m",
    "Grüße, 世界 🐘",
    " leading and trailing ",
    "",
]


def query(server: Postgres, sql: str, *, user: str = "postgres") -> object:
    with psycopg.connect(server.conninfo(user=user), autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


def execute(server: Postgres, sql: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(sql.encode())


def setting(server: Postgres, name: str) -> object:
    return query(server, f"select current_setting('{name}')")


def test_hostile_values_arrive_unchanged(fleet: Fleet) -> None:
    extra = {f"seawall.probe_{number}": value for number, value in enumerate(HOSTILE_VALUES)}
    fixed = {f"seawall.fixed_{number}": value for number, value in enumerate(HOSTILE_VALUES)}
    settings = PostgresSettings(extra=extra, extra_fixed=fixed)
    server = fleet.server("primary", settings=settings)
    server.start_blocking()
    for name, value in {**extra, **fixed}.items():
        assert setting(server, name) == value
    assert setting(server, "fsync") == "off"


def test_socket_directory_with_odd_characters_is_one_directory(fleet: Fleet) -> None:
    server = fleet.server('a, b "c" \\d')
    server.start_blocking()
    assert (server.run_dir / ".s.PGSQL.5432").is_socket()
    # libpq takes a comma for the end of a host, so it cannot connect there; to the rest it can.
    quotable = fleet.server('it\'s a \\ "c"', data_dir=fleet.make_cluster("second"))
    quotable.start_blocking()
    assert query(quotable, "select 1") == 1


def test_alter_system_cannot_change_what_correctness_depends_on(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    execute(server, "alter system set restart_after_crash = on")
    execute(server, "alter system set hot_standby = off")
    execute(server, "alter system set work_mem = '5MB'")
    if fleet.binaries.version.major >= 18:
        execute(server, "alter system set io_method = worker")
    server.stop_blocking()
    server.start_blocking()
    assert setting(server, "restart_after_crash") == "off"
    assert setting(server, "hot_standby") == "on"
    assert setting(server, "work_mem") == "5MB"
    if fleet.binaries.version.major >= 18:
        assert setting(server, "io_method") == "sync"


def test_every_default_is_known_to_the_server(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    wrong = "select string_agg(name || ': ' || error, '; ') from pg_file_settings where error <> ''"
    assert query(server, wrong) is None
    assert setting(server, "full_page_writes") == "off"
    assert setting(server, "data_checksums") == "on"


def test_reload_replaces_the_configuration(fleet: Fleet) -> None:
    server = fleet.server("primary", settings=PostgresSettings(extra={"seawall.probe": "old"}))
    server.start_blocking()
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        server.reload(PostgresSettings(extra={"seawall.probe": "new"}))
        # A reload takes effect between statements; each query is one chance to see it.
        for _ in range(10_000):
            row = connection.execute("select current_setting('seawall.probe')").fetchone()
            if row == ("new",):
                return
    pytest.fail("the server did not read its configuration again")


def test_environment_of_postgres_is_what_we_list(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    found = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    names = {entry.partition(b"=")[0].decode() for entry in found if entry}
    assert names <= {"PATH", "HOME", "USER", "LOGNAME", "PG_GRANDPARENT_PID"}


def test_run_directory_is_private(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    status = server.run_dir.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == fleet.identity.uid
    assert stat.S_IMODE((server.run_dir / "postgresql.conf").stat().st_mode) == 0o600


def test_long_run_directory_is_refused(fleet: Fleet) -> None:
    server = fleet.server("x" * 100)
    with pytest.raises(SettingsError, match=r"too long for a Unix socket"):
        server.start_blocking()


def test_scram_wants_the_password(fleet: Fleet) -> None:
    data_dir = fleet.directory / "scram"
    options = InitdbOptions(password="a b'c", sync=False)  # noqa: S106  # of a throw-away cluster
    initdb(fleet.binaries, data_dir, identity=fleet.identity, options=options)
    settings = PostgresSettings(local_auth="scram-sha-256")
    server = fleet.server("scram", settings=settings, data_dir=data_dir)
    server.start_blocking()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.conninfo(), passfile="/dev/null")
    with psycopg.connect(server.conninfo(), password="a b'c") as connection:  # noqa: S106  # as above
        assert connection.execute("select 1").fetchone() == (1,)


# initdb.


def test_initdb_refuses_a_directory_with_something_in_it(fleet: Fleet) -> None:
    data_dir = fleet.directory / "full"
    data_dir.mkdir()
    (data_dir / "precious").touch()
    with pytest.raises(InitdbError, match="exists but is not empty"):
        initdb(fleet.binaries, data_dir, identity=fleet.identity)
    assert (data_dir / "precious").exists()


def test_cluster_without_checksums_is_refused_unless_admitted(fleet: Fleet) -> None:
    data_dir = fleet.directory / "plain"
    options = InitdbOptions(data_checksums=False, locale="C", sync=False)
    initdb(fleet.binaries, data_dir, identity=fleet.identity, options=options)
    control = read_control_file(data_dir)
    version = fleet.binaries.version
    with pytest.raises(ControlFileError, match="no data checksums"):
        require_supported(control, data_dir=data_dir, server_version=version)
    require_supported(control, data_dir=data_dir, server_version=version, data_checksums=False)


# The control file.


def test_control_file_is_read_as_pg_controldata_reads_it(fleet: Fleet) -> None:
    if not fleet.binaries.has("pg_controldata"):
        pytest.skip(f"{fleet.binaries} has no pg_controldata")
    server = fleet.server("primary")
    seen = []
    assert_control_file_equals_pg_controldata(server)
    seen.append(server.control().state)
    server.start_blocking()
    execute(server, "create table t as select generate_series(1, 1000)")
    execute(server, "checkpoint")
    assert_control_file_equals_pg_controldata(server)
    seen.append(server.control().state)
    server.stop_blocking()
    assert_control_file_equals_pg_controldata(server)
    seen.append(server.control().state)
    request_standby(server.data_dir, fleet.identity)
    server.start_blocking()
    assert_control_file_equals_pg_controldata(server)
    seen.append(server.control().state)
    assert seen == [
        ClusterState.SHUT_DOWN,
        ClusterState.IN_PRODUCTION,
        ClusterState.SHUT_DOWN,
        ClusterState.IN_ARCHIVE_RECOVERY,
    ]
    require_supported(
        server.control(),
        data_dir=server.data_dir,
        server_version=fleet.binaries.version,
        system_identifier=read_control_file(fleet.template).system_identifier,
    )


STATE_NAMES = {
    ClusterState.SHUT_DOWN: "shut down",
    ClusterState.IN_PRODUCTION: "in production",
    ClusterState.IN_ARCHIVE_RECOVERY: "in archive recovery",
}


def assert_control_file_equals_pg_controldata(server: Postgres) -> None:
    output = subprocess.run(
        [server.binaries.tool("pg_controldata"), "-D", server.data_dir],
        check=True,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C"},
        timeout=60,
    ).stdout
    theirs = dict(re.findall(r"^([^:]+):\s*(.*)$", output, re.MULTILINE))
    for name, value in described(server.control()).items():
        assert theirs[name] == value, name


def described(control: ControlFile) -> dict[str, str]:
    """Our fields under the names and in the forms of pg_controldata."""
    limits = control.standby_limits
    xid = f"{control.next_xid >> 32}:{control.next_xid & 0xFFFFFFFF}"
    return {
        "pg_control version number": str(control.pg_control_version),
        "Catalog version number": str(control.catalog_version),
        "Database system identifier": str(control.system_identifier),
        "Database cluster state": STATE_NAMES[control.state],
        "Latest checkpoint location": str(control.checkpoint),
        "Latest checkpoint's REDO location": str(control.redo),
        "Latest checkpoint's TimeLineID": str(int(control.tli)),
        "Latest checkpoint's PrevTimeLineID": str(int(control.previous_tli)),
        "Latest checkpoint's full_page_writes": "on" if control.full_page_writes else "off",
        "Latest checkpoint's NextXID": xid,
        "Latest checkpoint's NextOID": str(control.next_oid),
        "Latest checkpoint's NextMultiXactId": str(control.next_multixact),
        "Latest checkpoint's oldestXID": str(control.oldest_xid),
        "Minimum recovery ending location": str(control.minimum_recovery_point),
        "Min recovery ending loc's timeline": str(int(control.minimum_recovery_tli or 0)),
        "max_connections setting": str(limits.max_connections),
        "max_worker_processes setting": str(limits.max_worker_processes),
        "max_wal_senders setting": str(limits.max_wal_senders),
        "max_prepared_xacts setting": str(limits.max_prepared_transactions),
        "max_locks_per_xact setting": str(limits.max_locks_per_transaction),
        "track_commit_timestamp setting": "on" if control.track_commit_timestamp else "off",
        "Database block size": str(control.block_bytes),
        "Blocks per segment of large relation": str(control.segment_blocks),
        "WAL block size": str(control.wal_block_bytes),
        "Bytes per WAL segment": str(control.wal_segment_bytes),
        "Data page checksum version": str(control.data_checksum_version),
    }
