"""A client that knows what it may hear: for the simulation of the gateway.

It says one thing (a batch, or two in a pipeline), reads the whole answer, and checks it: as many
ReadyForQuery as batches, rows that are its own, errors that can be. Then it says the next thing.
"""

# ruff: noqa: D102, PLR0911  # a list of cases

import random
from dataclasses import dataclass, field

from unit.gateway.model_server import HEADER, frame, frames_of

TRUTHS = {"40001", "08006", "08007", "25P02", "57P03", "53300"}  # of a server that is gone
SYNC = frame("S")


@dataclass
class Batch:
    """What is asked in one batch, and what may come of it."""

    data: bytes
    rows: list[bytes] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)
    application: bytes | None = None  # what it sets
    may_fail: bool = False
    prepares: bytes | None = None  # a name that is a statement once ParseComplete came


class ModelClient:
    """One client."""

    def __init__(self, rng: random.Random, number: int) -> None:
        self.rng = rng
        self.number = number
        self.is_over = False
        self.is_stopping = False
        self.answered = self.lost = self.unknown = 0
        self.marks: dict[bytes, str] = {}
        self._count = 0
        self._status = "I"
        self._pending: list[bytes] = []  # marks of the transaction that is open
        self._application = b""
        self._application_pending: bytes | None = None
        self._is_application_known = True
        self._asked: list[Batch] = []
        self._heard = b""
        self._prepared: set[bytes] = set()
        self._ends_with_error = False

    # --- Saying ---------------------------------------------------------------------------------

    def wants_to_say(self) -> bool:
        return (
            not self._asked and not self.is_over and (not self.is_stopping or self._status != "I")
        )

    def say(self) -> bytes:
        if not self.wants_to_say():
            return b""
        count = 2 if self.rng.random() < 0.15 and self._status == "I" else 1
        batches = [self._batch(alone=count == 1) for _ in range(count)]
        self._asked += batches
        return b"".join(batch.data for batch in batches)

    def _batch(self, *, alone: bool) -> Batch:
        rng = self.rng
        if self._status == "E" or (self.is_stopping and self._status == "T"):
            return Batch(self._packed(b"rollback" if rng.random() < 0.7 else b"commit"))
        kinds = ["select", "insert", "select", "insert"]
        if alone:
            kinds += ["prepared", "set", "show", "boom", "several"]
            kinds += ["commit", "commit", "rollback"] if self._status == "T" else ["begin"]
        kind = rng.choice(kinds)
        self._count += 1
        mark = b"c%d-%d" % (self.number, self._count)
        if kind == "select":
            text = b"select '%b'" % mark
            return Batch(self._packed(text), rows=[text])
        if kind == "insert":
            return Batch(self._packed(b"insert into t values ('%b')" % mark), marks=[mark])
        if kind == "several":
            other = mark + b"x"
            text = b"insert into t values ('%b'); select '%b'; insert into t values ('%b')"
            row = b"select '%b'" % mark
            return Batch(frame("Q", text % (mark, mark, other) + b"\0"), [row], [mark, other])
        if kind == "prepared":
            return self._use_prepared()
        if kind == "set":
            return Batch(self._packed(b"set application_name = '%b'" % mark), application=mark)
        if kind == "show":
            rows = [self._shown()] if self._is_application_known else []
            return Batch(self._packed(b"show application_name"), rows=rows)
        if kind == "boom":
            return Batch(self._packed(b"boom %b" % mark), may_fail=True)
        return Batch(self._packed(kind.encode()))

    def _shown(self) -> bytes:
        return self._application if self._application_pending is None else self._application_pending

    def _use_prepared(self) -> Batch:
        name = b"s%d" % self.rng.randrange(3)
        text = b"select 'c%d-%b'" % (self.number, name)
        data, prepares = b"", None
        if name not in self._prepared:
            prepares = name
            data = frame("P", name + b"\0" + text + b"\0\0\0")
        data += frame("B", b"\0" + name + b"\0\0\0\0\0\0\0") + _execute()
        return Batch(data + SYNC, rows=[text], prepares=prepares)

    def _packed(self, text: bytes) -> bytes:
        """Say it in the simple protocol, or in the extended one."""
        if self.rng.random() < 0.5:
            return frame("Q", text + b"\0")
        parse = frame("P", b"\0" + text + b"\0\0\0")
        return parse + frame("B", b"\0\0\0\0\0\0\0\0") + frame("D", b"P\0") + _execute() + SYNC

    # --- Hearing --------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        self._heard += data
        while (end := self._end_of_answer()) is not None:
            answer, self._heard = self._heard[:end], self._heard[end:]
            assert self._asked, f"client {self.number} hears what it did not ask for: {answer!r}"
            self._check(self._asked.pop(0), frames_of(answer))

    def _end_of_answer(self) -> int | None:
        at = 0
        while at + 5 <= len(self._heard):
            kind, length = HEADER.unpack_from(self._heard, at)
            end: int = at + 1 + length
            if end > len(self._heard):
                return None
            if kind == ord("E") and b"\0VFATAL\0" in self._heard[at:end]:
                self._ends_with_error = True
                self._heard = b""
                return None
            if kind == ord("Z"):
                return end
            at = end
        return None

    def _check(self, batch: Batch, frames: list[tuple[str, bytes]]) -> None:
        self.answered += 1
        rows = [body[6:] for kind, body in frames if kind == "D"]
        errors = [_code(body) for kind, body in frames if kind == "E"]
        tags = [body[:-1] for kind, body in frames if kind == "C"]
        status = frames[-1][1].decode()
        assert len(errors) <= 1, f"one batch has one error: {frames}"
        before, self._status = self._status, status
        if batch.prepares is not None and any(kind == "1" for kind, _ in frames):
            self._prepared.add(batch.prepares)
        if errors:
            allowed = TRUTHS | ({"42601"} if batch.may_fail else set())
            assert errors[0] in allowed, f"{batch.data!r} was answered with {frames}"
            self._failed(batch, errors[0], before)
        else:
            assert not batch.may_fail or batch.rows or before == "E", f"{batch.data!r}: {frames}"
            if batch.rows:
                assert rows == batch.rows, f"{batch.data!r} was answered with {rows}"
            self._done(batch, tags)

    def _done(self, batch: Batch, tags: list[bytes]) -> None:
        self._pending += batch.marks
        if batch.application is not None:
            self._application_pending = batch.application
        if self._status == "I":
            self._settle("refused" if tags == [b"ROLLBACK"] else "kept")

    def _failed(self, batch: Batch, code: str, before: str) -> None:
        self.lost += code == "40001"
        self.unknown += code == "08007"
        if code == "08007":
            self._pending += batch.marks
            if batch.application is not None:
                self._is_application_known = False
            self._settle("unknown")
        elif self._status == "I":
            self._pending += batch.marks
            # 08006: a part of the answer came, so it was a read; a write is never said to be that.
            self._settle("refused")
        else:
            for mark in batch.marks:
                self.marks[mark] = "refused"

    def _settle(self, fate: str) -> None:
        for mark in self._pending:
            self.marks[mark] = fate
        self._pending = []
        if self._application_pending is not None and fate == "kept":
            self._application = self._application_pending
            self._is_application_known = True
        elif self._application_pending is not None and fate == "unknown":
            self._is_application_known = False
        self._application_pending = None

    def check_end(self) -> None:
        """Whoever is still there has all its answers."""
        if not self.is_over:
            assert not self._asked, f"client {self.number} waits for ever: {self._asked}"


def _execute() -> bytes:
    return frame("E", b"\0\0\0\0\0")


def _code(body: bytes) -> str:
    return next(part[1:].decode() for part in body.split(b"\0") if part[:1] == b"C")
