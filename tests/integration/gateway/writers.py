"""Clients that write without a pause, keep their connection, and remember what they were told.

    with writing(address, table, count=8) as writers:
        ...                                   # something dies
    writers.judge(rows)                       # the rows that are there, against what was said

What was said of a row decides what may be true: an answer means that it is there; "unknown" (08007)
leaves both open; any other error means that it is not there.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Address

UNKNOWN = "08007"
MORE_S = 90.0


@dataclass(slots=True)
class Writers:
    """What all writers were told, by the row."""

    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)  # with which SQLSTATE
    lost: list[str] = field(default_factory=list)  # connections
    sessions: int = 0

    def more(self, count: int) -> None:
        """Wait for some more acknowledgements."""
        wanted = len(self.acknowledged) + count
        eventually(
            lambda: bool(self.lost) or len(self.acknowledged) >= wanted,
            deadline_s=MORE_S, what=f"{count} more acknowledgements",
        )  # fmt: skip
        assert not self.lost, self.lost

    def judge(self, rows: list[int]) -> None:
        """Nothing that was acknowledged is missing, and nothing that was refused is there."""
        assert not self.lost, self.lost
        assert len(rows) == len(set(rows)), "a row was written twice"
        there = set(rows)
        assert not set(self.acknowledged) - there, "an acknowledged row is missing"
        found = {row: state for row, state in self.refused.items() if row in there}
        assert not found, f"rows are there whose writers were told that they are not: {found}"
        assert not there - set(self.acknowledged) - set(self.unknown)
        told = {state[:2] for state in self.refused.values()}
        assert told <= {"08", "40", "57"}, self.refused


@contextlib.contextmanager
def writing(address: Address, table: str, *, count: int, in_transaction: bool) -> Iterator[Writers]:
    """Writers beside the block; they have ended behind it."""
    writers = Writers()
    numbers = itertools.count(1)
    stop = threading.Event()

    def work(key: int) -> None:
        try:
            with address.connect() as connection:
                writers.sessions += 1
                connection.execute(f"set my.key = '{key}'")
                while not stop.is_set():
                    _write(connection, table, next(numbers), writers, in_transaction=in_transaction)
                found = connection.execute("show my.key").fetchone()
                assert found == (str(key),), "a setting was lost"
        except Exception as error:  # noqa: BLE001  # told to the test
            writers.lost.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(key,), daemon=True) for key in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join(MORE_S)
    assert not any(thread.is_alive() for thread in threads), "a writer hangs"
    assert writers.sessions == count


def _write(
    connection: psycopg.Connection[Any], table: str, row: int, writers: Writers, *,
    in_transaction: bool,
) -> None:  # fmt: skip
    insert = f"insert into {table} (n) values (%s)"
    try:
        if in_transaction:
            connection.execute("begin")
            connection.execute(insert, [row])
            connection.execute(f"update {table}_sum set n = n + 1 where id = %s", [row % 16])
            connection.execute("commit")
        else:
            connection.execute(insert, [row], prepare=True)
    except psycopg.Error as error:
        if connection.closed or error.sqlstate is None:
            raise
        if error.sqlstate == UNKNOWN:
            writers.unknown.append(row)
        else:
            writers.refused[row] = error.sqlstate
        if connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.execute("rollback")
    else:
        writers.acknowledged.append(row)
