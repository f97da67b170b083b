"""What a session has stays with it: settings, temporary tables, locks, statements, LISTEN.

All of it is asked of the primary itself, too: a gateway in session mode is to be told from a server
by nothing here. What only a gateway has, see test_reads.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD
from psycopg import errors

if TYPE_CHECKING:
    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

NEWS_S = 20.0


def value(connection: psycopg.Connection[Any], query: str, *values: Any) -> Any:
    found = connection.execute(query, values or None).fetchone()
    assert found is not None
    return found[0]


def status(connection: psycopg.Connection[Any]) -> str:
    return connection.info.transaction_status.name


def test_settings_survive_and_are_the_sessions_own(target: Address) -> None:
    with target.connect() as one, target.connect() as other:
        one.execute("set work_mem = '7MB'")
        one.execute("set time zone 'Asia/Tokyo'")
        one.execute("select set_config('search_path', 'pg_catalog', false)")
        one.execute("set my.variable = 'with ''quotes'' and \\ \"more\"'")
        other.execute("set work_mem = '9MB'")
        for _ in range(5):
            assert value(one, "show work_mem") == "7MB"
            assert value(one, "show timezone") == "Asia/Tokyo"
            assert value(one, "show search_path") == "pg_catalog"
            assert value(one, "show my.variable") == "with 'quotes' and \\ \"more\""
            assert value(other, "show work_mem") == "9MB"
            assert value(other, "show search_path") == '"$user", public'
        one.execute("reset work_mem")
        assert value(one, "show work_mem") == "4MB"
        one.execute("discard all")
        assert value(one, "show search_path") == '"$user", public'


def test_settings_of_a_transaction_end_with_it(target: Address) -> None:
    with target.connect() as connection:
        connection.execute("set work_mem = '7MB'")
        with connection.transaction():
            connection.execute("set local work_mem = '8MB'")
            assert value(connection, "show work_mem") == "8MB"
        assert value(connection, "show work_mem") == "7MB"
        with connection.transaction(force_rollback=True):
            connection.execute("set work_mem = '9MB'")
        assert value(connection, "show work_mem") == "7MB"


def test_options_of_the_start_up_are_settings_too(target: Address) -> None:
    options = "-c work_mem=6MB -c my.option=a\\ b --statement-timeout=77s"
    with target.connect(options=options, application_name="named") as connection:
        assert value(connection, "show work_mem") == "6MB"
        assert value(connection, "show my.option") == "a b"
        assert value(connection, "show statement_timeout") == "77s"
        assert value(connection, "show application_name") == "named"
        connection.execute("set work_mem = '7MB'")
        connection.execute("reset all")
        assert value(connection, "show work_mem") == "6MB"  # as it was started


def test_settings_of_a_role_and_of_a_database_apply(direct: Address, target: Address) -> None:
    visitor = target.but(user=VISITOR, password=VISITOR_PASSWORD)
    with direct.connect() as connection:
        connection.execute(f"alter role {VISITOR} set work_mem = '11MB'")
        connection.execute(f"alter role {VISITOR} in database postgres set my.variable = 'of both'")
        try:
            with visitor.connect() as client:
                assert value(client, "show work_mem") == "11MB"
                assert value(client, "show my.variable") == "of both"
        finally:
            connection.execute(f"alter role {VISITOR} in database postgres reset all")
            connection.execute(f"alter role {VISITOR} reset all")


def test_temporary_tables_are_there_and_go_with_the_session(target: Address) -> None:
    with target.connect() as connection, target.connect() as other:
        connection.execute("create temp table mine as select generate_series(1, 10) n")
        connection.execute("insert into mine values (11)")
        assert value(connection, "select count(*) from mine") == 11
        with pytest.raises(errors.UndefinedTable):
            other.execute("select * from mine")
        connection.execute("discard temp")
        with pytest.raises(errors.UndefinedTable):
            connection.execute("select * from mine")
        connection.execute("create temp table mine ()")
    with target.connect() as connection, pytest.raises(errors.UndefinedTable):
        connection.execute("select * from mine")


def test_advisory_locks_are_held_and_go_with_the_session(target: Address) -> None:
    key = target.port
    with target.connect() as holder, target.connect() as other:
        holder.execute("select pg_advisory_lock(%s)", [key])
        assert value(other, "select pg_try_advisory_lock(%s)", key) is False
        assert value(holder, "select pg_advisory_unlock(%s)", key) is True
        assert value(other, "select pg_try_advisory_lock(%s)", key) is True
    with target.connect() as after:
        after.execute("set statement_timeout = '20s'")  # until the server has seen the good-bye
        after.execute("select pg_advisory_lock(%s)", [key])
        with after.transaction():
            assert value(after, "select pg_try_advisory_xact_lock_shared(%s)", key) is True


def test_statements_prepared_in_sql_stay(target: Address) -> None:
    with target.connect() as connection:
        connection.execute("prepare twice (int) as select $1 * 2")
        assert value(connection, "execute twice(21)") == 42
        assert value(connection, "select count(*) from pg_prepared_statements") == 1
        connection.execute("deallocate twice")
        with pytest.raises(errors.InvalidSqlStatementName):
            connection.execute("execute twice(1)")


def test_cursors_with_hold_outlive_their_transaction(target: Address) -> None:
    with target.connect() as connection:
        with connection.transaction():
            connection.execute("declare held cursor with hold for select generate_series(1, 5)")
        assert value(connection, "fetch absolute 4 from held") == 4
        connection.execute("close held")
        with pytest.raises(errors.InvalidCursorName):
            connection.execute("fetch held")


def test_roles_are_changed_and_come_back(target: Address) -> None:
    with target.connect() as connection:
        connection.execute(f"set role {VISITOR}")
        assert value(connection, "select current_user") == VISITOR
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("create role nobody")
        connection.execute("reset role")
        assert value(connection, "select current_user") == target.user
        connection.execute(f"set session authorization {VISITOR}")
        assert value(connection, "select session_user") == VISITOR
        connection.execute("reset session authorization")


def test_news_reach_those_who_listen_and_nobody_else(target: Address, direct: Address) -> None:
    channel = f"channel_{target.port}"
    with target.connect() as listener, target.connect() as deaf, direct.connect() as teller:
        listener.execute(f"listen {channel}")
        deaf.execute(f"listen {channel}")
        deaf.execute(f"unlisten {channel}")
        # One that comes while the client is idle, a long one, and one of its own.
        teller.execute("select pg_notify(%s, %s)", [channel, "idle"])
        teller.execute("select pg_notify(%s, %s)", [channel, "x" * 7999])
        (first, second) = listener.notifies(timeout=NEWS_S, stop_after=2)
        assert (first.channel, first.payload, len(second.payload)) == (channel, "idle", 7999)
        listener.execute("select pg_notify(%s, '')", [channel])
        (own,) = listener.notifies(timeout=NEWS_S, stop_after=1)
        assert (own.payload, own.pid > 0) == ("", True)
        # A rolled back one is told to nobody.
        with teller.transaction(force_rollback=True):
            teller.execute("select pg_notify(%s, 'never')", [channel])
        teller.execute("select pg_notify(%s, 'last')", [channel])
        assert [n.payload for n in listener.notifies(timeout=NEWS_S, stop_after=1)] == ["last"]
        assert list(deaf.notifies(timeout=0.2)) == []


def test_a_failed_transaction_stays_failed_until_it_is_rolled_back(target: Address) -> None:
    with target.connect() as connection:
        connection.execute("begin")
        with pytest.raises(errors.DivisionByZero):
            connection.execute("select 1/0")
        for _ in range(3):
            with pytest.raises(errors.InFailedSqlTransaction):
                connection.execute("select 1")
        assert status(connection) == "INERROR"
        connection.execute("commit and chain")
        assert status(connection) == "INTRANS"
        connection.execute("rollback")
        assert status(connection) == "IDLE"


def test_snapshots_are_exported_and_imported(target: Address, table: str) -> None:
    with target.connect() as exporter, target.connect() as importer:
        exporter.execute(f"create table {table} (a int)")
        exporter.execute("begin isolation level repeatable read")
        snapshot = value(exporter, "select pg_export_snapshot()")
        with target.connect() as writer:
            writer.execute(f"insert into {table} values (1)")
        importer.execute("begin isolation level repeatable read")
        importer.execute(f"set transaction snapshot '{snapshot}'")
        assert value(importer, f"select count(*) from {table}") == 0
        importer.execute("commit")
        assert value(importer, f"select count(*) from {table}") == 1
        exporter.execute("commit")


def test_large_objects_and_sequences_work(target: Address, table: str) -> None:
    with target.connect() as connection:
        with connection.transaction():
            number = value(connection, "select lo_from_bytea(0, %s)", b"large" * 1000)
            assert value(connection, "select length(lo_get(%s))", number) == 5000
            connection.execute("select lo_unlink(%s)", [number])
        connection.execute(f"create table {table} (a serial)")
        connection.execute(f"insert into {table} default values")
        assert value(connection, "select lastval()") == 1
        assert value(connection, f"select currval('{table}_a_seq')") == 1
