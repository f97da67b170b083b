"""What real servers say of their functions, operators and views, and what is made of it.

In scope: the three texts of SQL, their columns, and that nothing built in is overlooked. Out of
scope: who asks, and how often.
"""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fixtures.servers import Fleet, new_run_root

from gateway.classification.catalog import (
    FUNCTIONS_SQL,
    OPERATORS_SQL,
    VIEWS_SQL,
    Catalog,
    catalog_of,
)
from gateway.classification.classifier import Classifier
from gateway.classification.names import is_node_relation
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres

OBJECTS = """
    CREATE SCHEMA s;
    CREATE TABLE t (a int, b text);
    CREATE TABLE audited (a int);
    CREATE UNLOGGED TABLE unlogged (a int);
    CREATE TABLE s.parent (a int) PARTITION BY RANGE (a);
    CREATE UNLOGGED TABLE child PARTITION OF s.parent FOR VALUES FROM (0) TO (10);
    CREATE SEQUENCE numbers;
    CREATE FUNCTION audit(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION of_row(t) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION stable_of_user(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 1';
    CREATE FUNCTION s.initcap(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION s.random(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION pg_temp.length(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE FUNCTION add_loudly(int, int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1';
    CREATE AGGREGATE loud_sum(int) (sfunc = add_loudly, stype = int);
    CREATE AGGREGATE quiet_sum(int) (sfunc = int4pl, stype = int);
    CREATE OPERATOR <~> (leftarg = int, rightarg = int, function = add_loudly);
    CREATE VIEW quiet AS SELECT a, lower(b) AS b, current_setting('app.x', true) FROM t;
    CREATE VIEW s.loud AS SELECT audit(a) AS a FROM t;
    CREATE VIEW of_loud AS SELECT * FROM s.loud;
    CREATE VIEW of_of_loud AS SELECT 1 AS a WHERE EXISTS (SELECT FROM of_loud);
    CREATE VIEW statistics AS SELECT * FROM pg_stat_activity;
    CREATE VIEW of_parent AS SELECT * FROM s.parent;
    CREATE VIEW operating AS SELECT a <~> 1 AS a FROM t;
    CREATE MATERIALIZED VIEW stored AS SELECT audit(a) AS a FROM t;
    CREATE POLICY p ON t FOR SELECT USING (b = current_user);
    CREATE POLICY p ON audited USING (audit(a) = 1);
    CREATE POLICY q ON audited FOR INSERT WITH CHECK (true);
"""


@pytest.fixture(scope="module")
def connection(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[psycopg.Connection]:
    """To a server with the objects above."""
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    try:
        server = fleet.server("s")
        server.start_blocking()
        with psycopg.connect(server.conninfo(), autocommit=True) as connection:
            connection.execute(OBJECTS.encode())
            yield connection
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def catalog(connection: psycopg.Connection) -> Catalog:
    """What is read from it by a role without rights."""
    connection.execute("CREATE ROLE reader")
    connection.execute("SET ROLE reader")
    rows = [
        connection.execute(text.encode()).fetchall()
        for text in (FUNCTIONS_SQL, OPERATORS_SQL, VIEWS_SQL)
    ]
    connection.execute("RESET ROLE")
    return catalog_of(*rows)


def test_volatility_of_built_in_functions_is_known(catalog: Catalog) -> None:
    known = catalog.stable_functions
    assert len(known) > 2000
    assert known >= {"now", "lower", "count", "max", "rank", "generate_series", "current_setting"}
    assert known >= {"clock_timestamp", "gen_random_uuid", "pg_sleep", "pg_table_is_visible"}
    assert not known & {"nextval", "setval", "pg_notify", "pg_advisory_lock", "set_config"}
    assert not known & {"lo_create", "query_to_xml", "txid_current", "pg_is_in_recovery"}
    assert not known & {"pg_backend_pid", "pg_stat_get_numscans", "pg_show_all_settings"}


def test_functions_of_users_are_judged_by_all_of_their_name(catalog: Catalog) -> None:
    assert catalog.stable_functions >= {"stable_of_user", "quiet_sum", "length"}
    assert not catalog.stable_functions & {"audit", "initcap", "random", "loud_sum"}
    assert catalog.volatile_functions >= {"audit", "of_row", "nextval", "setseed"}


def test_only_operators_of_volatile_functions_are_volatile(catalog: Catalog) -> None:
    assert catalog.volatile_operators == {"<~>"}


def test_relations_that_replicas_must_not_read_are_found(catalog: Catalog) -> None:
    assert catalog.unsafe_views == {
        "audited",
        "child",
        "loud",
        "numbers",
        "of_loud",
        "of_of_loud",
        "of_parent",
        "operating",
        "parent",
        "statistics",
        "unlogged",
    }


def test_every_built_in_view_that_is_not_of_a_node_is_safe(
    connection: psycopg.Connection, catalog: Catalog
) -> None:
    definitions = connection.execute(
        "SELECT relname, pg_get_viewdef(c.oid) FROM pg_class c "
        "WHERE relkind = 'v' AND relnamespace IN ('pg_catalog'::regnamespace, "
        "'information_schema'::regnamespace)"
    ).fetchall()
    assert len(definitions) > 100
    functions = [(name, False, False, False) for name in catalog.stable_functions]
    unsafe = catalog_of(functions, [], definitions).unsafe_views
    assert {name for name in unsafe if not is_node_relation(name)} == set()


@pytest.mark.parametrize(
    ("text", "reads_only"),
    [
        ("SELECT lower(b), trim(b), extract(year FROM now()), b || 'x' FROM t", True),
        ("SELECT substring(b FROM 1 FOR 2), position('a' IN b) FROM t", True),
        ("SELECT overlay(b PLACING 'x' FROM 1) FROM t", True),
        ("SELECT now() AT TIME ZONE 'UTC', (now(), now()) OVERLAPS (now(), now())", True),
        ("SELECT b SIMILAR TO 'a', b LIKE 'a' ESCAPE '!', normalize(b) FROM t", True),
        ("SELECT count(*), sum(a), rank() OVER (ORDER BY a) FROM t GROUP BY a", True),
        ("SELECT * FROM quiet, stored", True),
        ("SELECT * FROM information_schema.columns", True),
        ("SELECT quiet_sum(a) FROM t", True),
        ("SELECT loud_sum(a) FROM t", False),
        ("SELECT t.of_row FROM t", False),
        ("SELECT ('numbers'::regclass).nextval", False),
        ("SELECT last_value FROM numbers", False),
        ("SELECT * FROM s.loud", False),
        ("TABLE s.parent", False),
    ],
)
def test_statement_is_classified_and_the_server_understands_it(
    connection: psycopg.Connection, catalog: Catalog, text: str, *, reads_only: bool
) -> None:
    assert Classifier(catalog).classify(text.encode()).reads_only is reads_only
    connection.execute(f"EXPLAIN {text}".encode())
