"""Clusters at rest that computes boot from, with or without a tail of WAL behind them.

An image is a data directory that was shut down cleanly. A tail is made by starting that primary
again, writing, and killing it: its pg_wal then holds what a log would have after the cut.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from sqlnode.directory_source import describe_directory
from sqlnode.postgres import Postgres

from .pgbench import find_pgbench, run_pgbench
from .workspace import Workspace, connected, one_value

TAIL_BYTES: Final = 16 << 20
_TAIL_CLIENTS: Final = 4
_TAIL_CHUNK_BYTES: Final = 1 << 20
_TAIL_TRANSACTION_BYTES: Final = 500  # of TPC-B without full-page images
PGBENCH_SCALE: Final = 30
PGBENCH_SUMS: Final = (
    "select (select sum(abalance) from pgbench_accounts)::text || ' ' ||"
    " (select sum(bbalance) from pgbench_branches) || ' ' ||"
    " (select sum(tbalance) from pgbench_tellers) || ' ' ||"
    " (select sum(delta) || ' ' || count(*) from pgbench_history)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a compute boots from."""

    data_dir: Path
    files: int  # data files

    @property
    def wal_dir(self) -> Path:
        """The segment with its last checkpoint: all that booting without a tail needs."""
        return self.data_dir / "pg_wal"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailedImage(Image):
    """An image, the WAL behind it, and what it leads to."""

    tail_dir: Path
    tail_bytes: int
    end_lsn: str
    answer: str  # of the primary at the end of the tail


@dataclass(frozen=True, slots=True, kw_only=True)
class WideImage(TailedImage):
    """One table of wide rows; the tail touches each of `touched` pages of it once."""

    path: str
    blocks: int
    touched: int


# A table of wide rows.

# 8 rows of 850 bytes a page and room for a ninth, so that an update stays on its page (fillfactor)
# and dirties only that.
_WIDE_ROWS_A_PAGE: Final = 8
_WIDE: Final = (
    "create table wide (n int not null, pad text not null) with (fillfactor = 90)",
    "alter table wide alter pad set storage plain",
    "insert into wide select 0, repeat('x', 815) from generate_series(1, {rows})",
    "vacuum (freeze, analyze) wide",
)
_TOUCH: Final = """
do $$
declare block int;
begin
    for block in
        select b from (select b, hashint4(b) h from generate_series(0, {blocks} - 1) b) pages
        order by h limit {touched}
    loop
        update wide set n = n + 1 where ctid = format('(%s,1)', block)::tid;
    end loop;
end $$
"""
WIDE_ANSWER: Final = "select sum(n) || ' ' || count(*) from wide"


def make_wide_image(workspace: Workspace, *, blocks: int, touched: int) -> WideImage:
    """A table of so many blocks; a tail that updates one row on `touched` of them, in no order."""
    primary = workspace.new_cluster("wide")
    with workspace.running(primary, max_wal_size="64GB") as server, connected(server) as session:
        for statement in _WIDE:
            session.execute(statement.format(rows=blocks * _WIDE_ROWS_A_PAGE).encode())
        path = str(one_value(session, "select pg_relation_filepath('wide')"))
        real_blocks = int(str(one_value(session, "select pg_relation_size('wide') / 8192")))
    assert touched <= real_blocks

    def touch(_: Postgres, session: psycopg.Connection) -> None:
        session.execute(_TOUCH.format(blocks=real_blocks, touched=touched).encode())

    tailed = _with_tail(workspace, primary, touch, answer_sql=WIDE_ANSWER)
    return WideImage(
        data_dir=tailed.data_dir,
        files=tailed.files,
        tail_dir=tailed.tail_dir,
        tail_bytes=tailed.tail_bytes,
        end_lsn=tailed.end_lsn,
        answer=tailed.answer,
        path=path,
        blocks=real_blocks,
        touched=touched,
    )


# pgbench with a tail of TPC-B.


