"""A cluster made of a template is PostgreSQL's own: its tools and its servers accept it.

In scope: what a page store makes of the first cut, the first WAL, a replica that begins with no
WAL, makers at the same time. Out of scope: names and leftovers, which are in
tests/unit/storage/test_first_cut.py.
"""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from fixtures.redo import one, wait_for_replay
from fixtures.servers import Fleet
from unit.storage.memory_store import MemoryStore

from fabric.ids import BranchName, SystemIdentifier
from sqlnode.control_file import NONCE_BYTES, NONCE_OFFSETS, read_control_file, require_supported
from sqlnode.page_source import PageRange
from sqlnode.postgres import InitdbOptions, Postgres, request_standby
from storage.first_cut import (
    FirstCut,
    Template,
    first_cut,
    make_template,
    new_system_identifier,
    write_first_wal,
)

pytestmark = pytest.mark.postgres

BRANCH = BranchName("main")
OPTIONS = InitdbOptions(sync=False)


@pytest.fixture
def template(fleet: Fleet) -> Template:
    cache_dir = fleet.directory / "templates"
    return make_template(fleet.binaries, cache_dir, identity=fleet.identity, options=OPTIONS)


def new_cluster(template: Template) -> FirstCut:
    return first_cut(
        template,
        system_identifier=new_system_identifier(1_764_000_000),
        nonce=os.urandom(NONCE_BYTES),
        taken_at_s=1_764_000_000,
    )


def materialised(fleet: Fleet, first: FirstCut, name: str, *, has_wal: bool = True) -> Path:
    """What a page store gives of the cut, as a data directory."""
    store = MemoryStore()
    cut = store.publish(BRANCH, first.new, first.read_pages)
    assert (cut.seq, cut.lsn, cut.redo) == (1, first.new.lsn, first.new.redo)
    contents = store.contents(BRANCH, cut.seq)
    root = fleet.directory / name
    fleet.identity.make_directory(root)
    for folder, folders, _ in os.walk(first.template.data_dir):
        for each in folders:
            place = root / Path(folder, each).relative_to(first.template.data_dir)
            place.mkdir(mode=0o700)
    for file in contents.files.values():
        ranges = [PageRange(file.path, 0, file.blocks)] if file.blocks else []
        pages = store.read(BRANCH, cut.seq, ranges)
        assert all(isinstance(page, bytes | bytearray) for page in pages)
        (root / file.path).write_bytes(b"".join(pages))  # type: ignore[arg-type]  # checked above
    for path, content in contents.small_files.items():
        (root / path).write_bytes(content)
    if has_wal:
        write_first_wal(first.genesis, first.wal, root / "pg_wal")
    fleet.identity.give_tree(root)
    return root


def tool(fleet: Fleet, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(fleet.binaries.bin_dir / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=fleet.directory,
        env={"LC_ALL": "C"},
        **fleet.identity.subprocess_options(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def value(server: Postgres, query: str) -> str:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        return one(connection, query)


def execute(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(statement.encode())


def test_postgres_tools_accept_a_new_cluster(fleet: Fleet, template: Template) -> None:
    first = new_cluster(template)
    root = materialised(fleet, first, "one")
    control = read_control_file(root)
    require_supported(
        control,
        data_dir=root,
        server_version=fleet.binaries.version,
        system_identifier=first.genesis.system_identifier,
    )
    assert control.redo == control.checkpoint == first.new.redo
    shown = tool(fleet, "pg_controldata", str(root))
    assert re.search(rf"system identifier: +{first.genesis.system_identifier:d}\n", shown)
    assert re.search(r"cluster state: +shut down\n", shown)
    assert "Bad checksums:  0" in tool(fleet, "pg_checksums", "--check", str(root))
    assert len(first.wal) == 160
    assert first.genesis.start + len(first.wal) == first.new.lsn
    dump = tool(
        fleet,
        "pg_waldump",
        f"--path={root / 'pg_wal'}",
        f"--start={first.genesis.start}",
        f"--end={first.new.lsn}",
    )
    (line,) = dump.splitlines()
    assert f"lsn: {first.new.redo >> 32:X}/{first.new.redo & 0xFFFFFFFF:08X}" in line
    assert f"CHECKPOINT_SHUTDOWN redo {first.new.redo}; tli 1;" in line


def test_server_starts_and_two_clusters_are_strangers(fleet: Fleet, template: Template) -> None:
    one_first, other_first = new_cluster(template), new_cluster(template)
    servers = []
    for name, first in (("one", one_first), ("other", other_first)):
        server = fleet.server(name, data_dir=materialised(fleet, first, name))
        server.start_blocking()
        found = value(server, "select system_identifier from pg_control_system()")
        assert found == str(int(first.genesis.system_identifier))
        execute(server, "create table t as select 1 as id")
        servers.append(server)
    identifiers = {first.genesis.system_identifier for first in (one_first, other_first)}
    assert len(identifiers) == 2
    one_content, other_content = (
        first.new.small_files["global/pg_control"] for first in (one_first, other_first)
    )
    offset = NONCE_OFFSETS[read_control_file(servers[0].data_dir).pg_control_version]
    nonces = {c[offset : offset + NONCE_BYTES] for c in (one_content, other_content)}
    assert len(nonces) == 2
    for server in servers:
        assert server.stop_blocking() == 0
        assert "Bad checksums:  0" in tool(fleet, "pg_checksums", "--check", str(server.data_dir))


def test_replica_begins_without_any_wal(fleet: Fleet, template: Template) -> None:
    first = new_cluster(template)
    primary = fleet.server("p", data_dir=materialised(fleet, first, "p"))
    primary.start_blocking()
    data_dir = materialised(fleet, first, "s", has_wal=False)
    request_standby(data_dir, fleet.identity)
    conninfo = f"host={primary.run_dir} port={primary.port} user=postgres"
    settings = type(primary.settings)(extra={"primary_conninfo": conninfo})
    replica = fleet.server("s", data_dir=data_dir, settings=settings)
    replica.start_blocking()
    execute(primary, "create table t as select generate_series(1, 1000) as id")
    wait_for_replay(replica, value(primary, "select pg_current_wal_flush_lsn()"))
    assert value(replica, "select count(*) from t") == "1000"


def test_makers_at_the_same_time_make_one_template(fleet: Fleet) -> None:
    cache_dir = fleet.directory / "templates"
    with ThreadPoolExecutor(2) as threads:
        found = list(
            threads.map(
                lambda _: make_template(
                    fleet.binaries, cache_dir, identity=fleet.identity, options=OPTIONS
                ),
                range(2),
            )
        )
    assert found[0] == found[1]
    assert [path.name for path in cache_dir.iterdir()] == [found[0].data_dir.parent.name]
    assert new_cluster(found[0]).genesis.system_identifier != SystemIdentifier(0)
