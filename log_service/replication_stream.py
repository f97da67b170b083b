"""One stream of WAL to one reader: what to send next, what it says it has, where it ends.

Pure: the session asks, reads, writes and keeps the time.

    while stream.bytes_wanted(): session reads so many bytes from stream.sent on
                                 session writes stream.framed(pieces)
    if stream.is_at_fork():      session ends the copy and names the next timeline

Only committed WAL is sent, nothing of a timeline beyond its fork, nothing beyond the gate.

A message never ends within a record, unless at the end of a page. A standby that has the beginning
of a record takes the rest of that page for granted: it would read zeros, find a wrong checksum and
connect again, and if the record goes on in the next segment, ask for that one alone, for ever. So
committed ends and gates are ends of records or of pages, and what is longer is cut at a page.

Invariant: sent <= the end of its timeline here. It can be broken from outside, by a promotion from
before what was committed; then the reader holds WAL that never happened, and somebody must look.
"""

from collections.abc import Callable, Sequence
from typing import Final

from fabric.frames import Buffer
from fabric.lsn import Lsn, Tli
from pgwire.errors import ProtocolError
from pgwire.replication import (
    HotStandbyFeedback,
    StatusUpdate,
    decode_copy_data,
    encode_keepalive,
    encode_xlog_data_header,
)

from .replication_source import Gate, WalSource

# As PostgreSQL's own walsender; readers may have buffers of this size.
XLOG_DATA_BYTES_MAX: Final = 128 * 1024
PAGE_BYTES: Final = 8192  # of WAL


class DivergedError(Exception):
    """The reader was sent WAL that is not in the branch's history: it must be made anew."""


class WalStream:
    """From the start to the end of one copy of WAL, on one timeline."""

    def __init__(
        self,
        source: WalSource,
        gate: Gate | None,
        *,
        tli: Tli,
        start: Lsn,
        now_us: Callable[[], int],
    ) -> None:
        self.tli = tli
        self.sent = start
        self.write = self.flush = self.apply = Lsn(0)
        self._source = source
        self._gate = gate
        self._now_us = now_us
        self._wanted = start  # up to where it was asked for WAL: a page's end, or a record's

    def bytes_wanted(self) -> int:
        """How many bytes may be read from `sent` on and put into one message; 0: none now."""
        limit = self._end()
        gate = None if self._gate is None else self._gate.limit
        if gate is not None and gate < limit:
            limit = gate
        if limit - self.sent > XLOG_DATA_BYTES_MAX:
            limit = _page_of(self.sent + XLOG_DATA_BYTES_MAX)
        self._wanted = limit
        return max(0, limit - self.sent)

    def is_at_fork(self) -> bool:
        """Whether everything was sent of a timeline that has ended."""
        fork = self._source.fork_of(self.tli)
        return fork is not None and self.sent == fork[1]

    def framed(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """Return a message with WAL from `sent` on, uncopied; `sent` moves behind it."""
        size_bytes = sum(map(len, pieces))
        assert 0 < size_bytes <= XLOG_DATA_BYTES_MAX, "a read returns what was asked for"
        start, end = self.sent, self._end()
        if start < (page := _page_of(start + size_bytes)) and start + size_bytes < self._wanted:
            size_bytes = page - start
            pieces = _first(pieces, size_bytes)
        if start + size_bytes > end:
            raise DivergedError(
                f"WAL beyond {end}, the end of timeline {self.tli:d}, was about to be sent"
            )
        self.sent = start + size_bytes
        return [encode_xlog_data_header(start, end, self._now_us(), size_bytes), *pieces]

    def keepalive(self, *, reply_requested: bool) -> bytes:
        """Return the message that says where we are, and may ask the reader where it is."""
        return encode_keepalive(self.sent, self._now_us(), reply_requested)

    def receive(self, body: memoryview) -> bool:
        """Take the reader's report; return whether it wants a keepalive."""
        match decode_copy_data(body):
            case StatusUpdate() as status:
                self.write, self.flush, self.apply = status.write, status.flush, status.apply
                return status.reply_requested
            case HotStandbyFeedback():
                return False  # nobody here removes rows
            case message:
                raise ProtocolError(f"a standby does not send {type(message).__name__}")

    def _end(self) -> Lsn:
        """Return the end of what may ever be sent of the timeline, as known now."""
        if self.tli == self._source.tli:
            end = self._source.committed
        elif fork := self._source.fork_of(self.tli):
            end = fork[1]
        else:
            raise DivergedError(f"timeline {self.tli:d} is no longer in this branch's history")
        if self.sent > end and self.tli != self._source.tli:
            raise DivergedError(
                f"WAL up to {self.sent} of timeline {self.tli:d} was sent, but the timeline ended "
                f"at {end}: make the standby anew"
            )
        return end


def _page_of(lsn: int) -> Lsn:
    """Return where the page begins that a position is on."""
    return Lsn(lsn - lsn % PAGE_BYTES)


def _first(pieces: Sequence[Buffer], size_bytes: int) -> list[Buffer]:
    """Return so many bytes of some pieces."""
    found: list[Buffer] = []
    for piece in pieces:
        if len(piece) >= size_bytes:
            return [*found, memoryview(piece)[:size_bytes]]
        found.append(piece)
        size_bytes -= len(piece)
    raise AssertionError("there are more than that")
