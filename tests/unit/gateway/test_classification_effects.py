"""What statements leave in their session: effects, and pins that no other server can be given."""

import pytest
from unit.gateway.test_classification_statements import query

from gateway.classification.statements import (
    DeallocateStatement,
    Discard,
    Effect,
    Listen,
    Pin,
    PrepareStatement,
    ResetAll,
    ResetVariable,
    SetOurs,
    SetVariable,
    ShowOurs,
    Unlisten,
)

EFFECTS: list[tuple[str, tuple[Effect, ...]]] = [
    ("SET work_mem = '1MB'", (SetVariable("work_mem", is_local=False),)),
    ("SET SESSION Work_Mem TO 5", (SetVariable("work_mem", is_local=False),)),
    ('SET "Work_Mem" TO 5', (SetVariable("work_mem", is_local=False),)),
    ("SET LOCAL work_mem = '1MB'", (SetVariable("work_mem", is_local=True),)),
    ("SET app.tenant = 'x'", (SetVariable("app.tenant", is_local=False),)),
    ("SET search_path TO a, b", (SetVariable("search_path", is_local=False),)),
    ("SET SCHEMA 'a'", (SetVariable("search_path", is_local=False),)),
    ("SET NAMES 'utf8'", (SetVariable("client_encoding", is_local=False),)),
    ("SET x FROM CURRENT", (SetVariable("x", is_local=False),)),
    ("SET ROLE u", (SetVariable("role", is_local=False),)),
    ("SET ROLE NONE", (SetVariable("role", is_local=False),)),
    ("SET LOCAL ROLE u", (SetVariable("role", is_local=True),)),
    ("SET SESSION AUTHORIZATION u", (SetVariable("session_authorization", is_local=False),)),
    ("SET SESSION AUTHORIZATION DEFAULT", (ResetVariable("session_authorization"),)),
    ("SET TIME ZONE 'UTC'", (SetVariable("timezone", is_local=False),)),
    ("SET TIME ZONE LOCAL", (ResetVariable("timezone"),)),
    ("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", (SetVariable("timezone", is_local=False),)),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        (SetVariable("session characteristics", is_local=False),),
    ),
    ("SET TRANSACTION READ ONLY", (SetVariable("transaction", is_local=True),)),
    ("SET TRANSACTION SNAPSHOT 'x'", (SetVariable("transaction snapshot", is_local=True),)),
    ("SET transaction_read_only = on", (SetVariable("transaction_read_only", is_local=True),)),
    ("SET work_mem TO DEFAULT", (ResetVariable("work_mem"),)),
    ("SET LOCAL work_mem TO DEFAULT", (SetVariable("work_mem", is_local=True),)),
    ("RESET work_mem", (ResetVariable("work_mem"),)),
    ("RESET ROLE", (ResetVariable("role"),)),
    ("RESET TIME ZONE", (ResetVariable("timezone"),)),
    ("RESET ALL", (ResetAll(),)),
    ("SELECT set_config('App.b', 'c', false)", (SetVariable("app.b", is_local=False),)),
    ("SELECT pg_catalog.set_config('a.b', '', true)", (SetVariable("a.b", is_local=True),)),
    ("SELECT set_config('a.b'::text, 'c', 'f'::bool)", (SetVariable("a.b", is_local=False),)),
    ("SELECT set_config('seawall.read', 'auto', false)", (SetVariable("seawall.read", False),)),
    (
        "SELECT set_config('a.b', '1', false), set_config('a.b', '2', false)",
        (SetVariable("a.b", is_local=False),),
    ),
    ("SET seawall.read = 'auto'", (SetOurs("seawall.read", "auto"),)),
    ("SET seawall.read = auto", (SetOurs("seawall.read", "auto"),)),
    ("SET Seawall.Read TO 'replica(5ms)'", (SetOurs("seawall.read", "replica(5ms)"),)),
    ("SET seawall.read TO 'primary', auto", (SetOurs("seawall.read", "primary, auto"),)),
    ("SET seawall.read = primary", (SetOurs("seawall.read", "primary"),)),
    ("set session Seawall.read to Primary ;", (SetOurs("seawall.read", "Primary"),)),
    ("SET LOCAL seawall.read=replica(5 ms)", (SetOurs("seawall.read", "replica(5 ms)", True),)),
    ("SET seawall.position = '1/2A'", (SetOurs("seawall.position", "1/2A"),)),
    ("SET seawall.other = 5", (SetOurs("seawall.other", "5"),)),
    ("SET LOCAL seawall.read = 'auto'", (SetOurs("seawall.read", "auto", is_local=True),)),
    ("SET seawall.read TO DEFAULT", (SetOurs("seawall.read", None),)),
    ("RESET seawall.read", (SetOurs("seawall.read", None),)),
    ("SHOW seawall.read", (ShowOurs("seawall.read"),)),
    ("SHOW SEAWALL.POSITION", (ShowOurs("seawall.position"),)),
    ("PREPARE p AS SELECT 1", (PrepareStatement("p"),)),
    ("PREPARE p (int) AS INSERT INTO t VALUES ($1)", (PrepareStatement("p"),)),
    (
        "PREPARE p AS SELECT set_config('a.b', 'c', false)",
        (PrepareStatement("p"), Pin("a prepared statement that changes the session")),
    ),
    (
        "PREPARE p AS SELECT pg_advisory_lock(1)",
        (PrepareStatement("p"), Pin("an advisory lock")),
    ),
    ("DEALLOCATE p", (DeallocateStatement("p"),)),
    ("DEALLOCATE PREPARE ALL", (DeallocateStatement(None),)),
    ("LISTEN a", (Listen("a"),)),
    ("LISTEN A", (Listen("a"),)),
    ('LISTEN "A"', (Listen("A"),)),
    ("UNLISTEN a", (Unlisten("a"),)),
    ("UNLISTEN *", (Unlisten(None),)),
    ("DISCARD ALL", (Discard("all"),)),
    ("DISCARD TEMP", (Discard("temp"),)),
    ("DISCARD TEMPORARY", (Discard("temp"),)),
    ("DISCARD PLANS", (Discard("plans"),)),
    ("DISCARD SEQUENCES", (Discard("sequences"),)),
]

