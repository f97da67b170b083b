"""The judges of the fault tests, proven on stock PostgreSQL: they accept what is sound, only that.

A stock primary with a stock synchronous standby is killed under writers. What the standby has on
its disk then plays the part of the log: a fresh server that replays it must have every acknowledged
row.

In scope: writers and their journals, recovery from bare WAL, the judgement of rows.
Out of scope: our log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest
from fixtures.log_checker import log_findings, wal_end, wal_image
from fixtures.log_reading import read_log
from fixtures.redo import one, settings
from fixtures.waiting import eventually
from fixtures.wal_recovery import WalImage, copy_wal_directory, recover

from bench.log.sides import synchronous
from bench.log.writers import Row, create_table, row_findings, rows_of, writing
from fabric.lsn import Lsn, Tli, parse_wal_file_name
from log_service.disk_settings import DiskSettings
from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.record import RECORD_BODY_BYTES_MAX, Kind, make_record
from sqlnode.postgres import request_standby

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.servers import Fleet

    from bench.log.writers import Journal
    from sqlnode.postgres import Postgres

# With the tests that they judge for.
pytestmark = [pytest.mark.postgres, pytest.mark.faults]

CUT_BYTES = 100_000
ROWS = 1500  # some 200 bytes of WAL each: more than is cut


def synchronous_pair(fleet: Fleet) -> tuple[Postgres, Postgres]:
    """A primary whose commits wait for a standby, and the standby."""
    primary = fleet.server("p", settings=settings())
    primary.start_blocking()
    data_dir = fleet.make_cluster("s")
    request_standby(data_dir, fleet.identity)
    conninfo = f"{primary.conninfo()} application_name=s"
    standby = fleet.server("s", data_dir=data_dir, settings=settings(primary_conninfo=conninfo))
    standby.start_blocking()
    synchronous(primary, "s", streams=1)
    return primary, standby


class Killed(NamedTuple):
    """What is left of a pair that was killed under writers; not to be changed."""

    image: WalImage  # the standby's WAL
    end: Lsn  # about where it ends
    journal: Journal  # what was acknowledged


@pytest.fixture(scope="module")
def killed(shared_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("killed")
    primary, standby = synchronous_pair(shared_fleet)
    create_table(primary.conninfo())
    with writing(directory, primary.conninfo(), writers=3) as writers:
        writers.wait_for_more(ROWS)
        primary.kill_blocking()
        with psycopg.connect(standby.conninfo(), autocommit=True) as connection:
            end = Lsn.parse(one(connection, "select pg_last_wal_receive_lsn()"))
        standby.kill_blocking()
    image = WalImage(directory / "wal")
    copy_wal_directory(standby.data_dir / "pg_wal", image)
    return Killed(image, end, writers.journal())


def test_acknowledged_rows_are_in_what_the_standby_flushed(fleet: Fleet, killed: Killed) -> None:
    journal = killed.journal
    recovered = recover(fleet, "recovered", killed.image)
    assert len(journal.acknowledged) >= ROWS
    assert not journal.warned
    assert row_findings(journal, rows_of(recovered.conninfo())) == []


def test_wal_cut_before_its_end_is_found_out(fleet: Fleet, killed: Killed, tmp_path: Path) -> None:
    image = WalImage(tmp_path / "wal")
    copy_wal_directory(killed.image.directory, image)
    image.erase_from(Tli(1), Lsn(killed.end - CUT_BYTES))
    recovered = recover(fleet, "recovered", image)
    (finding,) = row_findings(killed.journal, rows_of(recovered.conninfo()))
    assert "acknowledged rows are lost" in finding


def write_log(directory: Path, image: WalImage, end: Lsn) -> None:
    """A node's log with the image's WAL in it, as the pieces that a walsender sends."""
    log = GroupLog.create(directory, DiskSettings(), member=1, snapshot=LogStart(index=0, term=0))
    index = 0
    for path in sorted(image.directory.glob("0*")):
        tli, lsn = parse_wal_file_name(path.name)
        content = path.read_bytes()[: max(0, end - lsn)]
        records = []
        for at in range(0, len(content), RECORD_BODY_BYTES_MAX):
            index += 1
            body = content[at : at + RECORD_BODY_BYTES_MAX]
            records.append(
                make_record(
                    index=index, term=1, prev_term=min(index - 1, 1), kind=Kind.WAL,
                    tli=tli, lsn=lsn + at, body=body,
                )
            )  # fmt: skip
        if records:
            log.append(records)
            log.sync()
    log.close()


def test_log_on_disk_is_judged_as_its_wal_is(fleet: Fleet, killed: Killed, tmp_path: Path) -> None:
    image, end, journal = killed
    for name, kept in {"whole": end, "cut": Lsn(end - CUT_BYTES)}.items():
        write_log(tmp_path / name, image, kept)
        log = read_log(name, tmp_path / name)
        assert log_findings([log]) == []
        assert wal_end(log.records) == (Tli(1), kept)
        recovered = recover(fleet, name, wal_image(log.records, tmp_path / f"{name}-wal"))
        is_sound = row_findings(journal, rows_of(recovered.conninfo())) == []
        assert is_sound == (name == "whole")


def test_faked_acknowledgement_is_found_out(killed: Killed) -> None:
    journal = killed.journal
    faked: Row = (99, 1)
    rows = journal.acknowledged - {min(journal.acknowledged)} | {faked}
    lost, foreign = row_findings(journal, rows)
    assert lost.startswith("1 of")
    assert foreign.startswith("1 rows are there that nobody wrote: [(99, 1)]")


def test_commit_without_quorum_is_never_noted_as_acknowledged(fleet: Fleet, tmp_path: Path) -> None:
    """A commit that waits is no acknowledgement, and neither is one whose waiting was cancelled."""
    primary, standby = synchronous_pair(fleet)
    create_table(primary.conninfo())
    with writing(tmp_path, primary.conninfo(), writers=1) as writers:
        writers.wait_for_more(50)
        standby.kill_blocking()
        waiting = "select pid from pg_stat_activity where wait_event = 'SyncRep'"
        with psycopg.connect(primary.conninfo(), autocommit=True) as connection:
            eventually(lambda: connection.execute(waiting.encode()).fetchall())
            before = writers.journal()
            connection.execute(f"select pg_cancel_backend(pid) from ({waiting}) w".encode())
            eventually(lambda: writers.journal().warned)
    after = writers.journal()
    assert after.acknowledged == before.acknowledged
    assert not after.warned & after.acknowledged
