"""The shell of a simulated node: does for its core what the log service does for the real one.

Whatever happens to a node (a message, a tick, a finished sync, a client's call) enters through
`Node.enter`: a node that is down loses it, one that is stopped keeps it for later. Then every
`Ready` is carried out: entries into the log, its messages sent at once, the rest to the disk, and
`messages_after` sent when their sync is over. Several Readys may wait for the disk at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from raft.core import Raft
from raft.errors import BusyError, ConfigRefusedError, NotLeaderError
from raft.messages import Message, VoteReply
from raft.types import Role, Snapshot

from .disk import Disk, Write
from .node_log import NodeLog
from .operations import Fence, Machine, Operation, State, Wal
from .scenario import TICK_US
from .trace import described_entry

if TYPE_CHECKING:
    from raft.core import Ready
    from raft.types import Config, Entry

    from .world import World

Outcome: TypeAlias = Callable[["int | None"], None]
"""Called with the index of a committed operation, or None: refused, or its fate is unknown."""

# More than the longest election timeout: who is woken stays awake until it knows a living leader.
REST_AFTER_TICKS = 25
ENTRIES_IN_MEMORY = 12  # the newest are always at hand


@dataclass(slots=True)
class _Waiting:
    """A client that waits for its operation at some index."""

    operation: Operation
    outcome: Outcome


class Node:
    """One member, from its creation on, through all its lives."""

    def __init__(self, world: World, disk: Disk) -> None:
        self.world = world
        self.disk = disk
        self.member = disk.member
        self.is_up = False
        self.is_stopped = False
        self.tick_us = TICK_US
        self._life = 0
        self._checkpoint: Snapshot | None = None
        self.boot()

    def boot(self) -> None:
        """Start from what is on disk."""
        assert not self.is_up
        assert not self.disk.is_destroyed
        world, persisted = self.world, self.disk.recovered()
        start, hard_state = persisted.snapshot, persisted.hard_state
        if hard_state.vote:
            world.checkers.voted(self.member, hard_state.term, hard_state.vote)
        self.is_up = True
        self.log = NodeLog(start, self._is_at_hand)
        for entry in self.disk.log.list:
            self.log.append(entry)
        self._restart_machine(start)
        settings, rng = world.scenario.settings, world.fork_rng()
        self.raft = Raft(self.member, persisted, self.log, settings, rng)
        self.term = hard_state.term
        self.tip: Fence | None = None
        self._led_term = 0
        self._waiting: dict[int, _Waiting] = {}
        self._reads: dict[int, int] = {}
        self._backlog: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._writes_under_way = 0
        self._is_fetching = False
        self._is_resting = False
        self._idle_ticks = 0
        self._missed_ticks = 0
        self.schedule_tick()
        self.pump()

    def crash(self) -> None:
        """Lose everything but what the disk keeps."""
        self.is_up = self.is_stopped = False
        self._life += 1
        self.disk.crash()
        self._abandon(self._waiting)

    def stop(self) -> None:
        """Be stopped in the middle of everything, as by SIGSTOP; the disk goes on."""
        self.is_stopped = True
        self._missed_ticks = 0

    def resume(self) -> None:
        """Go on: first the ticks that the clock shows were missed, then what has piled up."""
        self.is_stopped = False
        settings = self.world.scenario.settings
        if settings.lease_reads or self.world.rng.random() < 0.5:
            for _ in range(min(self._missed_ticks, settings.election_ticks)):
                self.raft.tick()
            self.pump()
        backlog, self._backlog = self._backlog, []
        for action, arguments in backlog:
            self.enter(action, *arguments)

    def enter(self, action: Callable[..., object], *arguments: object) -> None:
        """Let something happen to this node, if it is there."""
        if not self.is_up:
            self.world.trace.counts["lost on a node that is down"] += 1
        elif self.is_stopped:
            self._backlog.append((action, arguments))
        else:
            action(*arguments)
            self.pump()

    # --- what happens to it -----------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        """Take a message from the network."""
        self.wake()
        self.raft.step(message)

    def schedule_tick(self) -> None:
        """Let the next tick come, by this node's clock."""
        self.world.timeline.after(self.tick_us, self._ticked, self._life)

    def wake(self) -> None:
        """Tick again, after a rest."""
        if self._is_resting:
            self._is_resting = False
            self._idle_ticks = 0
            self.world.trace.note("woke up", self.member)
            self.schedule_tick()

    def propose(self, operation: Operation, outcome: Outcome) -> None:
        """Propose what the end of the log admits."""
        self.wake()
        trace = self.world.trace
        if not self.admits(operation):
            trace.note("refused by the fence", self.member, operation)
            outcome(None)
            return
        try:
            index = self.raft.propose(_size_bytes(operation), operation)
        except NotLeaderError:
            trace.count("refused: not the leader")
            outcome(None)
        except BusyError:
            trace.count("refused: busy")
            outcome(None)
        else:
            assert self.tip is not None
            self.tip = self.tip.after(operation)
            self._waiting[index] = _Waiting(operation, outcome)

    def admits(self, operation: Operation) -> bool:
        """Whether the fence at the end of the log lets this follow; not asked if we do not lead."""
        return self.tip is None or self.tip.admits(operation)

    def propose_config(self, config: Config) -> None:
        """Propose other members."""
        self.wake()
        try:
            index = self.raft.propose_config(config)
        except (NotLeaderError, BusyError):
            self.world.trace.count("change of members refused: not the leader, or busy")
        except ConfigRefusedError as error:
            self.world.trace.note("change of members refused", self.member, error)
        else:
            self.world.trace.note("change of members proposed", self.member, (index, config))

    def transfer(self, to: int) -> None:
        """Try to make `to` the leader."""
        self.wake()
        try:
            self.raft.transfer(to)
        except (NotLeaderError, BusyError, ConfigRefusedError):
            self.world.trace.count("transfer refused")
        else:
            self.world.trace.note("transfer began", self.member, to)

    def read(self, context: int) -> None:
        """Ask for an index to read at."""
        self.wake()
        self._reads[context] = self.world.checkers.commit_index
        had_lease = self.raft.has_lease and self.world.scenario.settings.lease_reads
        try:
            self.raft.read_index(context)
        except (NotLeaderError, BusyError):
            self.world.trace.count("read refused")
        else:
            self.world.trace.count("read by lease" if had_lease else "read by round")

    def hint(self, peer: int) -> None:
        """Learn that the connection to `peer` broke."""
        self.wake()
        if self.raft.leader == peer:
            self.world.trace.note("told: leader unreachable", self.member, peer)
            self.raft.leader_unreachable()
        elif self.raft.role is Role.LEADER:
            self.world.trace.count("told: peer unreachable")
            self.raft.peer_unreachable(peer)

    def campaign(self) -> None:
        """Be told to stand for election now."""
        self.wake()
        self.world.trace.note("told to campaign", self.member)
        self.raft.campaign()

    def trim(self) -> None:
        """Let the log begin at the checkpoint before this one."""
        start = self._checkpoint
        if start is not None and self.log.start.index < start.index:
            self.world.trace.note("trimmed", self.member, start.index)
            self._submit(Write(trim=start))
        index = self.machine.index
        term, chain = self.raft.term_at(index), self.log.chain(index)
        assert term is not None, "the core forgot the term of an applied entry"
        assert chain is not None, "an applied entry is not in the log"
        config, state = self.machine.config, self.machine.state(chain)
        self._checkpoint = Snapshot(index, term, config, state)

    # --- carrying out what the core wants ---------------------------------------------------------

    def pump(self) -> None:
        """Carry out every Ready that there is."""
        raft = self.raft
        while (ready := raft.ready()) is not None:
            self.carry_out(ready)
        if raft.role is not Role.LEADER:
            if self.tip is not None:
                self.tip = None
                self.world.trace.note("stepped down", self.member, raft.term)
        elif raft.term != self._led_term:
            self._led_term = raft.term
            self.world.trace.note("leads", self.member, raft.term)
            self.world.checkers.leads(self)
            self.tip = self._fence_at_end()

    def carry_out(self, ready: Ready) -> None:
        """Do what a Ready says, in its order."""
        self.world.checkers.went_on(self, ready.commit_index)
        if ready.restore is not None:
            self._restore(ready.restore)
        if ready.entries:
            self._append(ready.entries)
        if ready.commit_index > self.machine.index:
            self._commit(ready.commit_index)
        self.send(ready.messages)
        for context, index in ready.reads:
            self._finish_read(context, index)
        self.persist(ready)

    def persist(self, ready: Ready) -> None:
        """Hand to the disk what must be durable."""
        self._submit(
            Write(
                number=ready.number,
                hard_state=ready.hard_state,
                restore=ready.restore,
                entries=ready.entries,
                messages_after=ready.messages_after,
            )
        )

    def send(self, messages: Iterable[Message]) -> None:
        """Give messages to the network."""
        for message in messages:
            if type(message) is VoteReply and message.granted and not message.is_pre:
                self.world.checkers.voted(self.member, message.term, message.to)
            self.world.network.send(message)

    def _submit(self, write: Write) -> None:
        if write.is_empty and not self._writes_under_way:
            self._complete([write])
        else:
            self._writes_under_way += 1
            if self._writes_under_way > 1:
                self.world.trace.counts["several Readys under way"] += 1
            self.disk.submit(write, self._durable)

    def _durable(self, writes: list[Write]) -> None:
        self.enter(self._finish_writes, writes)

    def _finish_writes(self, writes: list[Write]) -> None:
        self._writes_under_way -= len(writes)
        self._complete(writes)

    def _complete(self, writes: list[Write]) -> None:
        for write in writes:
            if write.hard_state is not None and write.hard_state.vote:
                term, vote = write.hard_state.term, write.hard_state.vote
                self.world.checkers.voted(self.member, term, vote)
            self.send(write.messages_after)
        number = max(write.number for write in writes)
        if number:
            self.raft.persisted(number)
        for write in writes:
            if write.trim is not None and write.trim.index > self.log.start.index:
                self.log.trim(write.trim)
                self.raft.trimmed(write.trim.index)

    def _append(self, entries: tuple[Entry, ...]) -> None:
        first = entries[0].index
        if first <= self.log.last_index:
            self.world.trace.note("cut its log", self.member, first)
            self.log.cut(first)
            self._abandon([index for index in self._waiting if index >= first])
        for entry in entries:
            self.log.append(entry)
            self.world.checkers.appended(self, entry)
            if self.world.trace.is_kept:
                self.world.trace.line("appended", self.member, described_entry(entry))

    def _commit(self, last: int) -> None:
        self.world.checkers.committed(self, last, leaders=self.world.leaders())
        for index in range(self.machine.index + 1, last + 1):
            entry = self.log.entry(index)
            self.machine.apply(entry)
            self.world.applied(entry)
            waiting = self._waiting.pop(index, None)
            if waiting is not None:
                waiting.outcome(index if entry.ref is waiting.operation else None)

    def _restore(self, start: Snapshot) -> None:
        self.world.trace.note("restored", self.member, start.index)
        self.log.reset(start)
        self._restart_machine(start)
        self._abandon(list(self._waiting))
        self.world.checkers.committed(self, start.index, leaders=())

    def _restart_machine(self, start: Snapshot) -> None:
        assert isinstance(start.ref, State)
        self.machine = Machine(start.index, start.config, start.ref)
        self._checkpoint = None

    def _finish_read(self, context: int, index: int) -> None:
        asked_at = self._reads.pop(context)
        self.world.trace.count("read confirmed")
        self.world.checkers.read(self.member, asked_at=asked_at, index=index)

    def _abandon(self, indices: Iterable[int]) -> None:
        for index in list(indices):
            self._waiting.pop(index).outcome(None)

    def _fence_at_end(self) -> Fence:
        fence = self.machine.fence
        for index in range(self.machine.index + 1, self.log.last_index + 1):
            fence = fence.after(self.log.entry(index).ref)
        return fence

    def _ticked(self, life: int) -> None:
        if life != self._life:
            return
        if self.is_stopped:
            self._missed_ticks += 1
        else:
            self.enter(self._tick)
        if not self._is_resting:
            self.schedule_tick()

    def _tick(self) -> None:
        self.raft.tick()
        if self.world.scenario.rests:
            self._idle_ticks = self._idle_ticks + 1 if self.raft.can_rest() else 0
            if self._idle_ticks >= REST_AFTER_TICKS:
                self._is_resting = True
                self.raft.rest()
                self.world.trace.note("rests", self.member)

    def _is_at_hand(self, first: int) -> bool:
        world = self.world
        if first > self.log.last_index - ENTRIES_IN_MEMORY or not world.scenario.miss_share:
            return True
        if world.rng.random() >= world.scenario.miss_share:
            return True
        world.trace.counts["entries not at hand"] += 1
        if not self._is_fetching:
            self._is_fetching = True
            world.timeline.after(TICK_US // 10, self._fetched, self._life)
        return False

    def _fetched(self, life: int) -> None:
        if life == self._life:
            self._is_fetching = False
            self.enter(self.raft.entries_available)


def _size_bytes(operation: Operation) -> int:
    return 48 + (operation.end - operation.start if isinstance(operation, Wal) else 16)
