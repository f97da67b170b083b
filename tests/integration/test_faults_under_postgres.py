"""What users see when a fetch goes wrong: an error or a wait, never wrong data, never a hang.

In scope: a broker that is stopped, killed, restarted or gone; a source that is slow, short, damaged
or missing; a full disk; many backends at one block; input that is refused. The same failures at the
level of single calls are in tests/native.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from fixtures.redo import facts_of, settings
from fixtures.servers import Fleet

from sqlnode.datadir import Expectations, build_data_directory
from sqlnode.directory_source import describe_directory
from sqlnode.lazy_compute import BrokerProcessError, ComputeSpec, LazyCompute
from sqlnode.pagefault.block_map import BlockMap, BlockState, Waits
from sqlnode.postgres import InitdbOptions, Postgres, PostgresExitedError, initdb
from sqlnode.servers import PgVersion

pytestmark = pytest.mark.postgres

ROWS = 20_000
SUM = ROWS * (ROWS + 1) // 2
TOTAL = "select sum(id) from t where filler <> ''"  # needs every page of the table
BACKENDS = 200
ONE_ROW = f"select sum(id) from t where id = {ROWS // 2}".encode()
WAITING = "select count(*)::int from pg_stat_activity where lower(wait_event) ~ '^(buffer|aio)io'"
Connection = psycopg.AsyncConnection[tuple[object, ...]]
MOUNT, UMOUNT = "/bin/mount", "/bin/umount"
SHORT = Waits(link_ms=300, reply_ms=1_000, busy_ms=100)


@pytest.fixture
def image(fleet: Fleet) -> Path:
    """A cluster at rest, with a table `t` and an index, both of many blocks."""
    server = fleet.server("origin", settings=settings())
    server.start_blocking()
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(
            "create table t as select i id, repeat('x', 300) filler"
            f" from generate_series(1, {ROWS}) i"
        )
        connection.execute("create index t_id on t (id)")
        connection.execute("vacuum freeze t")
    server.stop_blocking()
    return server.data_dir


@pytest.fixture
def computes(fleet: Fleet) -> Iterator[list[LazyCompute]]:
    started: list[LazyCompute] = []
    yield started
    for compute in started:
        compute.broker.signal(signal.SIGCONT)
        compute.kill()


def boot(
    fleet: Fleet, image: Path, computes: list[LazyCompute], *, waits: Waits | None = None
) -> LazyCompute:
    compute = LazyCompute(
        ComputeSpec(
            binaries=fleet.binaries,
            run_dir=fleet.directory / f"c{len(computes)}",
            source_dir=image,
            identity=fleet.identity,
            settings=settings(),
            wal_dir=image / "pg_wal",
            standby=False,
            waits=waits,
        )
    )
    computes.append(compute)
    compute.start()
    return compute


def query(server: Postgres, statement: str) -> object:
    with facts_of(server).connect() as connection:
        row = connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]


def table_path(server: Postgres, name: str = "t") -> str:
    return str(query(server, f"select pg_relation_filepath('{name}')"))


@contextlib.asynccontextmanager
async def connected(server: Postgres, backends: int) -> AsyncIterator[list[Connection]]:
    """Connections that have planned the query already, so that only its blocks are missing."""
    async with contextlib.AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(server.conninfo(), autocommit=True)
            )
            for _ in range(backends)
        ]
        for connection in connections:
            await connection.execute(b"explain " + ONE_ROW)
        yield connections


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something in shared memory, which wakes nobody; the test's timeout ends it."""
    while not condition():  # noqa: ASYNC110  # see above
        await asyncio.sleep(0.01)


async def ask_all(connections: list[Connection], statement: bytes) -> list[object]:
    """The statement's value from each, asked at once."""
    cursors = await asyncio.gather(*(c.execute(statement) for c in connections))
    rows = await asyncio.gather(*(cursor.fetchone() for cursor in cursors))
    return [row[0] for row in rows if row is not None]


