"""What a group sends, and when: entries to a majority at once, to the others a moment later.

    ready.messages ─► Outbox ─► links        votes, heartbeats, large Appends, those of the eager
                        └─ held, 5 ms ─► links      small Appends to everybody else, together

A commit needs the leader and as many followers as make a majority. Whoever gets its entries for
every commit wakes up for every commit; the others catch up every few milliseconds, with one read,
one write, one sync and one answer for all that came meanwhile. On a machine with few cores they do
not compete with those that the commit waits for.

The *eager* are the followers that have most, so one that becomes slow loses its place with the
first commit that waited for it: its entries reach the others when the hold ends. When a connection
breaks, or anything but a small Append is to be sent, what is held goes first. Raft sees a network
that is sometimes slow, which it bears by nature; nothing about safety depends on this.
"""

import asyncio
from collections.abc import Callable, Mapping, Set
from typing import Final

from raft.messages import Append, Message
from raft.progress import PeerProgress, PeerState
from raft.types import MemberId

HELD_BYTES_MAX: Final = 64 * 1024  # more is no small commit, and nobody should wait for it


def choose_eager(
    voters: Set[MemberId],
    me: MemberId,
    progress: Mapping[MemberId, PeerProgress],
    before: Set[MemberId],
) -> frozenset[MemberId] | None:
    """Return the followers that make a majority with us; None: everybody should be eager.

    Those that have most, and of equals those that were eager before. Pure.
    """
    needed = len(voters) // 2 + 1 - (me in voters)
    streaming = [
        member
        for member in voters - {me}
        if member in progress
        and progress[member].is_active
        and progress[member].state is PeerState.REPLICATE
    ]
    if len(streaming) < needed:
        return None
    streaming.sort(key=lambda one: (-progress[one].match_index, one not in before, one))
    return frozenset(streaming[:needed])


class Outbox:
    """The way out of one group. Invariant: what is held for a member goes before anything else."""

    def __init__(
        self,
        send: Callable[[Message], None],
        eager: Callable[[Set[MemberId]], frozenset[MemberId] | None],
        *,
        hold_ms: int,
    ) -> None:
        """`eager` chooses anew, given who was before; it is asked when a hold begins."""
        self._send = send
        self._choose = eager
        self._hold_s = hold_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._eager: frozenset[MemberId] = frozenset()
        self._held: list[Message] = []
        self._held_bytes = 0
        self._is_everybody_eager = True
        self._timer: asyncio.TimerHandle | None = None

    def send(self, message: Message) -> None:
        """Send a message, now or in a moment."""
        if self._hold_s and isinstance(message, Append) and message.entries:
            if self._timer is None:
                self._begin_hold()
            if not self._is_everybody_eager and message.to not in self._eager:
                self._hold(message)
                return
        if self._held and any(held.to == message.to for held in self._held):
            self.release()
        self._send(message)

    def release(self) -> None:
        """Send what is held, and choose anew who is eager with the next entries."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held, self._held_bytes = self._held, [], 0
        for message in held:
            self._send(message)

    def close(self) -> None:
        """Send nothing any more."""
        self._held = []
        self.release()

    def _begin_hold(self) -> None:
        chosen = self._choose(self._eager)
        self._is_everybody_eager = chosen is None
        self._eager = chosen or frozenset()
        self._timer = self._loop.call_later(self._hold_s, self.release)

    def _hold(self, message: Append) -> None:
        self._held.append(message)
        for entry in message.entries:
            self._held_bytes += entry.size_bytes
        if self._held_bytes > HELD_BYTES_MAX:
            self.release()
