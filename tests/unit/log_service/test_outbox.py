"""Entries go to a majority at once and to the others in a moment; nothing is lost or overtaken.

In scope: who is eager, what is held, in which order it goes. Out of scope: what Raft makes of it,
in tests/simulation; what it saves, in bench/log.
"""

import asyncio
from collections.abc import Set

from log_service.outbox import HELD_BYTES_MAX, Outbox, choose_eager
from raft.messages import Append, Message
from raft.progress import PeerProgress, PeerState
from raft.types import Entry

VOTERS = frozenset({1, 2, 3})
LONG_MS = 60_000


def peer(
    match_index: int, *, state: PeerState = PeerState.REPLICATE, is_active: bool = True
) -> PeerProgress:
    return PeerProgress(
        match_index=match_index, next_index=match_index + 1, state=state, is_active=is_active
    )


def append(to: int, index: int, size_bytes: int = 100) -> Append:
    entries = (Entry(index, 1, size_bytes),)
    return Append(
        sender=1, to=to, term=1, prev_index=index - 1, prev_term=1, entries=entries, commit=0
    )


def heartbeat(to: int) -> Append:
    return Append(sender=1, to=to, term=1, prev_index=0, prev_term=0, commit=0)


# --- Who is eager -------------------------------------------------------------------------------


def test_who_has_most_is_eager() -> None:
    assert choose_eager(VOTERS, 1, {2: peer(10), 3: peer(11)}, {2}) == frozenset({3})


def test_of_equals_who_was_eager_stays() -> None:
    progress = {2: peer(10), 3: peer(10)}
    assert choose_eager(VOTERS, 1, progress, {3}) == frozenset({3})
    assert choose_eager(VOTERS, 1, progress, {2}) == frozenset({2})


def test_five_voters_need_two_eager_followers() -> None:
    progress = {2: peer(5), 3: peer(9), 4: peer(7), 5: peer(8)}
    assert choose_eager(frozenset(range(1, 6)), 1, progress, set()) == frozenset({3, 5})


def test_a_leader_that_does_not_vote_needs_a_majority_of_others() -> None:
    progress = {2: peer(5), 3: peer(9), 4: peer(7)}
    assert choose_eager(frozenset({2, 3, 4}), 1, progress, set()) == frozenset({3, 4})


def test_silent_and_lagging_followers_are_not_relied_upon() -> None:
    silent = {2: peer(99, is_active=False), 3: peer(10)}
    assert choose_eager(VOTERS, 1, silent, {2}) == frozenset({3})
    probing = {2: peer(99, state=PeerState.PROBE), 3: peer(10)}
    assert choose_eager(VOTERS, 1, probing, {2}) == frozenset({3})


def test_without_a_majority_that_streams_everybody_is_eager() -> None:
    progress = {2: peer(1, state=PeerState.PROBE), 3: peer(1, is_active=False)}
    assert choose_eager(VOTERS, 1, progress, set()) is None


# --- What is held -------------------------------------------------------------------------------


class World:
    """An outbox whose messages are kept, and who is eager is told by the test."""

    def __init__(self, *, hold_ms: int = LONG_MS, eager: frozenset[int] | None = None) -> None:
        self.eager = frozenset({2}) if eager is None else eager
        self.asked: list[Set[int]] = []
        self.sent: list[Message] = []
        self.has_sent = asyncio.Event()
        self.outbox = Outbox(self._send, self._choose, hold_ms=hold_ms)

    def _send(self, message: Message) -> None:
        self.sent.append(message)
        self.has_sent.set()

    def _choose(self, before: Set[int]) -> frozenset[int] | None:
        self.asked.append(before)
        return self.eager


def test_entries_for_the_lazy_wait_and_go_in_order() -> None:
    async def story() -> None:
        world = World()
        for index in (1, 2, 3):
            world.outbox.send(append(2, index))
            world.outbox.send(append(3, index))
        assert world.sent == [append(2, 1), append(2, 2), append(2, 3)]
        world.outbox.release()
        assert world.sent[3:] == [append(3, 1), append(3, 2), append(3, 3)]
        world.outbox.close()

    asyncio.run(story())


def test_a_hold_ends_by_itself_and_the_next_one_asks_who_is_eager() -> None:
    async def story() -> None:
        world = World(hold_ms=1)
        world.outbox.send(append(3, 1))
        await world.has_sent.wait()
        world.eager = frozenset({3})
        world.outbox.send(append(3, 2))
        assert world.sent == [append(3, 1), append(3, 2)]
        assert world.asked == [frozenset(), frozenset({2})]
        world.outbox.close()

    asyncio.run(story())


def test_what_is_held_goes_before_anything_else_to_the_same_member() -> None:
    async def story() -> None:
        world = World()
        world.outbox.send(append(3, 1))
        world.outbox.send(heartbeat(2))
        assert world.sent == [heartbeat(2)]
        world.outbox.send(heartbeat(3))
        assert world.sent == [heartbeat(2), append(3, 1), heartbeat(3)]
        world.outbox.close()

    asyncio.run(story())


def test_much_is_not_held() -> None:
    async def story() -> None:
        world = World()
        world.outbox.send(append(3, 1))
        world.outbox.send(append(3, 2, HELD_BYTES_MAX))
        assert [message.to for message in world.sent] == [3, 3]
        world.outbox.close()

    asyncio.run(story())


def test_nothing_is_held_when_everybody_is_eager_or_holding_is_off() -> None:
    async def story() -> None:
        off = World(hold_ms=0)
        off.outbox.send(append(3, 1))
        assert off.sent == [append(3, 1)]
        world = World()
        world._choose = lambda before: None  # type: ignore[method-assign]  # nobody can be relied on
        world.outbox = Outbox(world.sent.append, world._choose, hold_ms=LONG_MS)
        world.outbox.send(append(3, 1))
        assert world.sent == [append(3, 1)]
        world.outbox.close()

    asyncio.run(story())


def test_a_closed_outbox_sends_nothing_more() -> None:
    async def story() -> None:
        world = World()
        world.outbox.send(append(3, 1))
        world.outbox.close()
        world.outbox.release()
        assert world.sent == []

    asyncio.run(story())