def test_two_hundred_backends_share_one_fetch(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    """One of them faults, the others wait for its buffer."""
    compute = boot(fleet, image, computes)

    async def ask(watch: psycopg.Connection[tuple[int]]) -> list[object]:
        def waiting() -> int:
            row = watch.execute(WAITING).fetchone()
            assert row is not None
            return row[0]

        async with connected(compute.postgres, BACKENDS) as connections:
            assert waiting() == 0
            compute.broker.signal(signal.SIGSTOP)
            asking = asyncio.create_task(ask_all(connections, ONE_ROW))
            await until(lambda: waiting() == BACKENDS - 1)
            compute.broker.signal(signal.SIGCONT)
            return await asking

    with facts_of(compute.postgres).connect() as watch:
        assert asyncio.run(ask(watch)) == [ROWS // 2] * BACKENDS
    assert query(compute.postgres, TOTAL) == SUM
    with compute.block_map() as block_map:
        counters = block_map.counters()
        missing = sum(slot.missing for slot in block_map.slots())
    claimed = counters["fault_blocks"] + counters["prefetch_blocks"]
    assert claimed + missing == all_blocks(image), "a block was fetched twice, or by nobody"


def all_blocks(image: Path) -> int:
    """How many blocks the cut has."""
    return sum(file.blocks for file in describe_directory(image).files)


def test_a_killed_broker_is_replaced_in_the_middle_of_faults(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes)

    async def ask(block_map: BlockMap) -> list[object]:
        async with connected(compute.postgres, 5) as connections:
            compute.broker.signal(signal.SIGSTOP)
            asking = asyncio.create_task(ask_all(connections, TOTAL.encode()))
            await until(lambda: any(has_claims(block_map, s.number) for s in block_map.slots()))
            compute.broker.kill()
            await asyncio.to_thread(compute.broker.start)
            return await asking

    with compute.block_map() as block_map:
        assert asyncio.run(ask(block_map)) == [SUM] * 5


def has_claims(block_map: BlockMap, number: int) -> bool:
    slot = block_map.slot(number)
    return slot is not None and any(
        BlockState.BUSY in block_map.state(number, block) for block in range(slot.missing)
    )


def test_without_a_broker_reads_fail_and_the_server_lives(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes, waits=SHORT)
    assert query(compute.postgres, "select count(*) from pg_class where relname = 't'") == 1
    with facts_of(compute.postgres).connect() as connection:
        compute.broker.kill()
        with pytest.raises(psycopg.errors.IoError, match="Input/output error"):
            connection.execute(TOTAL)
        assert connection.execute("select 1").fetchone() == (1,)
        compute.broker.start()
        assert connection.execute(TOTAL).fetchone() == (SUM,)
    assert "no agent listens; start it again" in compute.postgres.log_path.read_text()


def test_a_stopped_broker_is_waited_for_and_then_given_up(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes, waits=SHORT)
    with facts_of(compute.postgres).connect() as connection:
        connection.execute("select count(*) from pg_class, pg_attribute where false")
        compute.broker.signal(signal.SIGSTOP)
        with pytest.raises(psycopg.errors.IoError):
            connection.execute(TOTAL)
        compute.broker.signal(signal.SIGCONT)
        assert connection.execute(TOTAL).fetchone() == (SUM,)
    assert "did not answer in time" in compute.postgres.log_path.read_text()


def test_garbage_from_the_source_is_caught_by_its_checksum(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes)
    path = image / table_path(compute.postgres)
    sound = path.read_bytes()
    path.write_bytes(sound[:5000] + b"garbage" + sound[5007:])
    with facts_of(compute.postgres).connect() as connection:
        with pytest.raises(psycopg.errors.IoError):
            connection.execute(TOTAL)
        assert connection.execute(
            "select max(id) from t where id > 19000 and filler <> ''"
        ).fetchone() == (ROWS,)
        path.write_bytes(sound)
        assert connection.execute(TOTAL).fetchone() == (SUM,)
    assert "wrong checksum" in compute.postgres.log_path.read_text()
    assert "block 0 with a wrong checksum" in compute.broker.log_path.read_text()


@pytest.mark.parametrize("kind", ["short", "missing"])
def test_a_source_file_that_is_not_whole_is_an_error(
    fleet: Fleet, image: Path, computes: list[LazyCompute], kind: str
) -> None:
    compute = boot(fleet, image, computes)
    path = image / table_path(compute.postgres)
    sound = path.read_bytes()
    if kind == "short":
        os.truncate(path, 8192)
    else:
        path.unlink()
    with facts_of(compute.postgres).connect() as connection:
        with pytest.raises(psycopg.errors.IoError):
            connection.execute(TOTAL)
        path.write_bytes(sound)
        fleet.identity.give(path)
        assert connection.execute(TOTAL).fetchone() == (SUM,)
    assert "restore the file from a backup" in compute.broker.log_path.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_an_error_and_room_mends_it(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    run_dir = fleet.directory / "c0"
    run_dir.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(run_dir)], check=True)
    try:
        compute = boot(fleet, image, computes)
        with facts_of(compute.postgres).connect() as connection:
            fill_up(run_dir / "ballast")
            with pytest.raises(psycopg.Error, match="No space left on device"):
                connection.execute(TOTAL)
            (run_dir / "ballast").unlink()
            assert connection.execute(TOTAL).fetchone() == (SUM,)
        compute.kill()
    finally:
        for compute in computes:
            compute.kill()
        subprocess.run([UMOUNT, str(run_dir)], check=True)


def fill_up(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            continue


def test_tablespaces_with_a_directory_are_refused(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes)
    directory = fleet.directory / "elsewhere"
    fleet.identity.make_directory(directory)
    with facts_of(compute.postgres).connect() as connection:
        with pytest.raises(psycopg.Error, match="Operation not permitted"):
            connection.execute(f"create tablespace far location '{directory}'")
        connection.execute("create tablespace near location ''")
    assert "use SET allow_in_place_tablespaces = on and LOCATION ''" in (
        compute.postgres.log_path.read_text()
    )


def test_another_cluster_or_version_is_refused(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    def refusal(**changed: object) -> str:
        values: dict[str, object] = {
            "binaries": fleet.binaries,
            "run_dir": fleet.directory / f"refused{len(computes)}",
            "source_dir": image,
            "identity": fleet.identity,
            "settings": settings(),
        }
        compute = LazyCompute(ComputeSpec(**(values | changed)))  # type: ignore[arg-type]  # a test's short cut
        computes.append(compute)
        with pytest.raises(BrokerProcessError) as refused:
            compute.prepare()
        assert not compute.paths.block_map.exists()
        return str(refused.value)

    assert "it belongs to another cluster" in refusal(system_identifier=1)
    assert "is no data directory (no global/pg_control)" in refusal(source_dir=fleet.directory)
    other = PgVersion(18 if fleet.binaries.version.major != 18 else 15, 1)
    with pytest.raises(Exception, match="use a server of its own major"):
        build_data_directory(
            describe_directory(image), computes[0].paths, Expectations(server_version=other)
        )


def test_a_damaged_map_stops_the_server_with_a_sentence(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes)
    compute.stop()
    with compute.paths.block_map.open("r+b") as block_map:
        block_map.seek(24)
        block_map.write(b"\xff")
    with pytest.raises(PostgresExitedError, match="is damaged; rebuild the data directory"):
        compute.postgres.start_blocking()
    with pytest.raises(BrokerProcessError, match="is damaged; rebuild the data directory"):
        compute.broker.start()


def test_a_lazy_directory_does_not_start_without_the_library(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    """By hand, with pg_ctl or postgres alone: no configuration file, so no start, so no zeros."""
    compute = boot(fleet, image, computes)
    compute.stop()
    started = subprocess.run(
        [str(fleet.binaries.postgres), "-D", str(compute.paths.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        **fleet.identity.subprocess_options(),
    )
    assert started.returncode != 0
    assert "postgresql.conf" in started.stderr


def test_a_second_broker_is_refused(fleet: Fleet, image: Path, computes: list[LazyCompute]) -> None:
    compute = boot(fleet, image, computes)
    second = LazyCompute(compute.spec)
    with pytest.raises(BrokerProcessError, match="is served by another agent"):
        second.broker.start()
    assert query(compute.postgres, TOTAL) == SUM


def test_what_postgres_starts_is_clean(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    """COPY PROGRAM inherits neither the library nor a descriptor of it."""
    compute = boot(fleet, image, computes)
    with facts_of(compute.postgres).connect() as connection:
        connection.execute("create temp table seen (line text)")
        connection.execute("copy seen from program 'env; ls -l /proc/self/fd; cat /proc/self/maps'")
        found = connection.execute(
            "select line from seen where line ~ 'LD_PRELOAD|SEAWALL|pagefault|block_map|agent.sock'"
        ).fetchall()
    assert found == []


def test_a_compute_is_removed_with_its_directory(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    """Everything it has is below its run directory."""
    compute = boot(fleet, image, computes)
    compute.kill()
    shutil.rmtree(compute.paths.root)
    again = boot(fleet, image, computes)
    assert query(again.postgres, TOTAL) == SUM


def test_a_restarted_broker_refuses_the_source_of_another_cluster(
    fleet: Fleet, image: Path, computes: list[LazyCompute]
) -> None:
    compute = boot(fleet, image, computes)
    compute.broker.kill()
    other = fleet.directory / "other"
    initdb(fleet.binaries, other, identity=fleet.identity, options=InitdbOptions(sync=False))
    misled = LazyCompute(replace(compute.spec, source_dir=other))
    with pytest.raises(BrokerProcessError, match="it belongs to another cluster"):
        misled.broker.start()
    compute.broker.start()
    assert query(compute.postgres, TOTAL) == SUM
