"""Prepared statements of a session, and the messages that use them, on whatever link. Pure.

A statement is prepared where the client happened to be; on another link, after a failover or
because its session shares links with others, it is prepared again just before it is used. The
client does not see the answers to that.

In session mode a statement has its client's name on the link. Where links are shared it has a name
that is the same for all sessions with the same text, so it is prepared once a link.
"""

from collections.abc import Callable
from typing import Final

from .batches import (
    BIND,
    CLOSE,
    CLOSE_COMPLETE,
    DESCRIBE,
    EXECUTE,
    PARSE,
    PARSE_COMPLETE,
    Answer,
    Batch,
    Expected,
)
from .changes import Change, Prepared
from .classification.statements import DeallocateStatement, Discard, Query, Statement
from .link import STATEMENTS_MAX, Link
from .wire import close_statement_frame, first_name, frame

_NOBODY: Final = b"seawall_nobody"  # the name of a statement that does not exist
_STATEMENT: Final = ord("S")
# What drivers send behind a Bind of the unnamed portal: all rows, with or without a description.
_RUN: Final = b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\4"
_RUNS: Final = frozenset({_RUN, b"D\0\0\0\6P\0" + _RUN})
SHARED_MAX: Final = 20_000


class Serials:
    """Numbers for statements; with `is_shared` the same text has the same number and name.

    Bounded: what is forgotten gets a new number when it comes again.
    """

    def __init__(self) -> None:
        self._last = 0
        self._shared: dict[bytes, int] = {}

    def next(self) -> int:
        """Return a number that no statement has."""
        self._last += 1
        return self._last

    def shared(self, rest: bytes) -> int:
        """Return the number of all statements with this text and these types."""
        serial = self._shared.get(rest)
        if serial is None:
            if len(self._shared) >= SHARED_MAX:
                self._shared.pop(next(iter(self._shared)))
            serial = self._shared[rest] = self.next()
        return serial


