"""asyncpg gets from the gateway what it gets from the server.

In scope: prepared statements and its cache of them, cursors, COPY, LISTEN, its look at types, a
timeout (which sends a cancel request), its pool with RESET. It uses the binary format and Flush
throughout, which psycopg does not.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import io
import json
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0


def with_client(target: Address, story: Callable[[Any], Awaitable[None]], **more: Any) -> None:
    async def whole() -> None:
        client = await asyncpg.connect(**target.asyncpg(), **more)
        try:
            await story(client)
        finally:
            await client.close(timeout=DEADLINE_S)

    asyncio.run(asyncio.wait_for(whole(), DEADLINE_S))


def test_values_come_back_as_they_went(target: Address) -> None:
    values = [
        (7, "int4"), (2**40, "int8"), (1.5, "float8"), (decimal.Decimal("12.340"), "numeric"),
        ("wört", "text"), (b"\x00\xff", "bytea"), (None, "int4"), (uuid.UUID(int=5), "uuid"),
        (datetime.date(2026, 2, 28), "date"), ([1, None, 3], "int4[]"), ({"a"}, "text"),
    ]  # fmt: skip

    async def story(client: Any) -> None:
        for value, kind in values[:-1]:
            assert await client.fetchval(f"select $1::{kind}", value) == value
        with pytest.raises(asyncpg.DataError):  # found by the driver, between Parse and Bind
            await client.fetchval("select $1::text", values[-1][0])
        assert await client.fetchval("select 1") == 1

    with_client(target, story)


def test_prepared_statements_and_the_cache_of_them(target: Address, table: str) -> None:
    async def story(client: Any) -> None:
        await client.execute(f"create table {table} (a int primary key, b text)")
        await client.executemany(
            f"insert into {table} values ($1, $2)", [(n, "ü") for n in range(300)]
        )
        statement = await client.prepare(f"select a, b from {table} where a < $1 order by a")
        assert [tuple(row) for row in await statement.fetch(2)] == [(0, "ü"), (1, "ü")]
        assert [p.name for p in statement.get_parameters()] == ["int4"]
        assert [a.name for a in statement.get_attributes()] == ["a", "b"]
        for number in range(40):  # the cache holds five
            assert (
                await client.fetchval(f"select $1 + {number % 10}", number) == number + number % 10
            )
        # A table changes under a cached statement: the driver prepares it again by itself.
        query = f"select * from {table} where a = $1"
        assert tuple(await client.fetchrow(query, 1)) == (1, "ü")
        await client.execute(f"alter table {table} add c int default 3")
        assert tuple(await client.fetchrow(query, 1)) == (1, "ü", 3)

    with_client(target, story, statement_cache_size=5)


def test_unnamed_statements_alone_work_too(target: Address) -> None:
    async def story(client: Any) -> None:
        for number in range(20):
            assert await client.fetchval("select $1::int * 2", number) == number * 2

    with_client(target, story, statement_cache_size=0)


def test_an_executemany_that_fails_leaves_nothing(target: Address, table: str) -> None:
    async def story(client: Any) -> None:
        await client.execute(f"create table {table} (a int primary key)")
        rows = [(number,) for number in (*range(5000), 17)]
        with pytest.raises(asyncpg.UniqueViolationError):
            await client.executemany(f"insert into {table} values ($1)", rows)
        assert await client.fetchval(f"select count(*) from {table}") == 0

    with_client(target, story)


def test_cursors_are_read_in_pieces(target: Address) -> None:
    async def story(client: Any) -> None:
        async with client.transaction():
            cursor = await client.cursor("select generate_series(1, $1::int)", 1000)
            assert [row[0] for row in await cursor.fetch(3)] == [1, 2, 3]
            await cursor.forward(10)
            assert (await cursor.fetchrow())[0] == 14
            total = 0
            async for row in client.cursor("select generate_series(1, 1000)", prefetch=33):
                total += row[0]
            assert total == 500_500

    with_client(target, story)


def test_transactions_savepoints_and_isolation(target: Address, table: str) -> None:
    async def story(client: Any) -> None:
        await client.execute(f"create table {table} (a int)")

        async def insert(number: int, *, divisor: int = 1, **more: Any) -> None:
            async with client.transaction(**more):
                await client.execute(f"insert into {table} values ({number})")
                await client.fetchval("select 1 / $1::int", divisor)

        async with client.transaction(isolation="serializable"):
            await insert(1)
            with pytest.raises(asyncpg.DivisionByZeroError):
                await insert(2, divisor=0)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await insert(3, readonly=True)
        assert await client.fetchval(f"select array_agg(a) from {table}") == [1]

    with_client(target, story)


def test_copy_of_records_queries_and_tables(target: Address, table: str) -> None:
    async def story(client: Any) -> None:
        await client.execute(f"create table {table} (a int, b text)")
        records = [(number, "x" * (number % 300)) for number in range(20_000)]
        assert await client.copy_records_to_table(table, records=records) == "COPY 20000"
        received = io.BytesIO()
        said = await client.copy_from_query(f"select * from {table}", output=received, format="csv")
        assert said == "COPY 20000"
        received.seek(0)
        await client.execute(f"truncate {table}")
        assert await client.copy_to_table(table, source=received, format="csv") == "COPY 20000"
        with pytest.raises(asyncpg.BadCopyFileFormatError):
            await client.copy_to_table(table, source=io.BytesIO(b"1\n2\n"))
        assert await client.fetchval(f"select sum(length(b)) from {table}") == sum(
            len(text) for _, text in records
        )

    with_client(target, story)


def test_types_are_looked_up_and_translated(target: Address, table: str) -> None:
    kind = f"{table}_kind"

    async def story(client: Any) -> None:
        await client.execute(f"create type {kind} as (a int, b text[], c numrange)")
        try:
            row = await client.fetchval(f"select row(1, array['x'], '[1,2)')::{kind}")
            assert (row["a"], row["b"], row["c"].upper) == (1, ["x"], decimal.Decimal(2))
            await client.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
            assert await client.fetchval("select $1::jsonb", {"k": [1, None]}) == {"k": [1, None]}
            await client.reload_schema_state()
            assert await client.fetchval(f"select count(*) from unnest($1::{kind}[])", []) == 0
        finally:
            await client.execute(f"drop type {kind}")

    with_client(target, story)


def test_a_timeout_cancels_the_statement(target: Address, direct: Address) -> None:
    async def story(client: Any) -> None:
        mark = f"/* timed out at {target.port} */"
        with pytest.raises(asyncio.TimeoutError):
            await client.execute(f"select pg_sleep(600) {mark}", timeout=0.3)
        assert await client.fetchval("select 1") == 1  # once the cancel request is through
        other = await asyncpg.connect(**direct.asyncpg())
        query = (
            "select count(*) from pg_stat_activity where query like $1"
            " and state = 'active' and pid <> pg_backend_pid()"
        )
        assert await other.fetchval(query, f"%{mark}%") == 0
        await other.close()

    with_client(target, story)


def test_listeners_hear_others_and_themselves(target: Address, direct: Address) -> None:
    async def story(client: Any) -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        channel = f"news_{target.port}"
        await client.add_listener(channel, lambda *news: heard.put_nowait(news[2:]))
        await client.execute(f"select pg_notify('{channel}', 'mine')")
        assert await heard.get() == (channel, "mine")
        other = await asyncpg.connect(**direct.asyncpg())
        await other.execute(f"select pg_notify('{channel}', 'theirs')")
        await other.close()
        assert await heard.get() == (channel, "theirs")  # though this client asked nothing since

    with_client(target, story)


def test_a_pool_resets_what_its_users_leave(target: Address) -> None:
    async def whole() -> None:
        async with asyncpg.create_pool(**target.asyncpg(), min_size=2, max_size=4) as pool:

            async def use(number: int) -> None:
                async with pool.acquire() as client:
                    assert await client.fetchval("show work_mem") == "4MB"
                    await client.execute("set work_mem = '7MB'")
                    assert await client.fetchval("select $1::int", number) == number

            await asyncio.gather(*(use(number) for number in range(60)))

    asyncio.run(asyncio.wait_for(whole(), DEADLINE_S))
