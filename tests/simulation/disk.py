"""The disk of a simulated node: a queue of writes, one sync for all that waited, and what a crash
leaves of them.

Writes become durable in order when their sync ends. A crash in the middle keeps a random prefix of
the writes that were under way; the entry behind it is torn, and recovery cuts it. If that entry was
overwriting an older tail, the tail may be gone with it. Writes whose sync had not begun are lost.

A disk outlives its node: the checkers count on the disks of nodes that are gone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from raft.messages import Message
from raft.types import Entry, HardState, Persisted, Snapshot

from .node_log import NodeLog
from .timeline import Timeline
from .trace import Trace


@dataclass(slots=True, kw_only=True)
class Write:
    """What one Ready wants on disk, or (`trim`) a new start of the log."""

    number: int = 0
    hard_state: HardState | None = None
    restore: Snapshot | None = None
    entries: tuple[Entry, ...] = ()
    trim: Snapshot | None = None
    messages_after: tuple[Message, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.hard_state or self.restore or self.entries or self.trim)


@dataclass(slots=True)
class DiskTimes:
    """How long a sync takes; the faults change it."""

    usual_us: int = 300
    slow_us: int = 8_000
    slow_share: float = 0.02


@dataclass(slots=True)
class Disk:
    """Durable state, and the writes on their way to it."""

    member: int
    timeline: Timeline
    trace: Trace
    rng: random.Random
    start: Snapshot
    times: DiskTimes = field(default_factory=DiskTimes)
    is_destroyed: bool = False
    hard_state: HardState = field(default_factory=HardState)
    log: NodeLog = field(init=False)
    when_syncing: Callable[[], None] | None = None
    """Called once, during a sync to come or just after it: the place for a crash."""
    awaits_vote: bool = False
    """Wait with that for a sync that makes a vote durable."""
    _waiting: list[Write] = field(default_factory=list)
    _syncing: list[Write] = field(default_factory=list)
    _lives: int = 0

    def __post_init__(self) -> None:
        self.log = NodeLog(self.start, lambda _: True)

    def submit(self, write: Write, when_durable: Callable[[list[Write]], None]) -> None:
        """Queue a write; `when_durable` gets it with all that became durable by the same sync."""
        self._waiting.append(write)
        if not self._syncing:
            self._begin(when_durable)

    def crash(self) -> None:
        """The machine loses power: see the module."""
        self._lives += 1
        steps: list[Snapshot | HardState | Entry | None] = []
        for write in self._syncing:
            steps += [write.hard_state, write.restore, *write.entries, write.trim]
        count = 0 if self.rng.random() < 0.4 else self.rng.randint(0, len(steps))
        if self._syncing:
            self.trace.note("crash during a sync", self.member, f"{count} of {len(steps)} kept")
            self._crash_in_batch(count)
        self._waiting.clear()
        self._syncing = []

    def recovered(self) -> Persisted:
        """What a restart finds."""
        log = self.log
        runs = groupby(log.list, key=lambda entry: entry.term)
        return Persisted(
            hard_state=self.hard_state,
            snapshot=log.start,
            last_index=log.last_index,
            terms=tuple((next(entries).index, term) for term, entries in runs),
            configs=tuple(log.configs),
        )

    def has(self, index: int, chain: int) -> bool:
        """Whether exactly this log up to `index` is durable, or was trimmed after it was."""
        return index < self.log.start.index or self.log.chain(index) == chain

    def _begin(self, when_durable: Callable[[list[Write]], None]) -> None:
        self._syncing, self._waiting = self._waiting, []
        times = self.times
        mean_us = times.slow_us if self.rng.random() < times.slow_share else times.usual_us
        delay_us = int(mean_us * (0.5 + self.rng.random()))
        self.timeline.after(delay_us, self._finish, self._lives, when_durable)
        if self.when_syncing is not None and (not self.awaits_vote or self._is_voting()):
            self.timeline.after(self.rng.randrange(delay_us * 3 // 2), self.when_syncing)
            self.when_syncing = None

    def _is_voting(self) -> bool:
        return any(write.hard_state and write.hard_state.vote for write in self._syncing)

    def _finish(self, lives: int, when_durable: Callable[[list[Write]], None]) -> None:
        if lives != self._lives:
            return
        writes = self._syncing
        for write in writes:
            self._apply(write)
        self._syncing = []
        if self._waiting:
            self._begin(when_durable)
        when_durable(writes)

    def _apply(self, write: Write) -> None:
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.restore is not None:
            self.log.reset(write.restore)
        self._append(write.entries)
        if write.trim is not None and self.log.start.index < write.trim.index:
            self.log.trim(write.trim)

    def _append(self, entries: tuple[Entry, ...]) -> None:
        if entries and entries[0].index <= self.log.last_index:
            self.log.cut(entries[0].index)
        for entry in entries:
            self.log.append(entry)

    def _crash_in_batch(self, steps: int) -> None:
        """Let the first so many steps of the writes under way happen."""
        for write in self._syncing:
            kept = Write(number=write.number)
            for name in ("hard_state", "restore"):
                steps -= 1
                if steps >= 0:
                    setattr(kept, name, getattr(write, name))
            kept.entries = write.entries[: max(steps, 0)]
            is_torn = 0 <= steps < len(write.entries)
            steps -= len(write.entries) + 1
            if steps >= 0:
                kept.trim = write.trim
            self._apply(kept)
            if is_torn:
                self._tear(write.entries[len(kept.entries)])
            if steps < 0:
                return

    def _tear(self, entry: Entry) -> None:
        """Half of this entry was written. Recovery cuts it; what it overwrote may be lost."""
        self.trace.note("torn tail cut", self.member, entry.index)
        if entry.index <= self.log.last_index and self.rng.random() < 0.5:
            self.log.cut(entry.index)
