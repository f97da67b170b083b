"""What statements are: where each may run, whether again, what it leaves in the session.

Every row is a statement as a client may send it, classified by parsing; the caches have tests of
their own. The catalog is a small one of a database with some functions of users.
"""

import pytest

from gateway.classification.catalog import Catalog
from gateway.classification.classifier import Classifier, read
from gateway.classification.statements import (
    Query,
    Transaction,
)
from gateway.reading import AUTO, PRIMARY_ONLY, ReadMode

STABLE_FUNCTIONS = """
    abs btrim clock_timestamp count current_setting date_trunc extract gen_random_uuid
    generate_series json_agg length like_escape lower max normalize now overlaps overlay
    pg_sleep pg_table_is_visible position random rank row_number similar_to_escape
    stable_of_user substring sum timezone to_tsvector unnest upper version xmlexists
"""
CATALOG = Catalog(
    stable_functions=frozenset(STABLE_FUNCTIONS.split()),
    volatile_operators=frozenset({"<~>"}),
    unsafe_views=frozenset({"counting_view", "unlogged", "view2"}),
    volatile_functions=frozenset({"next_id", "setseed", "nextval"}),
)

READS = """
    SELECT
    SELECT 1
    SELECT $1::int + 1
    TABLE t
    VALUES (1, 'a'), (2, 'b')
    SELECT abalance FROM pgbench_accounts WHERE aid = 12345;
    SELECT * FROM t AS a (x, y) JOIN s.u USING (id) LEFT JOIN v ON a.x = v.y NATURAL JOIN w
    SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, b DESC NULLS LAST LIMIT 10 OFFSET 5
    SELECT a FROM t ORDER BY a FETCH FIRST 3 ROWS WITH TIES
    SELECT count(*), sum(x) FILTER (WHERE y > 0) FROM t GROUP BY z HAVING max(x) > 5
    SELECT GROUPING(a), count(*) FROM t GROUP BY GROUPING SETS ((a), CUBE (b, c), ROLLUP (d))
    SELECT rank() OVER (PARTITION BY a ORDER BY b USING <) FROM t
    SELECT row_number() OVER w FROM t WINDOW w AS (ORDER BY a ROWS UNBOUNDED PRECEDING)
    SELECT 1 UNION ALL SELECT 2 EXCEPT SELECT 3 INTERSECT (SELECT 4)
    WITH a AS (SELECT 1), b AS MATERIALIZED (SELECT * FROM a) SELECT * FROM b
    WITH RECURSIVE a (n) AS (SELECT 1 UNION SELECT n + 1 FROM a) CYCLE n SET c USING p TABLE a
    SELECT * FROM (SELECT * FROM t) a, LATERAL (SELECT * FROM u WHERE u.x = a.x) b
    SELECT * FROM generate_series(1, 10) WITH ORDINALITY AS g (n, o)
    SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY[1, 2])) AS r (a, b)
    SELECT * FROM t TABLESAMPLE system (10) REPEATABLE (1)
    SELECT x IN (1, 2), y BETWEEN 1 AND 2, z LIKE 'a%' ESCAPE '!', a SIMILAR TO 'x', b IS NULL
    SELECT a = ANY (ARRAY[1, 2]), b > ALL (SELECT 1), (a, b) = (1, 2), a IS DISTINCT FROM b
    SELECT EXISTS (SELECT 1 FROM t WHERE NOT a AND (b OR c)), ARRAY(SELECT 1), (SELECT 1)
    SELECT CASE a WHEN 1 THEN 2 ELSE 3 END, COALESCE(a, b), NULLIF(a, b), GREATEST(a, b)
    SELECT now(), CURRENT_TIMESTAMP, CURRENT_USER, CURRENT_DATE, SESSION_USER, CURRENT_SCHEMA
    SELECT random(), clock_timestamp(), gen_random_uuid(), pg_sleep(1)
    SELECT extract(year FROM x), x AT TIME ZONE 'UTC', date_trunc('day', x) FROM t
    SELECT overlay(x PLACING y FROM 1), position(a IN b), substring(a FROM 1 FOR 2), trim(a) FROM t
    SELECT (a, b) OVERLAPS (c, d), normalize(x), x COLLATE "C", x IS DOCUMENT, x IS JSON FROM t
    SELECT pg_catalog.lower('A'), "upper"('a'), LENGTH('x'), public.stable_of_user(1)
    SELECT x::numeric(10, 2), CAST(y AS text), date '2020-01-01', interval '1' day FROM t
    SELECT (row_of_t).a, (SELECT t).b, x[1], y[1:2], t.*, s.t.a, ROW(1, 2) FROM s.t
    SELECT JSON_OBJECT('a': 1), JSON_VALUE(x, '$'), JSON_EXISTS(x, '$'), JSON_ARRAY(1) FROM t
    SELECT * FROM JSON_TABLE(x, '$' COLUMNS (a int, NESTED '$' COLUMNS (b text)))
    SELECT * FROM XMLTABLE('/a' PASSING x COLUMNS a int DEFAULT 1)
    SELECT xmlelement(name a, xmlattributes(1 AS b)), xmlserialize(CONTENT x AS text) FROM t
    SELECT a OPERATOR(pg_catalog.+) b, a @> b, - a, a || b, a -> 'x', a ->> 'y', a ? 'z' FROM t
    SELECT relname FROM pg_catalog.pg_class WHERE pg_table_is_visible(oid)
    SELECT * FROM information_schema.tables
    SELECT current_setting('app.tenant', true)
    SELECT nextval FROM t
    SELECT t.random, t.set_limit FROM t
    -- a comment
    /* a comment */ SELECT 1 /* another */ -- and one more
    ;
    ;;
    SELECT 1; SELECT 2; SELECT lower('a')
    SELECT 'INSERT INTO t', $$DELETE FROM t$$, E'\\'; DROP TABLE t; --'
    SELECT "insert", "for update" FROM "delete"
    SELECT * FROM "SELECT"."INTO"
""".strip().splitlines()

