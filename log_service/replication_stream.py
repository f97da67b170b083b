"""One stream of WAL to one reader: what to send next, what it says it has, where it ends.

Pure: the session asks, reads, writes and keeps the time.

    while stream.bytes_wanted(): session reads so many bytes from stream.sent on
                                 session writes stream.framed(pieces)
    if stream.is_at_fork():      session ends the copy and names the next timeline

Only committed WAL is sent, nothing of a timeline beyond its fork, nothing beyond the gate. A gate
may cut a record in two: the reader then applies up to the last whole one.

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

    def bytes_wanted(self) -> int:
        """How many bytes may be read from `sent` on and put into one message; 0: none now."""
        limit = self._end()
        gate = None if self._gate is None else self._gate.limit
        if gate is not None and gate < limit:
            limit = gate
        return max(0, min(limit - self.sent, XLOG_DATA_BYTES_MAX))

    def is_at_fork(self) -> bool:
        """Whether everything was sent of a timeline that has ended."""
        fork = self._source.fork_of(self.tli)
        return fork is not None and self.sent == fork[1]

    def framed(self, pieces: Sequence[Buffer]) -> list[Buffer]:
        """Return a message with WAL from `sent` on, uncopied; `sent` moves behind it."""
        size_bytes = sum(map(len, pieces))
        assert 0 < size_bytes <= XLOG_DATA_BYTES_MAX, "a read returns what was asked for"
        start, end = self.sent, self._end()
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
