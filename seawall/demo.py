"""The lazy-boot demonstration: what one mechanism does, on one machine, in ten seconds.

    1. a primary loads a table; a redo engine follows it and harvests changed blocks into an image
    2. more transactions, then kill -9: the primary and all of its files are gone
    3. a compute with an empty disk boots from the image and the tail of the WAL, is promoted, and
       has every row, while most of its blocks are still where they were

Everything lives in one directory below the temporary one and is removed at the end.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlnode.harvest import Harvester
from sqlnode.image import Image
from sqlnode.lazy_compute import BrokerProcessError, ComputeSpec, LazyCompute
from sqlnode.pagefault.block_map import BLOCK_BYTES
from sqlnode.postgres import InitdbOptions, Postgres, PostgresError, PostgresSettings, initdb
from sqlnode.privileges import Identity, choose_identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries

from .sql import Session

REPLAY_DEADLINE_S = 60.0
TAIL_INSERTS = 20_000
TOTAL = "select sum(balance) from account"


class DemoError(Exception):
    """The demonstration could not be shown, or showed something wrong."""


@dataclass(slots=True)
class _Stage:
    """Who plays."""

    server: ServerBinaries
    identity: Identity
    directory: Path
    rows: int

    def settings(self, **extra: str) -> PostgresSettings:
        """Small memory, so that pages have to come from the files."""
        return PostgresSettings(
            extra={"shared_buffers": "32MB", "autovacuum": "off", "wal_keep_size": "4GB", **extra}
        )


def run_demo(server: ServerBinaries, *, rows: int) -> None:
    """Show it; prints what happens with the times it took."""
    identity = choose_identity()
    directory = Path(tempfile.mkdtemp(prefix="seawall-"))
    try:
        identity.give(directory)
        server = runnable_server(server, identity)
        _say(f"{server}, as user {identity.name}, below {directory}")
        _play(_Stage(server, identity, directory, rows))
    except (PostgresError, BrokerProcessError) as error:
        raise DemoError(f"the demonstration stopped: {error}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _play(stage: _Stage) -> None:
    image = stage.directory / "image"
    with _primary(stage, image) as primary:
        wal = _load_and_harvest(stage, primary, image)
        expected = _work_on(stage, primary)
        primary.kill_blocking()
        tail = stage.directory / "wal"
        shutil.copytree(wal, tail)
        shutil.rmtree(primary.data_dir)
    _say("the primary was killed with kill -9, and its data directory deleted")
    _boot_replacement(stage, image, tail, expected)


@contextlib.contextmanager
def _primary(stage: _Stage, image: Path) -> Iterator[Postgres]:
    """A fresh cluster, with a copy of it as the image's first state."""
    data_dir = stage.directory / "primary" / "data"
    stage.identity.make_directory(data_dir.parent)
    initdb(stage.server, data_dir, identity=stage.identity, options=InitdbOptions(sync=False))
    shutil.copytree(data_dir, image)
    stage.identity.give_tree(image)
    primary = Postgres(
        binaries=stage.server,
        data_dir=data_dir,
        run_dir=data_dir.parent,
        identity=stage.identity,
        settings=stage.settings(),
    )
    primary.start_blocking()
    try:
        yield primary
    finally:
        primary.kill_blocking()


def _load_and_harvest(stage: _Stage, primary: Postgres, image: Path) -> Path:
    """Load a table; have a redo engine bring the image to the state after it; P's WAL directory."""
    engine = LazyCompute(
        ComputeSpec(
            binaries=stage.server,
            run_dir=stage.directory / "engine",
            source_dir=image,
            identity=stage.identity,
            settings=stage.settings(primary_conninfo=f"{primary.conninfo()} application_name=redo"),
            wal_dir=image / "pg_wal",
            tracks_changes=True,
        )
    )
    try:
        engine.start()
        with Session(primary) as session:
            session.run(
                "create table account (id int primary key, balance int, filler text)",
                "insert into account select i, 100, repeat('-', 80)"
                f" from generate_series(1, {stage.rows}) i",
                "vacuum account",
                "checkpoint",
            )
            end = session.value("select pg_current_wal_flush_lsn()::text")
        _say(f"a primary has loaded {stage.rows:,} rows")
        with Session(engine.postgres) as session:
            _until_true(session, f"select pg_last_wal_replay_lsn() >= '{end}'")
            session.run("checkpoint")
        _harvest(engine, image)
    finally:
        engine.kill()
    return primary.data_dir / "pg_wal"