OTHER_READS = """
    EXPLAIN SELECT 1
    EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT * FROM t
    EXPLAIN VALUES (1)
""".strip().splitlines()

READS_THAT_ARE_NOT_SENT_AGAIN = """
    DECLARE c CURSOR FOR SELECT * FROM t
    DECLARE c BINARY SCROLL CURSOR WITHOUT HOLD FOR SELECT * FROM t
    FETCH 10 FROM c
    FETCH BACKWARD ALL IN c
    MOVE NEXT FROM c
    CLOSE c
    CLOSE ALL
    COPY t TO STDOUT
    COPY t (a, b) TO STDOUT WITH (FORMAT csv)
    COPY (SELECT * FROM t) TO STDOUT
""".strip().splitlines()

WRITES = """
    INSERT INTO t VALUES (1) RETURNING *
    INSERT INTO t DEFAULT VALUES
    INSERT INTO t SELECT * FROM u ON CONFLICT (a) DO UPDATE SET b = excluded.b
    UPDATE t SET a = a + 1 WHERE b = 2
    UPDATE ONLY t SET (a, b) = (SELECT 1, 2) FROM u WHERE t.x = u.x
    DELETE FROM t USING u WHERE t.a = u.a
    UPDATE t SET a = 1 WHERE CURRENT OF c
    MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING
    WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a
    WITH a AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM a
    WITH a AS (WITH b AS (DELETE FROM t RETURNING *) SELECT * FROM b) SELECT 1
    SELECT * FROM (WITH a AS (UPDATE t SET x = 1 RETURNING x) SELECT * FROM a) b
    SELECT * FROM t FOR UPDATE
    SELECT * FROM t FOR NO KEY UPDATE OF t NOWAIT
    SELECT * FROM t FOR KEY SHARE SKIP LOCKED
    SELECT * FROM (SELECT * FROM t FOR SHARE) a
    SELECT 1 WHERE EXISTS (SELECT 1 FROM t FOR UPDATE)
    SELECT nextval('s')
    SELECT pg_catalog.nextval('s')
    SELECT "nextval"('s')
    SELECT setval('s', 1), currval('s'), lastval()
    SELECT ('s'::regclass).nextval
    SELECT t.next_id FROM t
    SELECT (t).next_id FROM t
    SELECT volatile_of_user()
    SELECT unknown_function(1)
    SELECT s.unknown_function(1) FROM t
    SELECT * FROM unknown_function(1)
    SELECT * FROM ROWS FROM (generate_series(1, 2), unknown_function(1)) r
    SELECT 1 FROM t ORDER BY unknown_function(a)
    SELECT 1 LIMIT unknown_function(1)
    SELECT x[unknown_function(1)] FROM t
    SELECT CASE WHEN true THEN unknown_function(1) END
    SELECT lower(upper(unknown_function('x')))
    SELECT count(*) FILTER (WHERE unknown_function(x)) FROM t
    SELECT sum(x) OVER (PARTITION BY unknown_function(y)) FROM t
    SELECT 1 FROM t JOIN u ON unknown_function(t.a)
    SELECT 1 FROM t WINDOW w AS (ORDER BY unknown_function(a))
    VALUES (unknown_function(1))
    SELECT 1 UNION SELECT unknown_function(1)
    SELECT DISTINCT ON (unknown_function(1)) 1
    SELECT JSON_VALUE(unknown_function(1), '$')
    SELECT xmlelement(name a, unknown_function(1))
    SELECT a <~> b FROM t
    SELECT a OPERATOR(s.<~>) b FROM t
    SELECT a <~> ANY (ARRAY[1]) FROM t
    SELECT a <~> ALL (SELECT 1) FROM t
    SELECT a FROM t ORDER BY a USING <~>
    SELECT * FROM counting_view
    SELECT * FROM s.counting_view v
    SELECT * FROM unlogged
    SELECT * FROM t WHERE a IN (SELECT a FROM counting_view)
    TABLE counting_view
    SELECT * FROM pg_stat_activity
    SELECT * FROM pg_catalog.pg_stat_replication
    SELECT * FROM pg_locks
    SELECT * FROM pg_settings
    SELECT * FROM pg_cursors, pg_prepared_statements
    SELECT * FROM pg_prepared_xacts
    SELECT * FROM pg_replication_slots
    SELECT * FROM pg_sequences
    SELECT pg_is_in_recovery()
    SELECT pg_last_wal_replay_lsn()
    SELECT pg_current_wal_lsn()
    SELECT pg_backend_pid()
    SELECT inet_server_addr()
    SELECT pg_postmaster_start_time()
    SELECT txid_current()
    SELECT pg_current_snapshot()
    SELECT pg_export_snapshot()
    SELECT pg_stat_get_numscans(1)
    SELECT pg_listening_channels()
    SELECT pg_notify('a', 'b')
    SELECT pg_advisory_xact_lock(1)
    SELECT pg_try_advisory_xact_lock_shared(1, 2)
    SELECT pg_advisory_unlock_all()
    SELECT lo_open(1, 2)
    SELECT lo_create(0)
    SELECT current_setting('port')
    SELECT current_setting($1)
    SELECT current_setting(x) FROM t
    SELECT current_setting('app.' || 'tenant')
    SELECT 1; INSERT INTO t VALUES (1)
    INSERT INTO t VALUES (1); SELECT 1
""".strip().splitlines()

