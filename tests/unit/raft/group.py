"""A group of real cores whose network, disks and clock move by hand.

    an input to one member → its Readys → entries to its log, messages to the wire,
    and, when its disk gets to them, `persisted` and the promises that waited for that

The wire keeps messages in order until a test delivers or drops them. What is on a node's disk
survives `crash`; what is only in its log, or waits for the disk, does not.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence

from raft.core import Raft, Ready
from raft.messages import Message
from raft.settings import RaftSettings
from raft.types import Config, Entry, HardState, Persisted, Role, Snapshot

JOINING = Config(frozenset())
Link = tuple[int, int]


class Pace(random.Random):
    """Draws what a test can foresee: the member with the lower number is a tick faster."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self._offset = offset

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Draw the offset above the least."""
        return start + self._offset * step

    def randint(self, a: int, b: int) -> int:
        """Draw the offset above the least, as far as there is room."""
        return min(a + self._offset, b)


class Log:
    """Entries after a start: a log, or what of it is on the disk."""

    def __init__(self, start: Snapshot) -> None:
        self.hard_state = HardState()
        self.start = start
        self.entries_after: list[Entry] = []
        self.is_at_hand = True

    @property
    def last_index(self) -> int:
        """The newest entry."""
        return self.start.index + len(self.entries_after)

    def take(self, ready: Ready) -> None:
        """Do what a Ready asks a log to do."""
        if ready.restore is not None:
            self.start, self.entries_after = ready.restore, []
        if ready.entries:
            del self.entries_after[ready.entries[0].index - self.start.index - 1 :]
            assert ready.entries[0].index == self.last_index + 1, "a gap"
            self.entries_after += ready.entries
        self.hard_state = ready.hard_state or self.hard_state

    def trim(self, index: int) -> None:
        """Let the log start after `index`."""
        kept = index - self.start.index
        trimmed, self.entries_after = self.entries_after[:kept], self.entries_after[kept:]
        configs = [entry.config for entry in trimmed if entry.config is not None]
        config = configs[-1] if configs else self.start.config
        self.start = Snapshot(index, trimmed[-1].term, config)

    def entries(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        """Serve the core (see LogView)."""
        if not self.is_at_hand:
            return ()
        assert self.start.index < first <= last <= self.last_index, "asked for what is not there"
        asked = self.entries_after[first - self.start.index - 1 : last - self.start.index]
        served = [asked[0]]
        size_bytes = asked[0].size_bytes
        for entry in asked[1:]:
            size_bytes += entry.size_bytes
            if size_bytes > bytes_max:
                break
            served.append(entry)
        return served

    def snapshot(self) -> Snapshot | None:
        """Serve the core (see LogView)."""
        return self.start if self.is_at_hand else None

    def persisted(self) -> Persisted:
        """What a restart finds."""
        terms: list[tuple[int, int]] = []
        for entry in self.entries_after:
            if not terms or terms[-1][1] != entry.term:
                terms.append((entry.index, entry.term))
        return Persisted(
            hard_state=self.hard_state,
            snapshot=self.start,
            terms=tuple(terms),
            last_index=self.last_index,
            configs=tuple((e.index, e.config) for e in self.entries_after if e.config is not None),
        )


class Node:
    """One member, its log and its disk."""

    def __init__(self, me: int, start: Snapshot, settings: RaftSettings, wire: list[Message]):
        self.me = me
        self.settings = settings
        self.wire = wire
        self.disk = Log(start)
        self.is_disk_slow = False
        self.is_up = True
        self.reads: list[tuple[int, int]] = []
        self.readys: list[Ready] = []
        self._boot()

    @property
    def terms(self) -> list[int]:
        """The terms of the entries of the log."""
        return [entry.term for entry in self.log.entries_after]

    def drain(self) -> None:
        """Take all Readys of the core; a fast disk does its part at once."""
        while (ready := self.raft.ready()) is not None:
            self.readys.append(ready)
            self.log.take(ready)
            self.reads += ready.reads
            self.wire += ready.messages
            self.pending.append(ready)
            if not self.is_disk_slow:
                self._persist_one()

    def persist(self, count: int | None = None) -> None:
        """Let a slow disk do the oldest Readys."""
        for _ in range(len(self.pending) if count is None else count):
            self._persist_one()
        self.drain()

    def crash(self) -> None:
        """Lose all that is not on the disk."""
        self.is_up = False
        self.is_disk_slow = False
        self.pending.clear()

    def restart(self) -> None:
        """Start from the disk."""
        self.is_up = True
        self._boot()

    def trim(self, index: int) -> None:
        """Drop what is committed up to `index` from log and disk."""
        self.raft.trimmed(index)
        for log in (self.log, self.disk):
            log.trim(index)

    def _boot(self) -> None:
        self.log = Log(self.disk.start)
        self.log.entries_after = list(self.disk.entries_after)
        self.pending: deque[Ready] = deque()
        rng = Pace(self.me - 1)
        self.raft = Raft(self.me, self.disk.persisted(), self.log, self.settings, rng)

    def _persist_one(self) -> None:
        ready = self.pending.popleft()
        self.disk.take(ready)
        self.raft.persisted(ready.number)
        self.wire += ready.messages_after


class Group:
    """Members 1, 2, ... of one group."""

    def __init__(
        self, voters: int, *, learners: int = 0, settings: RaftSettings | None = None
    ) -> None:
        self.settings = settings or RaftSettings()
        self.wire: list[Message] = []
        self.nodes: dict[int, Node] = {}
        self.cuts: set[Link] = set()
        self.on_message: Callable[[Message, bool], None] = lambda message, is_delivered: None
        members = range(1, voters + learners + 1)
        config = Config(frozenset(members[:voters]), frozenset(members[voters:]))
        for me in members:
            self.add(me, config)

    def __getitem__(self, me: int) -> Raft:
        return self.nodes[me].raft

    def add(self, me: int, config: Config = JOINING) -> None:
        """Add an empty member; without a configuration it waits for a leader."""
        self.nodes[me] = Node(me, Snapshot(0, 0, config), self.settings, self.wire)

    def elect(self, me: int) -> Raft:
        """Make a member the leader, which all know, and let its first entry be committed by all."""
        self[me].campaign()
        self.settle()
        assert self[me].is_leader_ready, "a cut or a newer log prevents it"
        return self[me]

    def propose(self, me: int, count: int = 1, size_bytes: int = 1) -> list[int]:
        """Propose so many entries, each in a Ready of its own; return their indices."""
        indices = []
        for _ in range(count):
            indices.append(self[me].propose(size_bytes, "ref"))
            self.nodes[me].drain()
        return indices

    def tick(self, me: int, count: int = 1) -> None:
        """Let time pass at one member."""
        for _ in range(count):
            self[me].tick()
            self.nodes[me].drain()

    def pass_time(self, ticks: int) -> None:
        """Let time pass everywhere, messages arriving within a tick."""
        for _ in range(ticks):
            for me, node in self.nodes.items():
                if node.is_up:
                    self.tick(me)
            self.deliver_all()

    def settle(self) -> None:
        """Let everything arrive, and the news of what is committed."""
        self.deliver_all()
        self.pass_time(self.settings.heartbeat_ticks * 2)

    def send(self, message: Message) -> None:
        """Deliver a message, wherever it comes from."""
        node = self.nodes[message.to]
        is_delivered = node.is_up and (message.sender, message.to) not in self.cuts
        self.on_message(message, is_delivered)
        if is_delivered:
            node.raft.step(message)
            node.drain()

    def deliver(self, link: Link, count: int | None = None) -> None:
        """Deliver the oldest messages of one link."""
        for message in self.take(link)[:count]:
            self.wire.remove(message)
            self.send(message)

    def deliver_all(self) -> None:
        """Deliver all that is on the wire, and what comes of it."""
        for node in self.nodes.values():
            if node.is_up:
                node.drain()
        while self.wire:
            self.send(self.wire.pop(0))

    def drop(self, link: Link) -> None:
        """Lose what is on one link."""
        for message in self.take(link):
            self.wire.remove(message)
            self.on_message(message, False)

    def reverse(self, link: Link) -> None:
        """Let what is on one link arrive in the wrong order."""
        messages = self.take(link)
        for message in messages:
            self.wire.remove(message)
        self.wire += reversed(messages)

    def take(self, link: Link) -> list[Message]:
        """Show what is on one link."""
        return [message for message in self.wire if (message.sender, message.to) == link]

    def cut(self, *members: int) -> None:
        """Cut members off from everybody, and lose what is on their links."""
        for me in members:
            for other in self.nodes:
                self.cuts |= {(me, other), (other, me)}
                self.drop((me, other))
                self.drop((other, me))

    def heal(self) -> None:
        """Mend all links."""
        self.cuts.clear()

    def role(self, me: int) -> Role:
        """What a member does now."""
        return self[me].role

    def leaders(self) -> list[int]:
        """Who believes to lead."""
        return [me for me, node in self.nodes.items() if node.raft.role is Role.LEADER]
