"""A PostgreSQL as far as a session can tell: what the simulation of the gateway logs in to.

It understands a handful of statements, by their beginnings, and answers each with a row that has
its own text, so that whoever gets an answer can be told from whom it was meant for. What is written
becomes part of the `Database` when its transaction commits.

    insert into t values ('MARK')    begin [read only]   commit   rollback    select ... 'MARK' ...
    set application_name = 'x'       show application_name       boom (an error)
"""

# ruff: noqa: C901, D102, PLR0911  # a list of cases

import re
import struct
from dataclasses import dataclass, field

HEADER = struct.Struct(">BI")
_INSERT = re.compile(rb"insert into t values \('([^']*)'\)")
_SET = re.compile(rb"set application_name = '([^']*)'")


def frame(kind: str, body: bytes = b"") -> bytes:
    return HEADER.pack(ord(kind), len(body) + 4) + body


def frames_of(data: bytes) -> list[tuple[str, bytes]]:
    """Cut whole frames; anything else is a fault of who made the data."""
    found, at = [], 0
    while at < len(data):
        kind, length = HEADER.unpack_from(data, at)
        assert at + 1 + length <= len(data), "a frame is cut off"
        found.append((chr(kind), data[at + 5 : at + 1 + length]))
        at += 1 + length
    return found


@dataclass
class Database:
    """What has been committed, by mark, how often."""

    rows: dict[bytes, int] = field(default_factory=dict)

    def commit(self, marks: list[bytes]) -> None:
        for mark in marks:
            self.rows[mark] = self.rows.get(mark, 0) + 1


class ModelServer:
    """One backend: bytes in, bytes out."""

    def __init__(self, name: str, database: Database, *, is_replica: bool = False) -> None:
        self.name = name
        self.database = database
        self.is_replica = is_replica
        self.application = b""
        self.status = "I"
        self.statements: dict[bytes, bytes] = {}
        self.portals: dict[bytes, bytes] = {}
        self._written: list[bytes] = []
        self._application_before = b""  # the transaction
        self._skips = False
        self._data = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the gateway and answer them."""
        self._data += data
        answers, at = [], 0
        while at + 5 <= len(self._data):
            kind, length = HEADER.unpack_from(self._data, at)
            end = at + 1 + length
            if end > len(self._data):
                break
            answers.append(self._take(chr(kind), self._data[at + 5 : end]))
            at = end
        self._data = self._data[at:]
        return b"".join(answers)

    def _take(self, kind: str, body: bytes) -> bytes:
        if kind == "Q":
            answer = b""
            for text in body[:-1].split(b";"):
                done = self._run(text.strip())
                answer += done
                if done[:1] == b"E":
                    self._fail()
                    break
            else:
                self._end_implicit()
            return answer + self._ready()
        if kind == "S":
            if not self._skips:
                self._end_implicit()
            self._skips = False
            return self._ready()
        if kind in "dcfX":
            return b""  # what is left of a COPY; and a goodbye, behind which nothing comes
        if kind == "F":
            return _error("42883", b"there are no functions") + self._ready()
        if self._skips:
            return b""
        answer = self._extended(kind, body)
        if answer[:1] == b"E":
            self._skips = True
            self._fail()
        return answer

    def _extended(self, kind: str, body: bytes) -> bytes:
        if kind == "P":
            name, text = (*body.split(b"\0", 2), b"", b"")[:2]
            if name and name in self.statements:
                return _error("42P05", b"statement exists: " + name)
            self.statements[name] = text
            return frame("1")
        if kind == "B":
            portal, name = (*body.split(b"\0", 2), b"", b"")[:2]
            if name not in self.statements:
                return _error("26000", b"no such statement: " + name)
            self.portals[portal] = self.statements[name]
            return frame("2")
        if kind == "D":
            return frame("n")
        if kind == "E":
            portal = body.split(b"\0", 1)[0]
            if portal not in self.portals:
                return _error("34000", b"no such portal")
            return self._run(self.portals[portal])
        if kind == "C":
            if body[:1] == b"S":
                self.statements.pop(body[1:-1], None)
            return frame("3")
        assert kind == "H", f"a gateway sends no {kind}"
        return b""

    def _run(self, text: bytes) -> bytes:
        lowered = text.lower()
        if self.status == "E" and not lowered.startswith((b"rollback", b"commit")):
            return _error("25P02", b"aborted")
        if lowered.startswith(b"begin"):
            self.status = "T"
            self._application_before = self.application
            return _complete("BEGIN")
        if lowered.startswith((b"commit", b"rollback")):
            return self._end(is_commit=lowered.startswith(b"commit") and self.status == "T")
        if lowered.startswith(b"insert"):
            return self._insert(text)
        if lowered.startswith(b"set application_name"):
            match = _SET.fullmatch(text)
            if match is None:
                return _error("42601", b"boom")
            self.application = match[1]
            return frame("S", b"application_name\0" + match[1] + b"\0") + _complete("SET")
        if lowered.startswith((b"reset all", b"set session authorization default")):
            self.application = b""
            return _complete("RESET")
        if lowered.startswith(b"discard all"):
            self.application = b""
            self.statements.clear()
            return _complete("DISCARD ALL")
        if lowered.startswith(b"show application_name"):
            return _row(self.application) + _complete("SHOW")
        if lowered.startswith(b"select"):
            return _row(text) + _complete("SELECT 1")
        if not text:
            return frame("I")
        return _error("42601", b"boom: " + text)

    def _insert(self, text: bytes) -> bytes:
        if self.is_replica:
            return _error("25006", b"read only")
        match = _INSERT.fullmatch(text)
        assert match is not None, text
        self._written.append(match[1])
        return _complete("INSERT 0 1")

    def _end(self, *, is_commit: bool) -> bytes:
        if is_commit:
            self.database.commit(self._written)
        else:
            self.application = self._application_before
        self._written = []
        self.status = "I"
        self._application_before = self.application
        return _complete("COMMIT" if is_commit else "ROLLBACK")

    def _end_implicit(self) -> None:
        if self.status == "I":
            self.database.commit(self._written)
            self._written = []
            self._application_before = self.application

    def _fail(self) -> None:
        if self.status == "I":
            self._written = []
            self.application = self._application_before
        else:
            self.status = "E"

    def _ready(self) -> bytes:
        return frame("Z", self.status.encode())


def farewell(sqlstate: str) -> bytes:
    """What a server says before it hangs up."""
    return _error(sqlstate, b"bye", severity=b"FATAL")


def _row(value: bytes) -> bytes:
    description = frame("T", b"\0\1c\0" + struct.pack(">IHIhih", 0, 0, 25, -1, -1, 0))
    return description + frame("D", struct.pack(">HI", 1, len(value)) + value)


def _complete(tag: str) -> bytes:
    return frame("C", tag.encode() + b"\0")


def _error(sqlstate: str, message: bytes, *, severity: bytes = b"ERROR") -> bytes:
    code = sqlstate.encode()
    return frame("E", b"S%b\0V%b\0C%b\0M%b\0\0" % (severity, severity, code, message))