OTHER_WRITES = """
    EXPLAIN INSERT INTO t VALUES (1)
    EXPLAIN SELECT nextval('s')
    SHOW work_mem
    SHOW ALL
    SHOW TRANSACTION ISOLATION LEVEL
""".strip().splitlines()

NEVER_AGAIN = """
    EXPLAIN ANALYZE SELECT 1
    EXPLAIN (ANALYZE false) SELECT 1
    EXPLAIN (ANALYZE) INSERT INTO t VALUES (1)
    SELECT 1 INTO t
    SELECT * INTO UNLOGGED t FROM u
    CREATE TABLE t AS SELECT 1
    CREATE MATERIALIZED VIEW m AS SELECT 1
    REFRESH MATERIALIZED VIEW m
    CREATE TABLE t (a int DEFAULT nextval('s'))
    CREATE TABLE t (a int DEFAULT pg_try_advisory_lock(1)::int)
    CREATE VIEW v AS SELECT set_config('a.b', 'c', false)
    CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT pg_advisory_lock(1); END
    CREATE INDEX CONCURRENTLY i ON t (a)
    ALTER TABLE t ADD COLUMN a int
    DROP TABLE t
    TRUNCATE t
    LOCK TABLE t
    VACUUM
    ANALYZE t
    REINDEX TABLE t
    CLUSTER
    CHECKPOINT
    CALL p(1)
    DO $$ BEGIN PERFORM 1; END $$
    EXECUTE p(1)
    NOTIFY a, 'b'
    GRANT SELECT ON t TO u
    ALTER SYSTEM SET work_mem = '1MB'
    ALTER ROLE u SET work_mem = '1MB'
    ALTER DATABASE d SET work_mem = '1MB'
    SET CONSTRAINTS ALL DEFERRED
    COMMENT ON TABLE t IS 'x'
    CREATE DATABASE d
    COPY t FROM STDIN
    COPY t FROM '/file'
    COPY t TO '/file'
    COPY t TO PROGRAM 'cat'
    COPY counting_view TO STDOUT
    COPY pg_settings TO STDOUT
    COPY (SELECT nextval('s')) TO STDOUT
    COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT
    DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE
    DECLARE c CURSOR FOR SELECT nextval('s')
    SELECT dblink_exec('c', 'INSERT INTO t VALUES (1)')
    SELECT pg_terminate_backend(1)
    SELECT pg_switch_wal()
    INSERT INTO t SELECT * FROM dblink('c', 'DELETE FROM t RETURNING a') d (a int)
    COMMIT PREPARED 'x'
    ROLLBACK PREPARED 'x'
    SELECT 1; VACUUM
""".strip().splitlines()

