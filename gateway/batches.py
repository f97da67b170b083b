"""What has been asked of a link and not been answered yet. Pure.

A batch is what a client sends up to the point at which the server says ReadyForQuery: a simple
query, or messages up to a Sync. It knows what of the answer is the client's business: answers to
what we have put in between are not, and of a replica's answer nothing is shown until it is sure
that it is not an error, because then the primary is asked.

Answers are looked at frame by frame; `quiet` says which kinds need no look, so that rows cost what
it takes to step over them.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from .changes import Change
from .classification.statements import Query, Statement

QUERY: Final = ord("Q")
PARSE: Final = ord("P")
BIND: Final = ord("B")
DESCRIBE: Final = ord("D")
EXECUTE: Final = ord("E")
CLOSE: Final = ord("C")
SYNC: Final = ord("S")
FLUSH: Final = ord("H")
FUNCTION_CALL: Final = ord("F")
COPY_DATA: Final = ord("d")
COPY_DONE: Final = ord("c")
COPY_FAIL: Final = ord("f")
TERMINATE: Final = ord("X")

PARSE_COMPLETE: Final = ord("1")
CLOSE_COMPLETE: Final = ord("3")
COMMAND_COMPLETE: Final = ord("C")
EMPTY_QUERY: Final = ord("I")
PORTAL_SUSPENDED: Final = ord("s")
DATA_ROW: Final = ord("D")
ERROR: Final = ord("E")
NOTICE: Final = ord("N")
NOTIFICATION: Final = ord("A")
PARAMETER_STATUS: Final = ord("S")
COPY_IN: Final = ord("G")
READY: Final = ord("Z")

IDLE: Final = ord("I")
IN_TRANSACTION: Final = ord("T")
FAILED: Final = ord("E")

HEADER_BYTES: Final = 5
SYNC_FRAME: Final = b"S\0\0\0\4"
_PREAMBLE: Final = b"13T2nt"  # what comes before a result, and decides nothing


def _table(kinds: bytes) -> bytes:
    return bytes(kind in kinds for kind in range(256))


ALL_QUIET: Final = _table(b"DTCInst123dcHVA")
# The same for batches whose answers are not just passed on: another object, to tell them apart.
SPECIAL_QUIET: Final = bytes(bytearray(ALL_QUIET))
WATCHED_QUIET: Final = _table(b"DTnt2dcHVA")
UNDECIDED_QUIET: Final = _table(_PREAMBLE)
UNDECIDED_WATCHED_QUIET: Final = _table(b"T2nt")


class Answer(Enum):
    """What becomes of an expected ParseComplete or CloseComplete."""

    PASS = auto()
    SWALLOW = auto()
    AS_PARSED = auto()
    """A CloseComplete that the client gets as the ParseComplete it waits for."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One ParseComplete or CloseComplete; with it the link has, or has no more, a statement."""

    kind: int
    answer: Answer
    wire_name: bytes
    serial: int = 0
    change: Change | None = None
    """What the client has asked for, and is to be undone if this does not come."""


class Batch:
    """One batch on one link.

    Most batches are plain and live for a moment, so what is not so of them is not stored.
    """

    is_ours = False  # we have asked, so nobody else hears the answer
    is_commit = False  # it ends a transaction in which something may have been written
    is_undecided = False  # nothing of the answer has been shown, and the primary may be asked
    is_refused = False  # that happened: this answer is thrown away
    is_unreplicated = False  # its commit was not waited for: the client must not trust it
    has_copy_end = False  # the client has said the end of a COPY, whether it is one or not
    is_watched = False
    is_special = False  # one of these is so
    has_bound = False  # it does more than prepare statements
    has_answered = False
    has_failed = False
    preamble = b""
    quiet = ALL_QUIET
    """By kind of frame: whether it can be stepped over."""
    expected: deque[Expected] = deque()  # noqa: RUF012  # empty, and never written to
    executed: deque[tuple[Statement, bytes]] = deque()  # noqa: RUF012  # likewise

    def __init__(self, frames: bytes, is_rerunnable: bool, is_read: bool, is_simple: bool) -> None:
        """`frames` are the client's, for another attempt, if `is_rerunnable`."""
        self.frames = frames
        self.is_rerunnable = is_rerunnable
        self.is_read = is_read  # it leaves nothing behind
        self.is_simple = is_simple  # not of the extended protocol

    @property
    def can_be_shown_at_once(self) -> bool:
        """Whether nothing is known against an answer that is whole, and good."""
        return self.quiet is UNDECIDED_QUIET and not self.preamble

    @property
    def has_only_prepared(self) -> bool:
        """Whether it is as good as over, although its Sync has not come: its client has all the
        answers, and they hold wherever its statements are prepared again.
        """
        return self.has_answered and not self.expected and not self.has_bound

    def expect(self, expected: Expected) -> None:
        """Await an answer that is of interest."""
        if self.expected is Batch.expected:
            self.expected = deque()
        self.expected.append(expected)
        self.watch()

    def execute(self, query: Query, parts: tuple[bytes, ...]) -> None:
        """Await the end of statements of which a session has to know."""
        if self.executed is Batch.executed:
            self.executed = deque()
        self.executed.extend(zip(query.statements, parts, strict=True))
        self.watch()

    def watch(self) -> None:
        """Look at the frames that end a statement."""
        self.is_watched = True
        self._choose()

    def hold_back(self) -> None:
        """Show nothing until it is known whether this server answers well."""
        self.is_undecided = self.is_special = True
        self._choose()

    def can_wait(self, data: bytes) -> bool:
        """Whether an answer has only begun, and says nothing yet: a server that dies now has told
        the client nothing, and another one can be asked. Only if the client has said it all: one
        that has sent a Flush waits for these very frames.
        """
        if not (self.is_read and self.is_rerunnable):
            return False
        if not (self.is_simple or self.frames.endswith(SYNC_FRAME)):
            return False
        at, size = 0, len(data)
        while at + HEADER_BYTES <= size and data[at] in _PREAMBLE:
            at += 1 + int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big")
        return at == size

    def wait(self, data: bytes) -> None:
        """Keep the beginning of an answer until there is more of it."""
        self.preamble += data
        self.is_special = True
        self._choose()

    def decide(self) -> bytes:
        """Show the answer from here on; return what was held back."""
        self.is_undecided = self.is_special = False
        self._choose()
        held, self.preamble = self.preamble, b""
        return held

    def refuse(self) -> None:
        """Throw the answer away: somebody else is asked."""
        self.is_refused, self.is_undecided, self.is_special = True, False, True
        self.preamble = b""
        self._choose()

    def distrust(self) -> None:
        """Its commit was not waited for: the client hears so instead of the answer's end."""
        self.is_unreplicated = self.is_special = True
        self.watch()

    def _choose(self) -> None:
        if self.is_undecided:
            self.quiet = UNDECIDED_WATCHED_QUIET if self.is_watched else UNDECIDED_QUIET
        else:
            plain = SPECIAL_QUIET if self.is_special else ALL_QUIET
            self.quiet = WATCHED_QUIET if self.is_watched else plain


def our_batch(frames: bytes) -> Batch:
    """Return a batch whose answer is nobody's business but ours."""
    batch = Batch(frames, is_rerunnable=False, is_read=False, is_simple=True)
    batch.is_ours = batch.is_special = True
    batch.quiet = SPECIAL_QUIET
    return batch
