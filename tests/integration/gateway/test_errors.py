"""Errors and cancel requests pass through the gateway unchanged.

In scope: every field of an error, in both protocols, of statements of many kinds; a cancel request
hits the statement that it means, and no other. Out of scope: errors of the gateway itself.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures.waiting import eventually
from psycopg import errors

if TYPE_CHECKING:
    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

FIELDS = (
    "severity", "severity_nonlocalized", "sqlstate", "message_primary", "message_detail",
    "message_hint", "statement_position", "internal_position", "internal_query", "context",
    "schema_name", "table_name", "column_name", "datatype_name", "constraint_name",
    "source_file", "source_line", "source_function",
)  # fmt: skip
DEADLINE_S = 30.0

SETUP = """
create table {table} (a int primary key check (a < 100), b text not null, c int references {table});
create domain {table}_domain as int check (value > 0);
create function {table}_function() returns int language plpgsql as $$
begin
    perform 1 / 0;
    return 1;
end $$;
insert into {table} values (1, 'one', null);
"""
TEARDOWN = """
drop function if exists {table}_function();
drop domain if exists {table}_domain;
drop table if exists {table};
"""
FAILING = (
    "selec 1",
    "select * from missing_{table}",
    "select missing from {table}",
    "select 'wört' || missing",
    "select 1/0",
    "select 'x'::int",
    "insert into {table} values (1, 'again', null)",
    "insert into {table} values (2, null, null)",
    "insert into {table} values (100, 'too large', null)",
    "insert into {table} values (3, 'three', 77)",
    "select (-1)::{table}_domain",
    "select {table}_function()",
    "do $$ begin raise exception using errcode = 'SW001', message = 'm', detail = 'd', hint = 'h',"
    " column = 'c', constraint = 'k', datatype = 't', table = 'r', schema = 's'; end $$",
    "select pg_terminate_backend('x')",
    "set work_mem = 'nonsense'",
    "set role missing_role",
    "create table {table} ()",
    "commit prepared 'missing'",
    "execute missing",
    "fetch missing",
    "copy {table} from '/nowhere/to/be/found'",
    "select upperr('x')",
    "savepoint outside_a_transaction",
    "vacuum (nonsense) {table}",
    "set transaction isolation level nonsense",
)
FAILING_WITH_PARAMETERS: tuple[tuple[str, list[Any]], ...] = (
    ("select %s::int", ["word"]),
    ("select %s::int / %s::int", [1, 0]),
    ("insert into {table} values (%s, %s, null)", [1, "again"]),
    ("select * from missing_{table} where a = %s", [1]),
    ("select %s + %s", ["a", "b"]),
    ("listen %s", ["x"]),
)


def fields_of(error: psycopg.Error) -> dict[str, str | None]:
    return {name: getattr(error.diag, name) for name in FIELDS}


def failure(connection: psycopg.Connection[Any], query: str, **more: Any) -> dict[str, str | None]:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(query, **more)
    return fields_of(caught.value)


@pytest.fixture
def setting(direct: Address, table: str) -> Any:
    with direct.connect() as connection:
        connection.execute(SETUP.format(table=table))
        yield table
        connection.execute(TEARDOWN.format(table=table))


def test_all_fields_of_errors_are_the_servers(
    direct: Address, gateway: Address, setting: str
) -> None:
    with direct.connect() as control, gateway.connect() as client:
        for text in FAILING:
            query = text.format(table=setting)
            expected = failure(control, query)
            assert failure(client, query) == expected, query
            assert expected["sqlstate"], query
        assert client.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("prepare", [False, True])
def test_all_fields_of_errors_of_the_extended_protocol_are_the_servers(
    direct: Address, gateway: Address, setting: str, prepare: bool
) -> None:
    with direct.connect() as control, gateway.connect() as client:
        for text, values in FAILING_WITH_PARAMETERS:
            query = text.format(table=setting)
            expected = failure(control, query, params=values, prepare=prepare)
            assert failure(client, query, params=values, prepare=prepare) == expected, query
        assert client.execute("select %s::int", [1]).fetchone() == (1,)


def test_all_fields_of_notices_are_the_servers(direct: Address, gateway: Address) -> None:
    def heard_from(address: Address) -> list[dict[str, str | None]]:
        heard: list[dict[str, str | None]] = []
        with address.connect() as connection:
            connection.add_notice_handler(
                lambda notice: heard.append({name: getattr(notice, name) for name in FIELDS})
            )
            connection.execute("set client_min_messages = debug1")
            connection.execute(
                "do $$ begin raise info 'i'; raise notice 'n' using hint = 'h'; end $$"
            )
            connection.execute("drop table if exists never_there")
            connection.execute("begin")
            connection.execute("begin")
            connection.execute("rollback")
        return heard

    expected = heard_from(direct)
    assert len(expected) >= 4
    assert heard_from(gateway) == expected


def test_messages_come_in_the_language_that_was_asked_for(
    direct: Address, gateway: Address
) -> None:
    def said(address: Address) -> dict[str, str | None]:
        with address.connect(options="-c lc_messages=C -c client_min_messages=error") as one:
            return failure(one, "select 1/0")

    assert said(gateway) == said(direct)


class Sleeper:
    """A statement that runs until it is canceled, in a thread of its own."""

    def __init__(self, connection: psycopg.Connection[Any], mark: str) -> None:
        self.error: psycopg.Error | None = None
        self._connection, self._query = connection, f"select pg_sleep(600) /* {mark} */"
        self._thread = threading.Thread(target=self._sleep, daemon=True)
        self._thread.start()

    def _sleep(self) -> None:
        try:
            self._connection.execute(self._query)
        except psycopg.Error as error:
            self.error = error

    @property
    def sleeps(self) -> bool:
        """Whether nobody has canceled it."""
        return self._thread.is_alive()

    def await_start(self, watcher: psycopg.Connection[Any]) -> None:
        """Until the server runs it."""
        query = "select 1 from pg_stat_activity where query = %s and state = 'active'"
        eventually(lambda: watcher.execute(query, [self._query]).fetchone(), what="the sleep")

    def end(self) -> psycopg.Error | None:
        """How it ended."""
        self._thread.join(DEADLINE_S)
        assert not self.sleeps, "a canceled statement goes on"
        return self.error


@pytest.mark.parametrize("way", ["cancel", "cancel_safe"])
def test_a_cancel_request_ends_the_statement_once_and_for_all(
    direct: Address, target: Address, way: str
) -> None:
    with direct.connect() as watcher, target.connect() as connection:
        for number in range(3):
            sleeper = Sleeper(connection, f"{way} {target.port} {number}")
            sleeper.await_start(watcher)
            getattr(connection, way)()  # a single one has to be enough
            assert isinstance(sleeper.end(), errors.QueryCanceled)
            assert connection.execute("select 1").fetchone() == (1,)


def test_a_cancel_request_hits_nobody_else(direct: Address, target: Address) -> None:
    with (
        direct.connect() as watcher,
        target.connect() as sleeping,
        target.connect() as idle,
        target.connect() as gone,
    ):
        for connection in (idle, gone):
            connection.execute("select 1")
        late = gone.pgconn.get_cancel()
        gone.close()
        sleeper = Sleeper(sleeping, f"bystander {target.port}")
        sleeper.await_start(watcher)
        for _ in range(20):
            idle.cancel_safe()
            late.cancel()
        assert sleeper.sleeps
        assert idle.execute("select pg_sleep(0.2)").fetchone() is not None
        sleeping.cancel_safe()
        assert isinstance(sleeper.end(), errors.QueryCanceled)


def test_a_late_cancel_request_does_not_end_the_next_statement_of_a_patient_client(
    target: Address,
) -> None:
    with target.connect() as connection:
        connection.execute("select 1")
        connection.cancel_safe()
        # As with a server: a cancel that has been acknowledged may hit only what ran before it,
        # once its signal is delivered.
        time.sleep(0.5)
        for number in range(50):
            assert connection.execute("select %s::int", [number]).fetchone() == (number,)


def test_a_statement_timeout_is_an_error_and_not_the_end(target: Address) -> None:
    with target.connect() as connection:
        connection.execute("set statement_timeout = '50ms'")
        with pytest.raises(errors.QueryCanceled, match="statement timeout"):
            connection.execute("select pg_sleep(60)")
        assert connection.execute("show statement_timeout").fetchone() == ("50ms",)


def test_a_backend_that_is_terminated_is_told_and_does_not_end_the_client(
    gateway: Address,
) -> None:
    with gateway.connect() as connection:
        with pytest.raises(psycopg.OperationalError) as caught:
            connection.execute("select pg_terminate_backend(pg_backend_pid())")
        assert caught.value.sqlstate == "08007"  # a function that may write was under way
        assert connection.execute("select 1").fetchone() == (1,)
