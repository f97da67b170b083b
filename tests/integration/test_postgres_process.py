"""PostgreSQL as a child process, for real: it starts, is promoted, stops, dies, and is told apart.

In scope: life and death of the process, promotion, preloading a library.
Out of scope: what is in the configuration, see test_postgres_configuration.py; faulting blocks.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from fixtures.servers import Fleet

from sqlnode.postgres import (
    Mode,
    Postgres,
    PostgresError,
    PostgresExitedError,
    PostgresSettings,
    PostgresTimeoutError,
    Preload,
    SettingsError,
    StopMode,
    request_standby,
)
from sqlnode.privileges import Identity

pytestmark = pytest.mark.postgres


def query(server: Postgres, sql: str, *, user: str = "postgres") -> object:
    with psycopg.connect(server.conninfo(user=user), autocommit=True) as connection:
        row = connection.execute(sql.encode()).fetchone()
        assert row is not None
        return row[0]


def execute(server: Postgres, sql: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(sql.encode())


# Start and stop.


def test_start_returns_when_connections_are_accepted(fleet: Fleet) -> None:
    async def story() -> None:
        server = fleet.server("primary")
        await server.start()
        assert server.mode() is Mode.READ_WRITE
        assert query(server, "select 1") == 1
        assert await server.stop() == 0
        assert server.mode() is Mode.STOPPED

    asyncio.run(story())


def test_server_starts_again_after_each_way_to_stop(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    execute(server, "create table counted (n int)")
    for how in StopMode:
        execute(server, "insert into counted values (1)")
        server.stop_blocking(how)
        assert not server.running
        server.start_blocking()
    assert query(server, "select count(*) from counted") == len(StopMode)


def test_server_that_runs_cannot_be_started_twice(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    with pytest.raises(PostgresError, match="runs already"):
        server.start_blocking()
    assert query(server, "select 1") == 1


def test_two_servers_cannot_share_a_data_directory(fleet: Fleet) -> None:
    first = fleet.server("primary")
    first.start_blocking()
    second = fleet.server("second", data_dir=first.data_dir)
    with pytest.raises(PostgresExitedError, match=r"lock file \"postmaster.pid\" already exists"):
        second.start_blocking()
    assert query(first, "select 1") == 1


def test_stale_lock_file_is_no_sign_of_life(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    server.kill_blocking()
    assert (server.data_dir / "postmaster.pid").exists()
    assert server.mode() is Mode.STOPPED
    server.start_blocking()
    assert server.mode() is Mode.READ_WRITE


def test_start_that_fails_quotes_the_log_and_leaves_nothing(fleet: Fleet) -> None:
    settings = PostgresSettings(extra={"shared_preload_libraries": "no_such_library"})
    server = fleet.server("primary", settings=settings)
    with pytest.raises(PostgresExitedError, match=r"exited with status 1.*no_such_library"):
        server.start_blocking()
    assert not server.running


def test_start_that_takes_too_long_leaves_nothing(fleet: Fleet) -> None:
    server = fleet.server("primary")
    with pytest.raises(PostgresTimeoutError, match="did not accept connections within 0 s"):
        server.start_blocking(deadline_s=0)
    assert not server.running
    assert server.exit_status == -signal.SIGKILL


def test_cancelled_start_leaves_nothing(fleet: Fleet) -> None:
    async def story() -> None:
        server = fleet.server("primary")
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        pid = server.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not server.running
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(story())


def test_smart_stop_times_out_while_a_client_stays(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    with psycopg.connect(server.conninfo()):
        with pytest.raises(PostgresTimeoutError, match="did not shut down"):
            server.stop_blocking(StopMode.SMART, deadline_s=0.1)
        assert server.running
    server.stop_blocking()


def test_plain_start_of_the_data_directory_fails(fleet: Fleet) -> None:
    """Without the preload library PostgreSQL would read blocks that are not there."""
    server = fleet.server("primary")
    server.start_blocking()
    server.stop_blocking()
    result = subprocess.run(
        [fleet.binaries.postgres, "-D", server.data_dir],
        check=False,
        capture_output=True,
        env={},
        cwd="/",
        timeout=60,
        **fleet.identity.subprocess_options(),
    )
    assert result.returncode != 0
    assert b"could not access the server configuration file" in result.stderr


# Death.


def test_kill_leaves_neither_backend_nor_shared_memory(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    memory_id = shared_memory_id(server)
    assert memory_id in shared_memory_ids()
    with psycopg.connect(server.conninfo()) as connection:
        backend = connection.info.backend_pid
        ours = shared_memory_files(server)
        server.kill_blocking()
        assert server.exit_status == -signal.SIGKILL
        # The dead may stay for a moment as zombies of init, but they hold nothing any more.
        assert not runs(backend)
    assert not [path for path in ours if path.exists()]
    assert memory_id not in shared_memory_ids()


def shared_memory_files(server: Postgres) -> list[Path]:
    """The control segment, which the postmaster maps, and those that it lists."""
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    (control,) = {Path(name) for name in re.findall(r"/\S+/PostgreSQL\.\d+", maps)}
    content = control.read_bytes()
    # The item is a handle, a reference count, ...; its size depends on the major.
    count = int.from_bytes(content[4:8], "little")
    words = {int.from_bytes(content[at : at + 4], "little") for at in range(8, len(content), 4)}
    listed = [control.with_name(f"PostgreSQL.{word}") for word in words]
    listed = [path for path in listed if path.exists()]
    assert len(listed) == count > 0
    return [control, *listed]


def shared_memory_id(server: Postgres) -> int:
    lines = (server.data_dir / "postmaster.pid").read_text().splitlines()
    return int(lines[6].split()[1])


def shared_memory_ids() -> set[int]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(line.split()[1]) for line in lines}


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_crashed_backend_ends_the_server(fleet: Fleet) -> None:
    async def story() -> None:
        server = fleet.server("primary")
        await server.start()
        watching = asyncio.create_task(server.wait_exit(60))
        victim = query(server, "select pid from pg_stat_activity where backend_type='checkpointer'")
        assert isinstance(victim, int)
        os.kill(victim, signal.SIGSEGV)
        assert await watching == 1
        assert server.mode() is Mode.STOPPED

    asyncio.run(story())


def test_dead_server_cannot_be_signalled(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    server.kill_blocking()
    server.kill_blocking()  # harmless
    with pytest.raises(PostgresExitedError, match="does not run"):
        server.stop_blocking()


def test_several_tasks_may_wait_for_one_server(fleet: Fleet) -> None:
    async def story() -> None:
        server = fleet.server("primary")
        await server.start()
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(server.wait_exit()) for _ in range(3)]
            await server.stop()
        assert [task.result() for task in waiting] == [0, 0, 0]

    asyncio.run(story())


# Promotion.


def test_standby_is_read_only_until_it_is_promoted(fleet: Fleet) -> None:
    async def story() -> None:
        server = fleet.server("standby")
        request_standby(server.data_dir, fleet.identity)
        await server.start()
        assert server.mode() is Mode.READ_ONLY
        assert query(server, "select pg_is_in_recovery()") is True
        before = server.control()
        await server.promote()
        assert server.mode() is Mode.READ_WRITE
        execute(server, "create table written (n int)")
        assert not (server.data_dir / "promote").exists()
        await server.stop()
        assert server.control().tli == before.tli + 1

    asyncio.run(story())


def test_a_postmaster_that_looks_before_it_is_signalled_promotes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does when its WAL receiver ends at that moment: the request is gone at once."""
    server = fleet.server("standby")
    request_standby(server.data_dir, fleet.identity)
    server.start_blocking()
    give = Identity.give

    def give_late(identity: Identity, path: Path) -> None:
        os.kill(server.pid, signal.SIGUSR1)
        time.sleep(1.0)
        give(identity, path)

    monkeypatch.setattr(Identity, "give", give_late)
    server.promote_blocking()
    assert server.mode() is Mode.READ_WRITE
    assert not list(server.data_dir.glob("promote*"))


