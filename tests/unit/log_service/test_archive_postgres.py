"""What is archived are PostgreSQL's own WAL files: equal to its, and enough for its own recovery.

In scope: a primary, its promoted successor in the same branch, the segment in which one followed
the other, and a stock archive recovery across it. Out of scope: planning and storing as such.
"""

from pathlib import Path

import psycopg
import pytest
from fixtures.redo import one, settings
from fixtures.servers import Fleet
from fixtures.waiting import eventually

from fabric.ids import BranchName, ClusterName
from fabric.lsn import SEGMENT_BYTES_DEFAULT, Lsn, Tli, history_file_name, wal_file_name
from log_service.archive import restore_segment, upload
from log_service.archive_plan import (
    PARTIAL,
    ArchiveLayout,
    HistoryItem,
    SegmentItem,
    first_state,
    plan_archive,
)
from log_service.history import parse_history
from object_store.directory import DirectoryStore
from sqlnode.postgres import Postgres, request_standby

pytestmark = pytest.mark.postgres

LAYOUT = ArchiveLayout(
    cluster=ClusterName("blue"),
    branch=BranchName("main"),
    segment_bytes=SEGMENT_BYTES_DEFAULT,
    first_tli=Tli(1),
)
FILL = "insert into t select md5(i::text) from generate_series(1, 20000) i"


def write(server: Postgres, *statements: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def value(server: Postgres, query: str) -> str:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        return one(connection, query)


def read_wal_file(wal: Path, tli: Tli, lsn: Lsn, bytes_max: int) -> bytes:
    """As a log would: what the timeline's own server has at a position."""
    offset = lsn - lsn.segment_start()
    with (wal / wal_file_name(tli, lsn)).open("rb") as file:
        file.seek(offset)
        return file.read(min(bytes_max, SEGMENT_BYTES_DEFAULT - offset))


def test_a_stock_server_recovers_from_the_archive_across_a_promotion(
    fleet: Fleet, tmp_path: Path
) -> None:
    primary = fleet.server("primary", settings=settings(wal_keep_size="1GB"))
    start = primary.control().redo.segment_start()
    primary.start_blocking()
    write(primary, "create table t (a text)", FILL, "select pg_switch_wal()", FILL)
    primary.stop_blocking()
    request_standby(primary.data_dir, fleet.identity)
    primary.start_blocking()
    primary.promote_blocking()
    write(primary, FILL, FILL, "select pg_switch_wal()", FILL)
    committed = Lsn.parse(value(primary, "select pg_current_wal_flush_lsn()"))
    assert value(primary, "select count(*) from t") == "100000"

    wal = primary.data_dir / "pg_wal"
    history_file = (wal / history_file_name(Tli(2))).read_bytes()
    history = parse_history(Tli(2), history_file)
    store = DirectoryStore(tmp_path / "objects")
    items = plan_archive(
        LAYOUT,
        first_state(LAYOUT, history, start),
        history=history,
        history_files={Tli(2): history_file},
        committed=committed,
    )
    archive = fleet.directory / "archive"
    archive.mkdir()
    for item in items:
        upload(store, item, lambda *wanted: read_wal_file(wal, *wanted))
        name = item.name.rpartition("/")[2]
        match item:
            case HistoryItem():
                (archive / name).write_bytes(store.get(item.name))
            case SegmentItem():
                restore_segment(
                    store, item.name, archive / name, segment_bytes=SEGMENT_BYTES_DEFAULT
                )
        if not name.endswith(PARTIAL):
            assert (archive / name).read_bytes() == (wal / name).read_bytes()
    assert sum(name.name.endswith(PARTIAL) for name in archive.iterdir()) == 1

    fleet.identity.give_tree(archive)
    restored = fleet.server("restored", settings=settings(restore_command=f"cp {archive}/%f %p"))
    request = restored.data_dir / "recovery.signal"
    request.touch()
    fleet.identity.give(request)
    restored.start_blocking()
    eventually(lambda: value(restored, "select pg_is_in_recovery()::text") == "false")
    assert restored.control().tli == Tli(3)
    # The last rows are in a segment that is not whole, so it is not in the archive yet.
    assert value(restored, "select count(*) from t") == "80000"
