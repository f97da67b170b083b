"""Sessions in corners that the simulation does not come to: one link, and frames said by hand."""

import pytest
from unit.gateway.model_server import frame
from unit.gateway.session_world import World
from unit.gateway.wires import Silent

from gateway.batches import IDLE
from gateway.link import Link
from gateway.logins import PoolKey
from gateway.session import Session

READY = frame("Z", b"I")
# What PostgreSQL says when a commit is cancelled while it waits for its standbys.
NOT_WAITED_FOR = frame("N", b"SWARNING\0C01000\0Mcanceling wait\0RSyncRepWaitForLSN\0\0")
INSERTED = frame("C", b"INSERT 0 1\0")


def asked(text: bytes) -> bytes:
    return frame("Q", text + b"\0")


def one_session() -> tuple[Session, Link, Silent]:
    """A session that has a link to the primary."""
    session = World(0, clients=1, is_pooled=False, has_replica=False).clients[0].session
    assert session is not None
    client = Silent()
    session.client = client
    link = Link(Silent(), PoolKey("u", "d"), ("p", 1, 1), is_primary=True)
    link.owner, session.links.primary = session, link
    return session, link, client


def test_a_value_that_makes_no_sense_among_other_statements_changes_nothing() -> None:
    session, link, client = one_session()
    text = b"set seawall.read = 'bogus'; set seawall.position = 'bogus'"
    session.feed(asked(text))
    link.feed(frame("C", b"SET\0") * 2 + READY)
    assert client.written.endswith(READY)
    session.feed(asked(b"select 1"))
    link.feed(frame("C", b"SELECT 0\0") + READY)
    assert client.written.count(READY) == 2
    assert str(session.requests.mode) == "primary"
    assert isinstance(link.wire, Silent)
    assert not link.wire.faults, "it is no fault of the server's"


def test_a_commit_that_was_not_waited_for_is_told_as_unknown_and_its_link_is_closed() -> None:
    session, link, client = one_session()
    session.feed(asked(b"insert into t values (1)"))
    link.feed(NOT_WAITED_FOR + INSERTED + READY)
    assert b"C08007" in client.written
    assert INSERTED not in client.written
    assert client.written.endswith(READY), "and the session goes on"
    assert session.links.primary is None
    assert not session.is_closed


def test_what_a_distrusted_server_alone_has_ends_the_session() -> None:
    session, link, client = one_session()
    session.feed(asked(b"create temp table t (n int)"))
    link.feed(frame("C", b"CREATE TABLE\0") + READY)
    session.feed(asked(b"insert into t values (1)"))
    link.feed(NOT_WAITED_FOR + INSERTED + READY)
    assert b"C08007" in client.written
    assert b"temporary table" in client.written[client.written.index(b"C08007") :]
    assert session.is_closed


def test_what_was_asked_behind_a_commit_that_was_not_waited_for_is_answered_too() -> None:
    session, link, client = one_session()
    session.feed(asked(b"insert into t values (1)") + asked(b"insert into t values (2)"))
    link.feed(NOT_WAITED_FOR + INSERTED + READY)
    assert client.written.count(b"C08007") == 2
    assert client.written.count(READY) == 2


def test_running_a_portal_that_does_not_exist_leaves_the_batch_in_the_extended_protocol() -> None:
    session, link, client = one_session()
    missing = frame("E", b"nowhere\0\0\0\0\0") + frame("S")
    session.feed(missing)
    assert not link.batches[0].is_simple
    link.feed(frame("E", b"SERROR\0VERROR\0C34000\0Mno portal\0\0") + READY)
    assert link.status == IDLE
    assert client.written.endswith(READY)


PARSED, BOUND = frame("1"), frame("2")
COLUMN = frame("T", b"\0\1c\0" + bytes(18))
ROW = frame("D", b"\0\1\0\0\0\0011")
KILLED = frame("N", b"SWARNING\0VWARNING\0C57P02\0Mterminating\0Rquickdie\0\0")


def prepared_read(end: bytes) -> bytes:
    """A read in the extended protocol, up to a Sync or a Flush."""
    parse = frame("P", b"\0select 1\0\0\0")
    bind = frame("B", bytes(8))
    return parse + bind + frame("D", b"P\0") + frame("E", bytes(5)) + frame(end.decode())


@pytest.mark.parametrize("last_words", [b"", KILLED])
def test_a_read_whose_answer_has_hardly_begun_is_asked_again(last_words: bytes) -> None:
    session, link, client = one_session()
    session.feed(prepared_read(b"S"))
    link.feed(PARSED + BOUND)
    link.feed(COLUMN + last_words)
    assert not client.written, "it says nothing yet"
    session.lost(link)
    assert b"08006" not in client.written
    other = Link(Silent(), PoolKey("u", "d"), ("q", 1, 1), is_primary=True)
    session.links.granted(other)
    assert isinstance(other.wire, Silent)
    assert other.wire.written.endswith(prepared_read(b"S"))
    other.feed(PARSED + BOUND)
    other.feed(COLUMN + ROW)
    other.feed(frame("C", b"SELECT 1\0") + READY)
    assert client.written == PARSED + BOUND + COLUMN + ROW + frame("C", b"SELECT 1\0") + READY


def test_whoever_has_sent_a_flush_sees_the_beginning_at_once() -> None:
    session, link, client = one_session()
    session.feed(prepared_read(b"H"))
    link.feed(PARSED + BOUND)
    assert client.written == PARSED + BOUND