class Statements:
    """The prepared statements of one session, by the client's names."""

    __slots__ = ("_by_name", "_is_shared", "_max", "_serials", "portals")

    def __init__(self, serials: Serials, *, is_shared: bool, statements_max: int) -> None:
        self._serials = serials
        self._is_shared = is_shared
        self._max = statements_max
        self._by_name: dict[bytes, Prepared] = {}
        self.portals: dict[bytes, Prepared] = {}

    def get(self, name: bytes) -> Prepared | None:
        """Return the statement of that name."""
        return self._by_name.get(name)

    def clear(self) -> None:
        """Forget all: the client has deallocated them."""
        self._by_name.clear()

    def forget(self, name: bytes) -> Prepared | None:
        """Forget one."""
        return self._by_name.pop(name, None)

    def is_full_for(self, name: bytes) -> bool:
        """Whether one more is too many."""
        return len(self._by_name) >= self._max and name not in self._by_name

    def bound_alone(self, data: bytes, link: Link | None) -> Query | None:
        """Return what is asked if this is a whole batch that binds a statement, and runs it to its
        end; and if a link, if there is one, has the statement.
        """
        if data[5] or self._is_shared or data[1 + int.from_bytes(data[1:5]) :] not in _RUNS:
            return None
        prepared = self._by_name.get(data[6 : data.find(0, 6)])
        if prepared is None:
            return None
        if link is not None and link.statements.get(prepared.wire_name) != prepared.serial:
            return None
        return prepared.query

    def parsed_alone(
        self, data: bytes, link: Link, classify: "Callable[[bytes], Query]"
    ) -> Query | None:
        """Return what is asked if this is a whole batch that prepares, binds and runs a statement
        without a name, and leaves nothing else behind; it is the link's from now on.
        """
        if data[5] or self._is_shared:
            return None
        at = 1 + int.from_bytes(data[1:5])
        if data[at : at + 1] != b"B" or data[at + 5 : at + 7] != b"\0\0":
            return None
        if data[at + 1 + int.from_bytes(data[at + 1 : at + 5]) :] not in _RUNS:
            return None
        text = data[6 : data.find(0, 6)]
        query = classify(text)
        if query.is_plain:
            serial = self._serials.next()
            self._by_name[b""] = Prepared(text, query, data[6:at], b"", serial)
            link.statements[b""] = serial
        return query

    def is_on(self, data: bytes, link: Link) -> bool:
        """Whether a link has the statement that such a batch binds; then note its portal."""
        prepared = self._by_name[data[6 : data.find(0, 6)]]
        self.portals[b""] = prepared
        return link.statements.get(prepared.wire_name) == prepared.serial

    def ran(self, statement: Statement, link: Link) -> None:
        """Take the end of a statement of SQL that deallocates, with the link that it ran on."""
        for effect in statement.effects:
            match effect:
                case DeallocateStatement(None) | Discard("all"):
                    self._by_name.clear()
                    link.statements.clear()
                case DeallocateStatement(name) if not self._is_shared:
                    self._by_name.pop(str(name).encode(), None)
                    link.statements.pop(str(name).encode(), None)

    def without_own_deallocate(self, text: bytes, query: Query) -> bytes:
        """Where links are shared, have DEALLOCATE of one of ours do nothing there."""
        for effect in query.statements[0].effects if len(query.statements) == 1 else ():
            if not isinstance(effect, DeallocateStatement) or effect.name is None:
                continue
            if self._by_name.pop(effect.name.encode(), None) is not None:
                return b"unlisten " + _NOBODY
        return text

    def in_limbo(
        self, kind: int, frame_: bytes, classify: "Callable[[bytes], Query]"
    ) -> Query | None:
        """Return what a message is about that comes while there is no server; None: nothing."""
        if kind not in {PARSE, BIND, EXECUTE}:
            return None
        name, at = first_name(frame_, 5)
        if kind == PARSE:
            text = first_name(frame_, at)[0]
            query = classify(text)
            if not name:  # one with a name is asked for again: it was refused
                serial = self._serials.next()
                self._by_name[name] = Prepared(text, query, frame_[at:], name, serial)
            return query
        prepared = self.portals.get(name)
        if kind == BIND:
            prepared = self._by_name.get(first_name(frame_, at)[0])
            if prepared is not None:
                self.portals[name] = prepared
        return None if prepared is None else prepared.query

    # --- Messages: what goes to the link, with what is expected ----------------------------------

    def parse(
        self,
        frame_: bytes,
        link: Link,
        batch: Batch,
        query: Query,
        translate: Callable[[bytes, Query], bytes],
    ) -> bytes:
        """Prepare a statement."""
        name, at = first_name(frame_, 5)
        text, types_at = first_name(frame_, at)
        wanted = translate(text, query)
        rest = frame_[at:] if wanted is text else wanted + b"\0" + frame_[types_at:]
        is_shared = self._is_shared and name != b""
        serial = self._serials.shared(rest) if is_shared else self._serials.next()
        wire_name = b"seawall_%d" % serial if is_shared else name
        prepared = Prepared(text, query, rest, wire_name, serial)
        before = self._by_name.get(name)
        change = Change(name, before, prepared)
        is_new = before is None or not name or is_shared
        if is_new:
            self._by_name[name] = prepared
        # Else the server refuses it, unless the one before is refused first.
        if is_shared and link.will_have(wire_name) == serial:
            batch.expect(Expected(CLOSE_COMPLETE, Answer.AS_PARSED, wire_name, serial, change))
            return close_statement_frame(_NOBODY)
        # What the link had earlier, or has of others, may be in the way.
        room = self._make_room(link, batch, wire_name) if name and is_new else b""
        batch.expect(Expected(PARSE_COMPLETE, Answer.PASS, wire_name, serial, change))
        is_changed = wanted is not text or wire_name != name
        return room + (_parse_frame(prepared) if is_changed else frame_)

    def confirm(self, change: "Change") -> None:
        """The server has made a change."""
        if change.after is not None:
            self._by_name.setdefault(change.name, change.after)

    def undo(self, change: "Change") -> None:
        """Take back a change that the server did not come to."""
        if self._by_name.get(change.name) is not change.after:
            return  # it was never made, or another one has followed
        if change.before is None:
            self._by_name.pop(change.name, None)
        else:
            self._by_name[change.name] = change.before

    def ensure(self, prepared: Prepared, link: Link, batch: Batch) -> bytes:
        """Return what prepares a statement on a link that does not have it."""
        name = prepared.wire_name
        if link.will_have(name) == prepared.serial:
            return b""
        before = self._make_room(link, batch, name) if name else b""
        batch.expect(Expected(PARSE_COMPLETE, Answer.SWALLOW, name, prepared.serial))
        return before + _parse_frame(prepared)

    def bind(self, frame_: bytes, link: Link, batch: Batch) -> bytes:
        """Bind a statement to a portal."""
        portal, at = first_name(frame_, 5)
        name, rest_at = first_name(frame_, at)
        prepared = self._by_name.get(name)
        if prepared is None:
            self.portals.pop(portal, None)
            return frame_  # the server knows how to say that
        self.portals[portal] = prepared
        before = self.ensure(prepared, link, batch)
        if prepared.wire_name != name:
            body = b"%b\0%b\0%b" % (portal, prepared.wire_name, frame_[rest_at:])
            frame_ = frame(BIND, body)
        return before + frame_ if before else frame_

    def describe(self, frame_: bytes, link: Link, batch: Batch) -> bytes:
        """Describe a statement or a portal."""
        if frame_[5] != _STATEMENT:
            return frame_
        name, _ = first_name(frame_, 6)
        prepared = self._by_name.get(name)
        if prepared is None:
            return frame_
        before = self.ensure(prepared, link, batch)
        if prepared.wire_name != name:
            frame_ = frame(DESCRIBE, b"S" + prepared.wire_name + b"\0")
        return before + frame_

    def close(self, frame_: bytes, batch: Batch) -> bytes:
        """Close a statement or a portal."""
        name, _ = first_name(frame_, 6)
        if frame_[5] != _STATEMENT:
            self.portals.pop(name, None)
            batch.expect(Expected(CLOSE_COMPLETE, Answer.PASS, _NOBODY))
            return frame_
        prepared = self._by_name.pop(name, None)
        change = Change(name, prepared, None)
        if prepared is None or prepared.wire_name == name:
            batch.expect(Expected(CLOSE_COMPLETE, Answer.PASS, name, 0, change))
            return frame_
        batch.expect(Expected(CLOSE_COMPLETE, Answer.PASS, _NOBODY, 0, change))  # others may use it
        return frame(CLOSE, b"S" + _NOBODY + b"\0")

    def _make_room(self, link: Link, batch: Batch, name: bytes) -> bytes:
        """Return what removes another statement of that name, or the oldest when there are many."""
        victim = name if link.will_have(name) is not None else None
        if victim is None and self._is_shared and len(link.statements) >= STATEMENTS_MAX:
            victim = next((one for one in link.statements if one), None)
        if victim is None:
            return b""
        batch.expect(Expected(CLOSE_COMPLETE, Answer.SWALLOW, victim))
        return close_statement_frame(victim)


def _parse_frame(prepared: Prepared) -> bytes:
    """Return the message that prepares it."""
    return frame(PARSE, prepared.wire_name + b"\0" + prepared.rest)