TRANSACTIONS = [
    ("BEGIN", Transaction.BEGIN),
    ("BEGIN WORK", Transaction.BEGIN),
    ("START TRANSACTION", Transaction.BEGIN),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE", Transaction.BEGIN),
    ("BEGIN READ WRITE", Transaction.BEGIN),
    ("BEGIN READ ONLY, READ WRITE", Transaction.BEGIN),
    ("BEGIN READ WRITE, READ ONLY", Transaction.BEGIN),
    ("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", Transaction.BEGIN),
    ("START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE, DEFERRABLE", Transaction.BEGIN),
    ("BEGIN READ ONLY", Transaction.BEGIN_READ_ONLY),
    ("begin transaction read only", Transaction.BEGIN_READ_ONLY),
    ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", Transaction.BEGIN_READ_ONLY),
    ("START TRANSACTION READ ONLY, DEFERRABLE", Transaction.BEGIN_READ_ONLY),
    ("COMMIT", Transaction.COMMIT),
    ("END", Transaction.COMMIT),
    ("COMMIT AND NO CHAIN", Transaction.COMMIT),
    ("COMMIT AND CHAIN", Transaction.COMMIT_AND_CHAIN),
    ("ROLLBACK", Transaction.ROLLBACK),
    ("ABORT", Transaction.ROLLBACK),
    ("ROLLBACK AND CHAIN", Transaction.ROLLBACK_AND_CHAIN),
    ("SAVEPOINT a", Transaction.SAVEPOINT),
    ("ROLLBACK TO SAVEPOINT a", Transaction.ROLLBACK_TO),
    ("RELEASE a", Transaction.RELEASE),
    ("PREPARE TRANSACTION 'x'", Transaction.PREPARE_TRANSACTION),
]

INVALID_TEXTS = [
    "SELEC 1",
    "SELECT 'a",
    "SELECT (",
    "BEGIN; SELEC",
    "SET x",
    "SELECT $$",
    "/*",
    "\\",
]


def query(text: str) -> Query:
    return read(text.strip().encode(), CATALOG)


