"""SQLAlchemy (over psycopg and asyncpg) and Django's connection work through the gateway.

In scope: what these layers do on their own at connecting, in transactions, and when they look at
the schema. Out of scope: what the drivers below them do, see test_psycopg.py, test_asyncpg.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
pytest.importorskip("greenlet", reason="SQLAlchemy needs greenlet for asyncpg")
sqlalchemy_asyncio = pytest.importorskip("sqlalchemy.ext.asyncio")
django = pytest.importorskip("django", reason="Django is not installed")
django_conf = pytest.importorskip("django.conf")
django_db = pytest.importorskip("django.db")
django_utils = pytest.importorskip("django.db.utils")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0


def url_of(target: Address, driver: str) -> Any:
    return sqlalchemy.URL.create(
        f"postgresql+{driver}", username=target.user, password=target.password,
        host=target.host, port=target.port, database=target.database,
    )  # fmt: skip


@pytest.fixture
def engine(target: Address) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(url_of(target, "psycopg"), pool_size=3, pool_pre_ping=True)
    yield engine
    engine.dispose()


def accounts_of(table: str) -> tuple[Any, Any]:
    """A table with a bit of everything, and its metadata."""
    metadata = sqlalchemy.MetaData()
    accounts = sqlalchemy.Table(
        table, metadata,
        sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("owner", sqlalchemy.String(40), nullable=False, unique=True),
        sqlalchemy.Column("balance", sqlalchemy.Numeric(12, 2), server_default="0"),
        sqlalchemy.Column("notes", sqlalchemy.JSON),
    )  # fmt: skip
    return metadata, accounts


def test_sqlalchemy_creates_reflects_inserts_and_selects(engine: Any, table: str) -> None:
    metadata, accounts = accounts_of(table)
    metadata.create_all(engine)
    rows = [{"owner": f"owner {number}", "notes": {"n": number}} for number in range(200)]
    with engine.begin() as connection:
        made = connection.execute(accounts.insert().returning(accounts.c.id), rows)
        assert len(made.all()) == 200
    with engine.connect() as connection:
        query = sqlalchemy.select(accounts.c.notes).where(accounts.c.owner == "owner 7")
        assert connection.execute(query).scalar_one() == {"n": 7}
        streamed = connection.execution_options(stream_results=True, max_row_buffer=10)
        assert len(streamed.execute(sqlalchemy.select(accounts)).all()) == 200
    inspector = sqlalchemy.inspect(engine)
    assert [column["name"] for column in inspector.get_columns(table)] == list(accounts.c.keys())
    assert inspector.get_pk_constraint(table)["constrained_columns"] == ["id"]
    again = sqlalchemy.Table(table, sqlalchemy.MetaData(), autoload_with=engine)
    assert again.c.balance.type.scale == 2


def test_sqlalchemy_rolls_back_and_uses_savepoints(engine: Any, table: str) -> None:
    metadata, accounts = accounts_of(table)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(accounts.insert(), {"owner": "kept"})
        with pytest.raises(sqlalchemy.exc.IntegrityError), connection.begin_nested():
            connection.execute(accounts.insert(), {"owner": "kept"})
        connection.execute(accounts.insert(), {"owner": "kept, too"})

    def fail() -> None:
        with engine.begin() as connection:
            connection.execute(accounts.insert(), {"owner": "lost"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    serializable = engine.execution_options(isolation_level="SERIALIZABLE")
    with serializable.connect() as connection:
        assert connection.execute(sqlalchemy.text("show transaction_isolation")).scalar() == (
            "serializable"
        )
        owners = connection.execute(sqlalchemy.select(accounts.c.owner).order_by("id"))
        assert owners.scalars().all() == ["kept", "kept, too"]


def test_sqlalchemy_works_over_asyncpg(target: Address, table: str) -> None:
    metadata, accounts = accounts_of(table)

    async def story() -> None:
        engine = sqlalchemy_asyncio.create_async_engine(url_of(target, "asyncpg"), pool_size=3)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
                await connection.execute(
                    accounts.insert(), [{"owner": f"owner {number}"} for number in range(50)]
                )

            async def count() -> Any:
                async with engine.connect() as connection:
                    query = sqlalchemy.select(sqlalchemy.func.count()).select_from(accounts)
                    return (await connection.execute(query)).scalar_one()

            assert await asyncio.gather(*(count() for _ in range(10))) == [50] * 10
            async with engine.connect() as connection:
                streamed = await connection.stream(sqlalchemy.select(accounts.c.id))
                assert len([row async for row in streamed]) == 50
        finally:
            await engine.dispose()

    asyncio.run(asyncio.wait_for(story(), DEADLINE_S))


@pytest.fixture
def django_connection(target: Address) -> Iterator[Any]:
    """Django's own wrapper of a connection, without a project around it."""
    if not django_conf.settings.configured:
        django_conf.settings.configure(USE_TZ=True, TIME_ZONE="UTC", INSTALLED_APPS=[])
        django.setup()
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": target.host, "PORT": target.port, "NAME": target.database,
        "USER": target.user, "PASSWORD": target.password,
    }  # fmt: skip
    connection = django_utils.ConnectionHandler({"default": database})["default"]
    django_db.connections["default"] = connection  # its transactions are looked for there
    yield connection
    connection.close()
    del django_db.connections["default"]


def test_django_begins_commits_and_rolls_back(django_connection: Any, table: str) -> None:
    connection = django_connection
    with connection.cursor() as cursor:
        cursor.execute(f"create table {table} (a int primary key)")
        cursor.executemany(f"insert into {table} values (%s)", [(n,) for n in range(10)])
        assert connection.get_autocommit()
        connection.set_autocommit(False)
        cursor.execute(f"insert into {table} values (10)")
        saved = connection.savepoint()
        with pytest.raises(django_db.IntegrityError):
            cursor.execute(f"insert into {table} values (1)")
        connection.savepoint_rollback(saved)
        connection.commit()
        cursor.execute(f"insert into {table} values (11)")
        connection.rollback()
        connection.set_autocommit(True)
        cursor.execute(f"select count(*), max(a) from {table}")
        assert cursor.fetchone() == (11, 10)
    assert connection.is_usable()


def test_django_reads_in_pieces_and_looks_at_the_schema(django_connection: Any, table: str) -> None:
    connection = django_connection
    with connection.cursor() as cursor:
        cursor.execute(f"create table {table} (a serial primary key, b text unique, c int)")
        cursor.execute(f"insert into {table} (b) select 'row ' || g from generate_series(1, 300) g")
        assert table in connection.introspection.table_names(cursor)
        described = connection.introspection.get_table_description(cursor, table)
        assert [column.name for column in described] == ["a", "b", "c"]
        constraints = connection.introspection.get_constraints(cursor, table)
        assert sum(found["unique"] for found in constraints.values()) == 2
    with connection.chunked_cursor() as cursor:
        cursor.execute(f"select a from {table} order by a")
        assert [row[0] for row in cursor.fetchmany(100)] == list(range(1, 101))
    with connection.schema_editor() as editor:
        editor.execute(f"alter table {table} add d int default 4")
    with connection.cursor() as cursor:
        cursor.execute(f"select distinct d from {table}")
        assert cursor.fetchall() == [(4,)]