def _harvest(engine: LazyCompute, image: Path) -> None:
    started = time.perf_counter()
    with engine.block_map() as block_map:
        harvester = Harvester(block_map, engine.paths.data)
        harvest = harvester.take()
        Image(image).apply(harvest, engine.paths.data)
        harvester.commit()
    megabytes = harvest.changed_blocks * BLOCK_BYTES / 1e6
    _say(
        f"the redo engine harvested {harvest.changed_blocks:,} changed blocks ({megabytes:.0f} MB)"
        f" into the image in {time.perf_counter() - started:.2f} s"
    )


def _work_on(stage: _Stage, primary: Postgres) -> object:
    """The tail: transactions that no image has; what they add up to."""
    with Session(primary) as session:
        session.run(
            f"update account set balance = balance + 1 where id % {stage.rows // 1000} = 0",
            "insert into account select i, 7, repeat('-', 80)"
            f" from generate_series({stage.rows + 1}, {stage.rows + TAIL_INSERTS}) i",
        )
        total = session.value(TOTAL)
    _say(f"it committed more behind the image; its balances add up to {total:,}")
    return total


def _boot_replacement(stage: _Stage, image: Path, wal: Path, expected: object) -> None:
    compute = LazyCompute(
        ComputeSpec(
            binaries=stage.server,
            run_dir=stage.directory / "compute",
            source_dir=image,
            identity=stage.identity,
            settings=stage.settings(),
            wal_dir=wal,
        )
    )
    try:
        started = time.perf_counter()
        compute.prepare()
        prepared = time.perf_counter()
        compute.postgres.start_blocking()
        readable = time.perf_counter()
        compute.promote()
        writable = time.perf_counter()
        _say(
            f"a compute with an empty disk: directory built in {_ms(started, prepared)}, reads "
            f"after {_ms(started, readable)}, writes after {_ms(started, writable)}"
        )
        _inspect(compute, expected)
    finally:
        compute.kill()


def _inspect(compute: LazyCompute, expected: object) -> None:
    blocks = _blocks(compute)
    _say(f"it holds {_missing_share(compute, blocks)} of its blocks")
    with Session(compute.postgres) as session:
        started = time.perf_counter()
        row = session.value("select balance from account where id = 1000")
        _say(f"one row by its key ({row}): {_ms(started, time.perf_counter())}")
        started = time.perf_counter()
        total = session.value(TOTAL)
        _say(f"all balances, every page faulting in: {_ms(started, time.perf_counter())}")
    if total != expected:
        raise DemoError(f"the balances add up to {total} and should to {expected}: data was lost")
    _say(f"they add up to {total:,}: nothing was lost")
    _say(f"now it holds {_missing_share(compute, blocks)}")


def _blocks(compute: LazyCompute) -> int:
    with compute.block_map() as block_map:
        paths = [slot.path for slot in block_map.slots() if slot.is_live]
    return sum((compute.paths.data / path).stat().st_size for path in paths) // BLOCK_BYTES


def _missing_share(compute: LazyCompute, blocks: int) -> str:
    with compute.block_map() as block_map:
        missing = sum(slot.missing for slot in block_map.slots())
    return f"{1 - missing / blocks:.0%}"


def _until_true(session: Session, query: str) -> None:
    deadline = time.monotonic() + REPLAY_DEADLINE_S
    while session.value(query) is not True:
        if time.monotonic() > deadline:
            raise DemoError(f"the redo engine did not get there within {REPLAY_DEADLINE_S:.0f} s")
        time.sleep(0.01)


def _ms(start: float, end: float) -> str:
    return f"{(end - start) * 1000:.0f} ms"


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)
