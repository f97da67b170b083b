"""A COPY that writes WAL as fast as the log takes it, from a process of its own."""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from typing import Final

import psycopg

from bench.pagefault.workspace import connected
from sqlnode.postgres import Postgres

from .sides import SideError

COPY_TABLE: Final = "create table if not exists bulk (line text)"
COPY_LINE: Final = b"x" * 900 + b"\n"
COPY_PIECE: Final = COPY_LINE * 64
COPY_BYTES: Final = 256 << 20  # then the table is emptied: the disk is not what is measured
COPY_READY_BYTES: Final = 16 << 20  # the load counts as running once so much has been written
READY_DEADLINE_S: Final = 60.0


@contextlib.contextmanager
def copying(server: Postgres) -> Iterator[None]:
    """A session of another process that copies rows in as fast as they are taken."""
    with connected(server) as session:
        session.execute(COPY_TABLE)
    process = multiprocessing.get_context("spawn").Process(
        target=copy_for_ever, args=(server.conninfo(),)
    )
    process.start()
    try:
        _wait_for_bulk(server)
        yield
    finally:
        process.kill()
        process.join()


def copy_for_ever(conninfo: str) -> None:
    """The body of the loading process."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while True:
            with connection.cursor().copy("copy bulk from stdin") as copy:
                for _ in range(COPY_BYTES // len(COPY_PIECE)):
                    copy.write(COPY_PIECE)
            connection.execute("truncate bulk")


def _wait_for_bulk(server: Postgres) -> None:
    end_s = time.monotonic() + READY_DEADLINE_S
    with connected(server) as session:
        while True:
            row = session.execute("select pg_relation_size('bulk')").fetchone()
            assert row is not None
            if row[0] >= COPY_READY_BYTES:
                return
            if time.monotonic() > end_s:
                raise SideError(f"{server} took no rows for {READY_DEADLINE_S:g} s")
            time.sleep(0.01)