def make_pgbench_image(workspace: Workspace) -> TailedImage:
    """A pgbench database, and 16 MiB of TPC-B behind it."""
    program = find_pgbench(workspace.binaries)
    primary = workspace.new_cluster("tpcb")
    with workspace.running(primary) as server:
        run_pgbench(program, server, "--initialize", "--quiet", f"--scale={PGBENCH_SCALE}")

    def write(server: Postgres, session: psycopg.Connection) -> None:
        start = str(one_value(session, "select pg_current_wal_insert_lsn()"))
        while count := transactions_left(_bytes_since(session, start)):
            run_pgbench(
                program, server, "--no-vacuum", "--protocol=prepared",
                f"--client={_TAIL_CLIENTS}", f"--transactions={count}",
            )  # fmt: skip

    return _with_tail(workspace, primary, write, answer_sql=PGBENCH_SUMS)


def transactions_left(written_bytes: int) -> int:
    """How many transactions each client shall run next; 0 once the tail is long enough.

    In pieces, so that a wrong guess of a transaction's size makes the tail hardly longer.
    """
    left_bytes = min(TAIL_BYTES - written_bytes, _TAIL_CHUNK_BYTES)
    if left_bytes <= 0:
        return 0
    return math.ceil(left_bytes / _TAIL_TRANSACTION_BYTES / _TAIL_CLIENTS)


def _with_tail(
    workspace: Workspace,
    primary: Path,
    write: Callable[[Postgres, psycopg.Connection], None],
    *,
    answer_sql: str,
) -> TailedImage:
    """Copy a primary at rest, let it write, keep its WAL, ask for the answer, and kill it."""
    data_dir = workspace.copy_cluster(primary, "image")
    tail_dir = data_dir.parent / "tail"
    with workspace.running(primary) as server:
        with connected(server) as session:
            start = str(one_value(session, "select pg_current_wal_insert_lsn()"))
            write(server, session)
            end_lsn = str(one_value(session, "select pg_current_wal_insert_lsn()"))
            tail_bytes = _bytes_since(session, start)
            # A switch of the segment flushes what may still be in buffers.
            session.execute("select pg_switch_wal()")
            # Before the question, whose scans set hint bits and log them.
            shutil.copytree(primary / "pg_wal", tail_dir)
            answer = str(one_value(session, answer_sql))
        server.kill_blocking()
    shutil.rmtree(primary.parent)
    return TailedImage(
        data_dir=data_dir,
        files=len(describe_directory(data_dir).files),
        tail_dir=tail_dir,
        tail_bytes=tail_bytes,
        end_lsn=end_lsn,
        answer=answer,
    )


def _bytes_since(session: psycopg.Connection, start: str) -> int:
    sql = f"select (pg_current_wal_insert_lsn() - '{start}'::pg_lsn)::bigint"
    return int(str(one_value(session, sql)))


# Many files.

_MANY: Final = """
do $$
begin
    for i in 1..{tables} loop
        execute format('create table many_%s (id int primary key, note text)', {first} + i);
        execute format('insert into many_%s values (1, ''a row'')', {first} + i);
    end loop;
end $$
"""
_FILES_A_TABLE: Final = 4  # the table, its key's index, its TOAST table, and that one's index
_TABLES_A_TRANSACTION: Final = 500  # what fits into the default table of locks


def make_image_of_files(workspace: Workspace, *, files: int) -> Image:
    """A cluster with so many data files: tables with a row, a key, and a TOAST table."""
    data_dir = workspace.new_cluster("files")
    tables = (files - len(describe_directory(data_dir).files)) // _FILES_A_TABLE
    with workspace.running(data_dir) as server, connected(server) as session:
        for first in range(0, tables, _TABLES_A_TRANSACTION):
            count = min(_TABLES_A_TRANSACTION, tables - first)
            session.execute(_MANY.format(tables=count, first=first).encode())
    return Image(data_dir=data_dir, files=len(describe_directory(data_dir).files))
