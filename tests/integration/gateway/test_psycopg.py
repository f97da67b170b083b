"""psycopg 3, sync and async, gets from the gateway what it gets from the server.

In scope: simple and prepared statements, text and binary, pipelines, cursors, COPY, transactions,
notices. Out of scope: LISTEN and what else a session keeps, see test_sessions.py.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0
VALUES: tuple[Any, ...] = (
    7, 2**40, 1.5, decimal.Decimal("12.3400"), "wört", b"\x00\xff" * 50, True, None,
    datetime.date(2026, 2, 28), datetime.datetime(2026, 2, 28, 1, 2, 3, 4, datetime.UTC),
    datetime.timedelta(days=1, seconds=2), uuid.UUID(int=5), [1, 2, 3], ["a", None, 'b"c'],
)  # fmt: skip


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, DEADLINE_S))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("prepare_threshold", [None, 0, 5])
def test_values_come_back_as_they_went(
    target: Address, prepare_threshold: int | None, binary: bool
) -> None:
    query = "select " + ", ".join(["%s"] * (len(VALUES) - 1)) + ", %s::text[]"
    with (
        target.connect(prepare_threshold=prepare_threshold) as connection,
        connection.cursor(binary=binary) as cursor,
    ):
        for _ in range(8):
            assert cursor.execute(query, VALUES).fetchone() == VALUES
        cursor.execute("select %s::jsonb as a, %s::text as b", [Jsonb({"k": [1]}), "x" * 300_000])
        assert cursor.fetchone() == ({"k": [1]}, "x" * 300_000)


def test_prepared_statements_are_made_closed_and_made_again(target: Address, table: str) -> None:
    with target.connect(prepare_threshold=0) as connection:
        connection.prepared_max = 4
        connection.execute(f"create table {table} (a int, b text)")
        for number in range(40):  # more kinds than are kept: old ones are deallocated
            found = connection.execute(f"select {number % 10} + %s", [number]).fetchone()
            assert found == (number % 10 + number,)
        connection.execute(f"insert into {table} values (%s, %s)", [1, "one"])
        query = f"select * from {table} where a = %s"
        assert connection.execute(query, [1]).fetchone() == (1, "one")
        connection.execute(f"alter table {table} add c int default 3")
        # At ALTER the driver forgets its statements, with DEALLOCATE ALL behind the next one.
        assert connection.execute(query, [1]).fetchone() == (1, "one", 3)
        with target.connect() as other:
            other.execute(f"alter table {table} add d int default 4")
        with pytest.raises(errors.FeatureNotSupported, match="cached plan"):
            connection.execute(query, [1])
        connection.execute("deallocate all")
        assert connection.execute(query, [1]).fetchone() == (1, "one", 3, 4)


def test_a_pipeline_answers_in_order_and_stops_at_an_error(target: Address, table: str) -> None:
    with target.connect() as connection:
        connection.execute(f"create table {table} (a int primary key)")
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("select %s::int", [number]) for number in range(300)]
            pipeline.sync()
            assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(300)]
            with connection.cursor() as cursor:
                cursor.executemany(
                    f"insert into {table} values (%s) returning a",
                    [(number,) for number in range(500)], returning=True,
                )  # fmt: skip
                assert cursor.fetchone() == (0,)

        def insert(*numbers: int) -> None:
            with connection.pipeline():
                for number in numbers:
                    connection.execute(f"insert into {table} values (%s)", [number])

        with pytest.raises(errors.UniqueViolation):
            insert(1000, 1, 1001)
        query = f"select count(*), max(a) from {table}"
        # What was between two syncs was one transaction.
        assert connection.execute(query).fetchone() == (500, 499)


def test_cursors_of_the_server_are_read_in_pieces(target: Address) -> None:
    with target.connect(autocommit=False) as connection:
        with connection.cursor("portal", scrollable=True) as cursor:
            cursor.itersize = 77
            cursor.execute("select generate_series(1, %s)", [1000])
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(10)
            assert cursor.fetchone() == (14,)
            cursor.scroll(0, mode="absolute")
            assert sum(row[0] for row in cursor) == 500_500
        connection.commit()
        with connection.cursor("held", withhold=True) as held:
            held.execute("select generate_series(1, 10)")
            connection.commit()
            assert len(held.fetchall()) == 10
        streamed = connection.cursor().stream("select generate_series(1, 2000)")
        assert sum(row[0] for row in streamed) == 2_001_000


def test_copy_in_and_out_in_text_and_binary(target: Address, table: str) -> None:
    with target.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"create table {table} (a int, b text)")
        with cursor.copy(f"copy {table} from stdin") as copy:
            for number in range(30_000):
                copy.write_row((number, "y" * (number % 100)))
        for options in ("", " (format binary)"):
            with cursor.copy(f"copy {table} to stdout{options}") as copy:
                copied = b"".join(bytes(piece) for piece in copy)
            cursor.execute(f"truncate {table}")
            with cursor.copy(f"copy {table} from stdin{options}") as copy:
                copy.write(copied)
            cursor.execute(f"select count(*), sum(a), sum(length(b)) from {table}")
            assert cursor.fetchone() == (30_000, 449_985_000, 1_485_000)

        def fail(row: bytes, error: Exception | None) -> None:
            with cursor.copy(f"copy {table} from stdin") as copy:
                copy.write(row)
                if error is not None:
                    raise error

        with pytest.raises(errors.BadCopyFileFormat):
            fail(b"1\n", None)
        with pytest.raises(ZeroDivisionError):
            fail(b"1\tgiven up\n", ZeroDivisionError())
        cursor.execute(f"select count(*) from {table}")
        assert cursor.fetchone() == (30_000,)


def test_transactions_nest_commit_and_roll_back(target: Address, table: str) -> None:
    with target.connect(row_factory=dict_row) as connection:
        connection.execute(f"create table {table} (a int)")

        def insert_and_divide() -> None:
            with connection.transaction():
                connection.execute(f"insert into {table} values (2)")
                connection.execute("select 1/0")

        with connection.transaction():
            connection.execute(f"insert into {table} values (1)")
            with pytest.raises(errors.DivisionByZero):
                insert_and_divide()
            connection.execute(f"insert into {table} values (3)")
        with connection.transaction(force_rollback=True):
            connection.execute(f"insert into {table} values (4)")
        found = connection.execute(f"select array_agg(a order by a) as found from {table}")
        assert found.fetchone() == {"found": [1, 3]}
        connection.autocommit = False
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        with pytest.raises(errors.ReadOnlySqlTransaction):
            connection.execute(f"insert into {table} values (5)")
        with pytest.raises(errors.InFailedSqlTransaction):
            connection.execute("select 1")
        connection.rollback()
        found = connection.execute("show transaction_isolation")
        assert found.fetchone() == {"transaction_isolation": "serializable"}


def test_two_phases_of_a_commit_are_refused_or_done_alike(target: Address, direct: Address) -> None:
    def outcome(address: Address) -> str:
        connection = address.connect(autocommit=False)
        try:
            connection.tpc_begin(connection.xid(1, f"of-{address.port}", "branch"))
            connection.execute("select 1")
            connection.tpc_prepare()
            connection.tpc_rollback()
        except psycopg.Error as error:
            return str(error.sqlstate)
        finally:
            connection.close()
        return "done"

    assert outcome(target) == outcome(direct)


def test_the_connection_tells_what_the_server_reported(target: Address, direct: Address) -> None:
    names = (
        "server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone",
        "integer_datetimes", "standard_conforming_strings", "is_superuser",
        "session_authorization", "application_name", "in_hot_standby",
    )  # fmt: skip
    with (
        target.connect(application_name="reported") as connection,
        direct.connect(application_name="reported") as control,
    ):
        for each in (connection, control):
            each.execute("select 1")
        found = {name: connection.info.parameter_status(name) for name in names}
        assert found == {name: control.info.parameter_status(name) for name in names}
        assert connection.info.parameter_status("application_name") == "reported"
        connection.execute("set timezone = 'Asia/Tokyo'")
        assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
        connection.execute("set client_encoding = 'latin1'")
        assert connection.execute("select 'é'").fetchone() == ("é",)


def test_notices_arrive_before_the_answer_ends(target: Address) -> None:
    with target.connect() as connection:
        heard: list[str | None] = []
        connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        connection.execute("do $$ begin raise notice 'a'; raise warning 'b'; end $$")
        assert heard == ["a", "b"]


def test_async_connections_work_side_by_side(target: Address, table: str) -> None:
    async def one(number: int) -> None:
        keywords: Any = target.libpq()
        async with await psycopg.AsyncConnection.connect(**keywords) as connection:
            for step in range(10):
                async with connection.transaction():
                    query = f"insert into {table} values (%s, %s) returning a"
                    cursor = await connection.execute(query, [number, step], prepare=step % 2 == 0)
                    assert await cursor.fetchone() == (number,)
            async with connection.pipeline():
                found = [await connection.execute("select %s::int", [n]) for n in range(20)]
                assert [await each.fetchone() for each in found] == [(n,) for n in range(20)]
            async with connection.cursor("portal") as portal:
                await portal.execute(f"select a from {table} where a = %s", [number])
                assert await portal.fetchall() == [(number,)] * 10

    async def story() -> None:
        await asyncio.gather(*(one(number) for number in range(12)))

    with target.connect() as connection:
        connection.execute(f"create table {table} (a int, b int)")
        run(story())
        counted = connection.execute(f"select count(*), count(distinct a) from {table}")
        assert counted.fetchone() == (120, 12)


def test_a_statement_of_many_megabytes_passes(target: Address) -> None:
    with target.connect() as connection:
        text = "z" * 8_000_000
        query = sql.SQL("select length({})").format(sql.Literal(text))
        assert connection.execute(query).fetchone() == (8_000_000,)
        found = connection.execute("select length(%s), repeat('w', 8000000)", [text]).fetchone()
        assert found == (8_000_000, "w" * 8_000_000)
