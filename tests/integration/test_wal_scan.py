"""The scanner finds in WAL of real servers exactly the checkpoints that pg_waldump shows.

In scope: every server to test, records that pages and segments cut, switches of segments,
shutdowns, rows that hold copies of checkpoint records. Out of scope: damage and forgeries, which
are in tests/unit/storage/test_wal_scan.py; where the WAL comes from.
"""

import random
import re
import subprocess
from dataclasses import dataclass
from itertools import pairwise

import psycopg
import pytest
from fixtures.servers import Fleet

from fabric.lsn import Lsn, parse_wal_file_name
from sqlnode.control_file import read_control_file
from sqlnode.postgres import InitdbOptions, Postgres, PostgresSettings, initdb
from storage.wal_records import CHECKPOINT_RECORD_BYTES, PAGE_BYTES
from storage.wal_scan import CheckpointFound, CheckpointScanner

pytestmark = pytest.mark.postgres

SEGMENT_BYTES = 1 << 20  # many boundaries of segments in little WAL
SETTINGS = {
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
    "wal_keep_size": "1GB",
}
DUMPED = re.compile(
    r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: CHECKPOINT_(SHUTDOWN|ONLINE) "
    r"redo ([0-9A-F]+/[0-9A-F]+); tli (\d+);"
)


@dataclass(frozen=True, slots=True)
class Dumped:
    """A checkpoint record as pg_waldump shows it."""

    start: Lsn
    redo: Lsn
    tli: int
    is_shutdown: bool


@pytest.fixture
def server(fleet: Fleet) -> Postgres:
    """A server with small segments."""
    data_dir = fleet.directory / "small"
    options = InitdbOptions(sync=False, wal_segment_mib=1)
    initdb(fleet.binaries, data_dir, identity=fleet.identity, options=options)
    server = fleet.server("small", data_dir=data_dir, settings=PostgresSettings(extra=SETTINGS))
    server.start_blocking()
    return server


def whole_wal(server: Postgres) -> tuple[Lsn, bytes]:
    """All WAL of a server, from its first segment to the end of its last.

    The first checkpoint that counts is the one that ends initdb. Before it postgres ran without a
    checkpointer, so that transactions made checkpoints, whose records have an xid.
    """
    names = sorted(p.name for p in (server.data_dir / "pg_wal").iterdir() if len(p.name) == 24)
    _, first = parse_wal_file_name(names[0], SEGMENT_BYTES)
    wal = b"".join((server.data_dir / "pg_wal" / name).read_bytes() for name in names)
    assert len(wal) == len(names) * SEGMENT_BYTES
    return first, wal


