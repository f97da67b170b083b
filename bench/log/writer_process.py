"""A client that commits rows one by one and writes down which commits were acknowledged.

    python -P -m bench.log.writer_process TARGET WRITER JOURNAL

Each row is (writer, n) in the table `acknowledged_rows`, n = 1, 2, ... and never used twice. TARGET
is a file with a connection string; it is read at every connection, so whoever moves the primary
writes the new one there. JOURNAL gets one line a happening, with the machine's monotonic clock:

    try N NS     before the row is sent: from here on it may or may not be there
    ack N NS     the commit returned without a warning: from here on it must never be lost
    warn N NS    it returned with one: PostgreSQL says that it did not wait for the log
    fail N NS    it ended with an error, which says nothing about the row

Each line is appended with one write, so a journal may be read at any time. A process of its own, so
that a commit that hangs, which is right when there is no quorum, holds up nobody.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

import psycopg

RECONNECT_PAUSE_S: Final = 0.02
CONNECT_TIMEOUT_S: Final = 5
TABLE: Final = "acknowledged_rows"
INSERT: Final = f"insert into {TABLE} values (%s, %s)"  # noqa: S608  # a constant of ours


class Journal:
    """Appends happenings to a file."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.open(path, flags, 0o600)

    def note(self, what: str, number: int) -> None:
        """One line, in one write."""
        os.write(self._descriptor, f"{what} {number} {time.monotonic_ns()}\n".encode())


def main() -> None:
    """Write for ever; whoever started this kills it."""
    target, writer, journal_path = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    journal = Journal(journal_path)
    number = 0
    while True:
        try:
            with psycopg.connect(
                target.read_text(encoding="utf-8"),
                autocommit=True, connect_timeout=CONNECT_TIMEOUT_S,
            ) as connection:  # fmt: skip
                number = _write(connection, writer, number, journal)
        except psycopg.Error:
            time.sleep(RECONNECT_PAUSE_S)


def _write(connection: psycopg.Connection, writer: int, number: int, journal: Journal) -> int:
    """Write until an error; the last number that was used."""
    warnings: list[str] = []

    def note_warning(notice: psycopg.errors.Diagnostic) -> None:
        # A server that dies between two statements says so behind the answer to the first, which
        # was an acknowledgement all the same: with FATAL, or a WARNING of class 57P if killed.
        is_farewell = (notice.sqlstate or "").startswith("57P")
        if notice.severity_nonlocalized == "WARNING" and not is_farewell:
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(note_warning)
    while True:
        number += 1
        journal.note("try", number)
        try:
            connection.execute(INSERT, (writer, number))
        except psycopg.Error:
            journal.note("fail", number)
            return number
        journal.note("warn" if warnings else "ack", number)
        warnings.clear()


if __name__ == "__main__":
    main()