TEMPORARY = "a temporary table, view or sequence"
PINS = [
    ("CREATE TEMP TABLE t (a int)", TEMPORARY),
    ("CREATE LOCAL TEMPORARY TABLE t (a int) ON COMMIT DROP", TEMPORARY),
    ("CREATE TEMP TABLE t AS SELECT 1", TEMPORARY),
    ("CREATE TEMP TABLE t AS EXECUTE p", TEMPORARY),
    ("SELECT 1 INTO TEMP t", TEMPORARY),
    ("CREATE TEMP VIEW v AS SELECT 1", TEMPORARY),
    ("CREATE TEMP SEQUENCE s", TEMPORARY),
    ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", TEMPORARY),
    ("CREATE TABLE pg_temp.t (a int)", "a temporary object"),
    ("SELECT * FROM pg_temp.t", "a temporary object"),
    ("SELECT * FROM pg_temp_3.t", "a temporary object"),
    ("INSERT INTO pg_temp.t VALUES (1)", "a temporary object"),
    ("SELECT pg_temp.f()", "a temporary object"),
    ("SELECT 'x'::pg_temp.t", "a temporary object"),
    ("DROP TABLE pg_temp.t", "a temporary object"),
    ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "a temporary object"),
    ("CREATE TYPE pg_temp.t AS ENUM ('a')", "a temporary object"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "a cursor WITH HOLD"),
    ("LOAD 'auto_explain'", "a loaded library"),
    ("SELECT pg_advisory_lock(1)", "an advisory lock"),
    ("SELECT pg_try_advisory_lock(1, 2)", "an advisory lock"),
    ("SELECT pg_advisory_lock_shared(1)", "an advisory lock"),
    ("SELECT 1 WHERE pg_catalog.pg_try_advisory_lock_shared(1)", "an advisory lock"),
    ("INSERT INTO t SELECT pg_advisory_lock(1)", "an advisory lock"),
    ("SELECT (1::bigint).pg_advisory_lock", "an advisory lock"),
    ("CALL p(pg_advisory_lock(1))", "an advisory lock"),
    ("COPY (SELECT pg_advisory_lock(1)) TO STDOUT", "an advisory lock"),
    ("SELECT dblink_connect('c', 'dbname=x')", "a connection of dblink"),
    ("SELECT setseed(0.5)", "a seed of random()"),
    ("SELECT set_limit(0.5)", "a limit of pg_trgm"),
    ("SELECT pg_create_logical_replication_slot('s', 'p', true)", "a replication slot"),
    ("SELECT pg_backup_start('x')", "a backup"),
    ("SELECT set_config($1, 'x', false)", "a setting whose name or value is computed"),
    ("SELECT set_config('a.b', $1, false)", "a setting whose name or value is computed"),
    ("SELECT set_config('a.b', 'x', $1)", "a setting whose name or value is computed"),
    ("SELECT set_config('a.b', 'x', NULL)", "a setting whose name or value is computed"),
    ("SELECT set_config(name, 'x', false) FROM t", "a setting whose name or value is computed"),
    ("UPDATE pg_settings SET setting = 'x' WHERE name = 'y'", "a setting made through pg_settings"),
]


@pytest.mark.parametrize(("text", "effects"), EFFECTS)
def test_effect_is_seen(text: str, effects: tuple[Effect, ...]) -> None:
    found = query(text)
    (statement,) = found.statements
    assert statement.effects == effects
    assert not found.reads_only
    assert not found.is_plain


@pytest.mark.parametrize(("text", "reason"), PINS)
def test_what_no_other_server_can_be_given_pins_the_session(text: str, reason: str) -> None:
    found = query(text)
    assert Pin(reason) in found.statements[0].effects
    assert not found.reads_only
    assert not found.is_plain


def test_effects_of_several_statements_are_kept_apart() -> None:
    found = query("SET a.b = 1; SELECT 1; LISTEN c")
    assert [one.kind for one in found.statements] == ["SET", "SELECT", "LISTEN"]
    assert [one.effects for one in found.statements] == [
        (SetVariable("a.b", is_local=False),),
        (),
        (Listen("c"),),
    ]