def dumped(server: Postgres) -> list[Dumped]:
    """What pg_waldump says of the checkpoints that the server made."""
    tool = server.binaries.tool("pg_waldump")
    wal = server.data_dir / "pg_wal"
    first, _ = whole_wal(server)
    argv = [str(tool), f"--path={wal}", "--rmgr=XLOG", f"--start={first}"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    # It ends with an error where WAL ends.
    assert "invalid record length" in done.stderr or "could not find" in done.stderr, done.stderr
    found = [
        Dumped(Lsn.parse(start), Lsn.parse(redo), int(tli), kind == "SHUTDOWN")
        for start, kind, redo, tli in DUMPED.findall(done.stdout)
    ]
    first_shutdown = next(n for n, checkpoint in enumerate(found) if checkpoint.is_shutdown)
    return found[first_shutdown:]


def scanned(start: Lsn, wal: bytes, piece_bytes: int = 1 << 20) -> list[CheckpointFound]:
    scanner = CheckpointScanner(SEGMENT_BYTES, start)
    found = []
    for offset in range(0, len(wal), piece_bytes):
        found += scanner.feed(start + offset, wal[offset : offset + piece_bytes])
    return found


def as_dumped(found: CheckpointFound) -> Dumped:
    return Dumped(found.start, found.redo, int(found.tli), found.is_shutdown)


def insert_lsn(connection: psycopg.Connection[tuple[str]]) -> Lsn:
    row = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return Lsn.parse(row[0])


def message(connection: psycopg.Connection[tuple[str]], size_bytes: int) -> None:
    """A record of about this length."""
    connection.execute(
        "select pg_logical_emit_message(false, '', repeat('x', %s))", [max(1, size_bytes)]
    )


def go_to_last_page_of_segment(connection: psycopg.Connection[tuple[str]]) -> None:
    here = insert_lsn(connection)
    pages = (SEGMENT_BYTES - here % SEGMENT_BYTES) // PAGE_BYTES
    if pages > 1:
        message(connection, pages * (PAGE_BYTES - 24) - PAGE_BYTES // 4)


def test_finds_what_pg_waldump_shows_wherever_pages_and_segments_cut_it(server: Postgres) -> None:
    rng = random.Random(7)
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("create table t (id int, filler text)")
        for round_ in range(240):
            if round_ % 4 == 0:
                go_to_last_page_of_segment(connection)
            # A few small records precede the checkpoint's; so some are cut, and others are not.
            left_bytes = PAGE_BYTES - insert_lsn(connection) % PAGE_BYTES
            message(connection, left_bytes - rng.randrange(40, 400))
            connection.execute("checkpoint")
            if round_ % 40 == 20:
                connection.execute("select pg_switch_wal()")
                connection.execute("checkpoint")
    server.stop_blocking()
    start, wal = whole_wal(server)
    found, wanted = scanned(start, wal), dumped(server)
    assert [as_dumped(checkpoint) for checkpoint in found] == wanted
    assert len(found) > 240
    cut = [c for c in found if c.end - c.start > CHECKPOINT_RECORD_BYTES + 6]
    assert {c.end - c.start - 120 for c in cut} == {24, 40}, "no page or no segment cut a record"
    assert scanned(start, wal, 997) == found
    assert found[-1].is_shutdown
    assert found[-1].start == read_control_file(server.data_dir).checkpoint


def test_finds_what_pg_waldump_shows_under_load(server: Postgres, fleet: Fleet) -> None:
    tool = str(server.binaries.tool("pgbench"))
    common = ["-h", str(server.run_dir), "-p", str(server.port), "-U", "postgres", "postgres"]
    options = fleet.identity.subprocess_options()
    subprocess.run(
        [tool, "-i", "-q", *common],
        check=True,
        capture_output=True,
        timeout=60,
        cwd=fleet.directory,
        env={},
        **options,
    )
    with (
        subprocess.Popen(
            [tool, "-c", "4", "-T", "60", "-n", *common],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=fleet.directory,
            env={},
            **options,
        ) as load,
        psycopg.connect(server.conninfo(), autocommit=True) as connection,
    ):
        try:
            for round_ in range(40):
                connection.execute("checkpoint")
                if round_ % 10 == 5:
                    connection.execute("select pg_switch_wal()")
        finally:
            load.kill()
    server.stop_blocking()
    start, wal = whole_wal(server)
    found = scanned(start, wal)
    assert [as_dumped(checkpoint) for checkpoint in found] == dumped(server)
    assert len(found) > 40
    assert scanned(start, wal, 4093) == found


def test_replay_stands_at_the_end_that_is_found(server: Postgres) -> None:
    ends = []
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        rng = random.Random(3)
        for _ in range(60):
            left_bytes = PAGE_BYTES - insert_lsn(connection) % PAGE_BYTES
            message(connection, left_bytes - rng.randrange(40, 400))
            connection.execute("checkpoint")
            ends.append(insert_lsn(connection))
    server.stop_blocking()
    found = scanned(*whole_wal(server))
    # An insert position is behind the header of a page where an end is before it.
    behind = {c.end if c.end % PAGE_BYTES else c.end + 24 for c in found}
    # The background writer may have logged something meanwhile, at most once in 15 s.
    assert len(set(ends) & behind) >= len(ends) - 2
    for before, after in pairwise(found):
        assert before.end <= after.start


def test_rows_with_copies_of_a_checkpoint_record_are_not_taken(server: Postgres) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute("checkpoint")
        start, wal = whole_wal(server)
        real = scanned(start, wal)[-1]
        assert real.end - real.start == 120, "a page cuts it"
        copy = wal[real.start - start : real.end - start]
        connection.execute("create table t (stored bytea)")
        connection.execute("alter table t alter stored set storage external")
        for padding in range(8):
            for _ in range(20):
                connection.execute("insert into t values (%s)", [bytes(padding) + copy * 5])
        connection.execute("checkpoint")
    server.stop_blocking()
    start, wal = whole_wal(server)
    copies = [m.start() for m in re.finditer(re.escape(copy), wal)]
    assert len([at for at in copies if at % 8 == 0]) > 50, "no copy lies where records do"
    assert [as_dumped(checkpoint) for checkpoint in scanned(start, wal)] == dumped(server)