def test_primary_cannot_be_promoted(fleet: Fleet) -> None:
    server = fleet.server("primary")
    server.start_blocking()
    with pytest.raises(PostgresError, match="is no standby but in production"):
        server.promote_blocking()
    assert not (server.data_dir / "promote").exists()


# Preloading.


@pytest.fixture
def tracing_library(tmp_path: Path) -> Path:
    """A library that says in the log that it was loaded."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "trace.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void f(void)"
        '{ const char *w = getenv("TRACE_WORD"); fprintf(stderr, "loaded %s\\n", w ? w : "?"); }\n'
    )
    library = tmp_path / "libtrace.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return library


def test_library_is_preloaded_with_its_environment(fleet: Fleet, tracing_library: Path) -> None:
    """pytest's temporary directory is private to us: postgres's user gets a copy of the library."""
    preload = Preload(library=tracing_library, environment={"TRACE_WORD": "once"})
    server = fleet.server("primary", preload=preload)
    server.start_blocking()
    assert "loaded once" in server.log_path.read_text()
    assert query(server, "select 1") == 1


def test_start_without_the_library_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    """The dynamic loader goes on without a library that it cannot load; we must not."""
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"no library")
    server = fleet.server("primary", preload=Preload(library=broken))
    with pytest.raises(PostgresError, match=r"runs without .*libbroken\.so"):
        server.start_blocking()
    assert not server.running
    missing = fleet.server("missing", preload=Preload(library=tmp_path / "none.so"))
    with pytest.raises(SettingsError, match="does not exist"):
        missing.start_blocking()
