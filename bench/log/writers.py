"""Writers that note what was acknowledged, from the side of whoever starts and judges them.

    with writing(directory, conninfo, writers=2) as writers:
        writers.wait_for_more(100)      # rows acknowledged from now on
        ...                             # something breaks meanwhile
    journal = writers.journal()         # acknowledged, warned, possible rows; the pauses

The processes are killed at the end: a writer that waits for a quorum waits for ever.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench.node_process import INHERITED

from .writer_process import TABLE

POLL_S: Final = 0.005
MORE_DEADLINE_S: Final = 30.0

CREATE_TABLE: Final = f"create table {TABLE} (writer int, n int, primary key (writer, n))"

Row = tuple[int, int]  # writer, n


class WritersStuckError(Exception):
    """Rows that should have been acknowledged were not, in time."""


@dataclass(frozen=True, slots=True)
class Journal:
    """What writers have noted."""

    attempted: frozenset[Row]
    acknowledged: frozenset[Row]
    warned: frozenset[Row]  # PostgreSQL acknowledged it without waiting for the log, and said so
    failed: frozenset[Row]
    acknowledged_at_ns: tuple[int, ...]  # ascending

    def longest_pause_s(self, *, after_ns: int = 0) -> float:
        """The longest time between two acknowledgements of which the later is after a moment."""
        times = self.acknowledged_at_ns
        pauses = [b - a for a, b in itertools.pairwise(times) if b > after_ns]
        return max(pauses, default=0) / 1e9


def parse_journals(journals: Sequence[tuple[int, str]]) -> Journal:
    """Read journals by writer; a last line that is not complete yet does not count."""
    rows: dict[str, set[Row]] = {"try": set(), "ack": set(), "warn": set(), "fail": set()}
    times = []
    for writer, text in journals:
        for line in text.split("\n")[:-1]:
            what, number, at_ns = line.split(" ")
            rows[what].add((writer, int(number)))
            if what == "ack":
                times.append(int(at_ns))
    return Journal(
        attempted=frozenset(rows["try"]),
        acknowledged=frozenset(rows["ack"]),
        warned=frozenset(rows["warn"]),
        failed=frozenset(rows["fail"]),
        acknowledged_at_ns=tuple(sorted(times)),
    )


def merged(journals: Sequence[Journal]) -> Journal:
    """What several groups of writers have noted together."""
    return Journal(
        attempted=frozenset[Row]().union(*(j.attempted for j in journals)),
        acknowledged=frozenset[Row]().union(*(j.acknowledged for j in journals)),
        warned=frozenset[Row]().union(*(j.warned for j in journals)),
        failed=frozenset[Row]().union(*(j.failed for j in journals)),
        acknowledged_at_ns=tuple(sorted(t for j in journals for t in j.acknowledged_at_ns)),
    )


class Writers:
    """The running processes. Their numbers begin at `first`, so that groups can be told apart."""

    def __init__(self, directory: Path, conninfo: str, *, writers: int, first: int) -> None:
        self._target = directory / f"target-{first}"
        self._journals = {
            writer: directory / f"journal-{writer}" for writer in range(first, first + writers)
        }
        self.direct(conninfo)
        self._processes = [self._spawn(writer) for writer in self._journals]

    def direct(self, conninfo: str) -> None:
        """Where the writers connect from now on; connections that are open stay."""
        aside = self._target.with_suffix(".new")
        aside.write_text(conninfo, encoding="utf-8")
        aside.replace(self._target)

    def journal(self) -> Journal:
        """What they have noted so far."""
        return parse_journals(
            [(w, path.read_text() if path.exists() else "") for w, path in self._journals.items()]
        )

    def acknowledged_count(self) -> int:
        """How many rows were acknowledged so far."""
        texts = (path.read_bytes() for path in self._journals.values() if path.exists())
        return sum(text.count(b"\nack ") for text in texts)  # never the first line: that is a try

    def wait_for_more(self, rows: int, *, deadline_s: float = MORE_DEADLINE_S) -> None:
        """Until so many more rows were acknowledged than when this was called."""
        wanted = self.acknowledged_count() + rows
        end_s = time.monotonic() + deadline_s
        while self.acknowledged_count() < wanted:
            if time.monotonic() > end_s:
                raise WritersStuckError(
                    f"{rows} more rows were not acknowledged within {deadline_s:g} s"
                )
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End them; the journals stay."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _spawn(self, writer: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable, "-P", "-m", "bench.log.writer_process",
                str(self._target), str(writer), str(self._journals[writer]),
            ],
            env={name: os.environ[name] for name in INHERITED if name in os.environ},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip


@contextlib.contextmanager
def writing(
    directory: Path, conninfo: str, *, writers: int = 2, first: int = 1
) -> Iterator[Writers]:
    """Writers that are killed at the end. The table must exist: see `create_table`."""
    started = Writers(directory, conninfo, writers=writers, first=first)
    try:
        yield started
    finally:
        started.kill()


def create_table(conninfo: str) -> None:
    """Make the table that writers write to."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(CREATE_TABLE.encode())


def rows_of(conninfo: str) -> frozenset[Row]:
    """The rows that a server has."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return frozenset(
            (int(writer), int(number))
            for writer, number in connection.execute(
                f"select writer, n from {TABLE}".encode()  # noqa: S608  # a constant of ours
            )
        )


def row_findings(journal: Journal, rows: frozenset[Row]) -> list[str]:
    """What is wrong about the rows of a server that outlived the others: lost, or made up."""
    lost = sorted(journal.acknowledged - rows)
    foreign = sorted(rows - journal.attempted)
    found = []
    if lost:
        found.append(
            f"{len(lost)} of {len(journal.acknowledged)} acknowledged rows are lost: {lost[:10]}"
        )
    if foreign:
        found.append(f"{len(foreign)} rows are there that nobody wrote: {foreign[:10]}")
    return found
