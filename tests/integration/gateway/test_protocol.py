"""Unusual but lawful talk is answered by the gateway as by the server, byte for byte.

Each story is sent to a server in one piece behind a login, and ends with Terminate, so that
everything up to the end of the connection is the answer; a gateway is waited for, as it may
drop the answers of a client that has left. In scope: what drivers send before
they have seen an answer, batches that end late, and errors in the middle of both.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from fixtures.waiting import eventually
from integration.gateway.raw_client import RawClient, frame

if TYPE_CHECKING:
    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres


def query(text: str) -> bytes:
    return frame(ord("Q"), text.encode() + b"\0")


def parse(name: str, text: str) -> bytes:
    return frame(ord("P"), name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(statement: str, *values: bytes, portal: str = "") -> bytes:
    body = portal.encode() + b"\0" + statement.encode() + b"\0" + struct.pack(">hh", 0, len(values))
    for value in values:
        body += struct.pack(">i", len(value)) + value
    return frame(ord("B"), body + b"\0\0")


def execute(portal: str = "", rows_max: int = 0) -> bytes:
    return frame(ord("E"), portal.encode() + b"\0" + struct.pack(">i", rows_max))


def close(name: str) -> bytes:
    return frame(ord("C"), b"S" + name.encode() + b"\0")


def describe(kind: str, name: str) -> bytes:
    return frame(ord("D"), kind.encode() + name.encode() + b"\0")


SILENCE_S = 5.0  # a failure
QUIET = "-c client_min_messages=error"
INT4ABS = 1397  # the number of a function
SYNC, FLUSH, END = frame(ord("S"), b""), frame(ord("H"), b""), frame(ord("X"), b"")
COPIED, COPY_DONE = frame(ord("d"), b"1\n2\n"), frame(ord("c"), b"")
COPY_FAIL = frame(ord("f"), b"given up\0")
ONE = parse("", "select 1") + bind("") + execute()
TABLE = query("create temp table t (a int)")

STORIES: dict[str, bytes] = {
    "data of a copy before the server asks for it": (
        TABLE + query("copy t from stdin") + COPIED + COPY_DONE + query("select sum(a) from t")
    ),
    "a copy that the client gives up at once": (
        TABLE + query("copy t from stdin") + COPIED + COPY_FAIL + query("select count(*) from t")
    ),
    "data of a copy that is refused": (
        query("copy missing from stdin") + COPIED + COPY_DONE + query("select 1")
    ),
    "a copy in the extended protocol": (
        TABLE + parse("", "copy t from stdin") + bind("") + execute()
        + COPIED + COPY_DONE + SYNC + query("select sum(a) from t")
    ),
    "a copy in the middle of several statements": (
        TABLE + query("select 1; copy t from stdin; select sum(a) from t") + COPIED + COPY_DONE
    ),
    "copy data that nobody wants": COPIED + COPY_DONE + query("select 1"),
    "a query behind a flush": (
        parse("s", "select 1") + describe("S", "s") + FLUSH + query("select 2")
    ),
    "a batch that never ends": ONE + FLUSH,
    "two statements in one batch": ONE + ONE + SYNC,
    "a statement that the next batch uses at once": (
        parse("s", "select 1") + SYNC + bind("s") + execute() + SYNC
    ),
    "several batches in one piece": (ONE + SYNC) * 20,
    "an error skips to the sync": (
        ONE + parse("", "select 1/0") + bind("") + execute() + ONE + SYNC + ONE + SYNC
    ),
    "an error in Parse": parse("", "selec") + bind("") + execute() + SYNC + ONE + SYNC,
    "an error in Bind": (
        parse("", "select $1::int") + bind("", b"x") + execute() + SYNC + ONE + SYNC
    ),
    "a query in the wake of an error": (
        parse("", "selec") + query("select 1") + SYNC + query("select 2")
    ),
    "a missing statement": bind("missing") + execute() + SYNC + close("missing") + SYNC,
    "a statement twice under one name": (
        parse("s", "select 1") + SYNC + parse("s", "select 2") + SYNC + bind("s") + execute() + SYNC
    ),
    "a statement closed and made anew in one batch": (
        parse("s", "select 1") + close("s") + parse("s", "select 2") + bind("s") + execute() + SYNC
    ),
    "a statement made in a batch that fails": (
        parse("s", "select 1") + parse("", "selec") + SYNC + bind("s") + execute() + SYNC
    ),
    "a statement made in a transaction that is rolled back": (
        query("begin") + parse("s", "select 1") + SYNC + query("rollback")
        + bind("s") + execute() + SYNC
    ),
    "a portal in pieces": (
        query("begin") + parse("", "select generate_series(1, 5)") + bind("", portal="p")
        + execute("p", 2) + execute("p", 2) + FLUSH + execute("p", 2) + SYNC + query("commit")
    ),
    "descriptions": (
        parse("s", "select $1::int as a, $2::text") + describe("S", "s")
        + bind("s", b"1", b"x") + describe("P", "") + execute() + SYNC
    ),
    "empty queries": query("") + query(";") + parse("", "") + bind("") + execute() + SYNC,
    "syncs alone": SYNC * 5,
    "flushes alone": FLUSH * 5 + SYNC,
    "statements in one text": query("select 1; select 2; select 1/0; select 3") + query("select 4"),
    "transactions in one text": (
        query("begin; create temp table t (a int); commit; begin; select 1/0; commit")
        + query("select 1") + query("rollback; select count(*) from t")
    ),
    "settings in one text": query(
        "set work_mem = '5MB'; show work_mem; reset work_mem; show work_mem"
    ),
    "SQL's and the protocol's statements under one name": (
        query("prepare s as select 1") + bind("s") + execute() + SYNC
        + parse("t", "select 2") + SYNC + query("execute t") + query("deallocate t")
        + bind("t") + execute() + SYNC
    ),
    "discard all in the middle of a batch": (
        parse("s", "select 1") + SYNC + query("discard all") + bind("s") + execute() + SYNC
    ),
    "a function call": frame(
        ord("F"), struct.pack(">ihhi", INT4ABS, 0, 1, 2) + b"-7" + struct.pack(">h", 0)
    ),
    "text that is no text": frame(ord("Q"), b"select '\xff\xfe'\0") + query("select 1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(direct: Address) -> dict[str, bytes]:
    """What the server says to each story, all of it."""
    found = {}
    for story, said in STORIES.items():
        with RawClient(direct, options=QUIET) as control:
            control.say(said + END)
            found[story] = control.rest()
    return found


@pytest.mark.parametrize("story", list(STORIES))
def test_the_answer_is_the_servers(answers: dict[str, bytes], gateway: Address, story: str) -> None:
    with RawClient(gateway, options=QUIET) as client:
        client.say(STORIES[story])
        assert client.heard(len(answers[story]), quiet_s=SILENCE_S) == answers[story]
        assert client.rest() == b""


@pytest.mark.parametrize("story", list(STORIES))
def test_the_answer_is_the_servers_when_bytes_come_one_by_one(
    answers: dict[str, bytes], gateway: Address, story: str
) -> None:
    said = STORIES[story]
    with RawClient(gateway, options=QUIET) as client:
        for position in range(len(said)):
            client.say(said[position : position + 1])
        assert client.heard(len(answers[story]), quiet_s=SILENCE_S) == answers[story]
        assert client.rest() == b""


@pytest.mark.parametrize("end", [END, b""], ids=["a good-bye", "an end of the stream"])
def test_what_was_said_before_the_end_is_done(
    target: Address, direct: Address, table: str, end: bytes
) -> None:
    with direct.connect() as connection:
        connection.execute(f"create table {table} (a int)")
        with RawClient(target) as client:
            client.say(query(f"insert into {table} values (1)") + end)
            client.rest()
        count = f"select count(*) = 1 from {table}"
        eventually(lambda: connection.execute(count).fetchone() == (True,), deadline_s=5)