@pytest.mark.parametrize("text", READS)
def test_read_may_go_to_a_replica_and_be_sent_again(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (True, True, True)
    assert not found.is_unknown
    assert {one.kind for one in found.statements} <= {"SELECT", "VALUES"}


@pytest.mark.parametrize("text", OTHER_READS)
def test_explain_of_a_read_is_a_read(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (True, True, True)


@pytest.mark.parametrize("text", READS_THAT_ARE_NOT_SENT_AGAIN)
def test_cursors_and_copies_of_reads_are_reads_that_are_not_sent_again(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (True, False, True)


@pytest.mark.parametrize("text", WRITES)
def test_what_may_write_goes_to_the_primary_and_may_be_sent_again(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (False, True, True)
    assert not found.is_unknown


@pytest.mark.parametrize("text", OTHER_WRITES)
def test_what_tells_of_the_primary_goes_there_and_may_be_sent_again(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (False, True, True)


@pytest.mark.parametrize("text", NEVER_AGAIN)
def test_other_statements_go_to_the_primary_once(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_plain) == (False, False, True)
    assert not found.is_unknown


@pytest.mark.parametrize(("text", "transaction"), TRANSACTIONS)
def test_transaction_control_is_seen(text: str, transaction: Transaction) -> None:
    found = query(text)
    (statement,) = found.statements
    assert statement.transaction is transaction
    assert found.reads_only is (transaction is Transaction.BEGIN_READ_ONLY)
    assert not found.is_plain
    assert not found.is_rerunnable


def test_savepoints_have_their_names() -> None:
    found = query('SAVEPOINT a; ROLLBACK TO B; RELEASE "C"; ROLLBACK')
    assert [one.savepoint for one in found.statements] == ["a", "b", "C", ""]


def test_transaction_in_one_message_is_none_that_a_replica_may_have() -> None:
    assert not query("BEGIN READ ONLY; SELECT 1; COMMIT").reads_only
    assert not query("BEGIN READ ONLY; SELECT 1").reads_only
    assert query("SELECT 1; SELECT 2").reads_only


@pytest.mark.parametrize("text", INVALID_TEXTS)
def test_invalid_text_goes_to_the_primary_and_leaves_nothing(text: str) -> None:
    found = query(text)
    assert (found.reads_only, found.is_rerunnable, found.is_unknown) == (False, False, True)
    assert [one.effects for one in found.statements] == [()]


def test_explain_without_analyze_does_nothing() -> None:
    assert query("EXPLAIN SELECT pg_advisory_lock(1)").is_plain
    assert query("EXPLAIN CREATE TEMP TABLE t AS SELECT 1").is_plain


def test_without_a_catalog_all_that_calls_a_function_goes_to_the_primary() -> None:
    assert read(b"SELECT a FROM t WHERE b = 1", Catalog.EMPTY).reads_only
    assert not read(b"SELECT lower(a) FROM t", Catalog.EMPTY).reads_only
    assert not read(b"SELECT trim(a) FROM t", Catalog.EMPTY).reads_only


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CREATE TABLE t (a int)", "CREATE TABLE"),
        ("CREATE INDEX i ON t (a)", "CREATE INDEX"),
        ("ALTER TABLE t ADD a int", "ALTER TABLE"),
        ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
        ("VACUUM", "VACUUM"),
        ("DROP TABLE t", "DROP"),
        ("GRANT SELECT ON t TO u", "GRANT"),
        ("SELECT 1 INTO t", "SELECT INTO"),
        ("DISCARD ALL", "DISCARD"),
    ],
)
def test_kind_is_a_short_tag(text: str, kind: str) -> None:
    assert query(text).statements[0].kind == kind


HINTS = [
    ("/* seawall.read = primary */ SELECT 1", PRIMARY_ONLY),
    ("/*seawall.read=auto*/SELECT 1", AUTO),
    ("/* Seawall.READ = Auto */ SELECT 1", AUTO),
    ("/* seawall.read = replica(500ms) */ SELECT 1", ReadMode(True, 500)),
    ("  \n-- x\n/* other */\n/* seawall.read = auto */ SELECT 1", AUTO),
    ("/* a /* nested */ comment */ /* seawall.read = auto */ SELECT 1", AUTO),
    ("/* seawall.read = nonsense */ /* seawall.read = auto */ SELECT 1", AUTO),
    ("/* seawall.read = nonsense */ SELECT 1", None),
    ("/* seawall.read */ SELECT 1", None),
    ("/* a /* seawall.read = auto */ */ SELECT 1", None),
    ("-- /* seawall.read = auto */\nSELECT 1", None),
    ("SELECT 1 /* seawall.read = auto */", None),
    ("SELECT '/* seawall.read = auto */'", None),
    ("SELECT 1; /* seawall.read = auto */ SELECT 2", None),
]


@pytest.mark.parametrize(("text", "mode"), HINTS)
def test_hint_is_a_comment_before_the_first_word(text: str, mode: ReadMode | None) -> None:
    found = query(text)
    assert found.mode == mode
    assert found.is_plain is (mode is None)
    assert found.reads_only


def test_hint_makes_no_read_of_a_write() -> None:
    found = query("/* seawall.read = auto */ DELETE FROM t")
    assert found.mode == AUTO
    assert not found.reads_only


def test_classifier_says_the_same() -> None:
    classifier = Classifier(CATALOG)
    texts = [*READS, *WRITES, *NEVER_AGAIN, *INVALID_TEXTS]
    for text in [*texts, *texts]:
        assert classifier.classify(text.encode()) == read(text.encode(), CATALOG)
