"""What must be true after every step of every run. Everything is checked as it happens.

The checkers know everything: all logs, all disks, whatever any node ever did. The names are those
of the Raft paper (figure 3); the last two are what Seawall builds on them.

- election safety: one leader in a term; a member votes once in a term, whatever it forgot
- log matching: the same index and term in two logs mean that everything before is the same
- leader completeness: a leader has what leaders of earlier terms committed
- state machine safety: what is committed at an index is the same everywhere, for ever; a leader
  commits only entries of its own term by counting, and when a majority has them on disk
- commit and term never go back; members change one at a time, after the leader's own term committed
- reads: a confirmed index covers everything that anybody knew committed when the read was asked
- acknowledged commands are committed; acknowledged WAL of an epoch is in the log as that epoch's
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from raft.core import Raft
from raft.types import Config, Entry, Role

from .disk import Disk
from .node_log import NodeLog
from .operations import EMPTY_STATE, Add, Epoch, Machine, Wal
from .violation import Violation


class Witness(Protocol):
    """What the checkers see of a node."""

    member: int
    term: int
    """The newest that it was in since it started."""
    log: NodeLog
    machine: Machine
    raft: Raft


class Checkers:
    """The whole history, as far as it is needed to recognise a contradiction."""

    def __init__(self, disks: Mapping[int, Disk]) -> None:
        self.entries: list[Entry] = []
        """Everything that was ever committed, in order."""
        self.chains: list[int] = [EMPTY_STATE.chain]
        """By index: what stands for the log up to there."""
        self.fence = EMPTY_STATE.fence
        self.wal_ends: dict[int, int] = {}
        """By epoch: where its committed WAL ends."""
        self._disks = disks
        self._committed_in: list[int] = [0]
        self._leaders: dict[int, int] = {}
        self._grants: dict[tuple[int, int], int] = {}
        self._known: dict[tuple[int, int], int] = {}
        self._acknowledged: dict[int, int] = {}

    @property
    def commit_index(self) -> int:
        """The highest index that anybody knows to be committed."""
        return len(self.entries)

    def voted(self, member: int, term: int, candidate: int) -> None:
        """`member` let a vote out, or has one on disk."""
        first = self._grants.setdefault((member, term), candidate)
        if first != candidate:
            raise Violation("votes once", f"n{member} in term {term}: {first}, then {candidate}")

    def leads(self, node: Witness) -> None:
        """`node` has become the leader of its term."""
        term, log = node.raft.term, node.log
        first = self._leaders.setdefault(term, node.member)
        if first != node.member:
            raise Violation("election safety", f"term {term}: n{first} and n{node.member}")
        index = self.commit_index
        while self._committed_in[index] >= term:
            index -= 1
        self._check_complete(log, index, f"n{node.member} leads term {term}")

    def went_on(self, node: Witness, commit_index: int) -> None:
        """`node` has taken a step: time has only one direction."""
        if commit_index < node.machine.index:
            raise Violation("commit never goes back", f"n{node.member}: to {commit_index}")
        if node.raft.term < node.term:
            raise Violation("term never goes back", f"n{node.member}: to {node.raft.term}")
        node.term = node.raft.term

    def appended(self, node: Witness, entry: Entry) -> None:
        """`entry` is the newest of the node's log."""
        chain = node.log.chains[-1]
        if self._known.setdefault((entry.index, entry.term), chain) != chain:
            raise Violation("log matching", f"n{node.member} at {entry.index} of term {entry.term}")
        if entry.config is not None:
            self._check_change(node, entry.index, entry.config)

    def committed(self, node: Witness, last: int, *, leaders: Iterable[Witness]) -> None:
        """`node` has learnt that everything up to `last` is committed."""
        log = node.log
        if last > log.last_index:
            raise Violation("state machine safety", f"n{node.member} commits {last} beyond its log")
        if last > self.commit_index:
            self._commit_first(node, last)
            for leader in leaders:
                if leader.raft.term > node.raft.term:
                    self._check_complete(leader.log, last, f"n{leader.member} leads already")
        if log.chain(last) != self.chains[last]:
            raise Violation("state machine safety", f"n{node.member} at {last}")

    def acknowledged(self, number: int, index: int) -> None:
        """A client was told that its command is committed."""
        operation = self.entries[index - 1].ref if index <= self.commit_index else None
        if not (isinstance(operation, Add) and operation.number == number):
            raise Violation("acknowledged is committed", f"command {number} at {index}")
        self._acknowledged.setdefault(number, index)

    def wal_acknowledged(self, epoch: int, lsn: int) -> None:
        """The holder of `epoch` was told that its WAL up to `lsn` is safe."""
        end = self.wal_ends.get(epoch, -1)
        if lsn > end:
            raise Violation("fencing", f"epoch {epoch} has {end} committed, but {lsn} acknowledged")

    def read(self, member: int, *, asked_at: int, index: int) -> None:
        """A read, asked when `asked_at` was the commit index of the group, got `index`."""
        if index < asked_at:
            raise Violation("reads are linearizable", f"n{member}: {index} after {asked_at}")

    def finished(self, member: int, numbers: list[int]) -> None:
        """The list that a replica ends with."""
        if len(set(numbers)) != len(numbers):
            raise Violation("commands happen once", f"n{member} has one twice")
        lost = self._acknowledged.keys() - set(numbers)
        if lost:
            raise Violation("acknowledged is never lost", f"n{member} lacks {sorted(lost)[:5]}")

    def _check_complete(self, log: NodeLog, index: int, who: str) -> None:
        if log.start.index <= index and log.chain(index) != self.chains[index]:
            raise Violation("leader completeness", f"{who}, and lacks the committed {index}")

    def _commit_first(self, node: Witness, last: int) -> None:
        """Nobody knew before that entries up to `last` are committed."""
        log, raft = node.log, node.raft
        if self._leaders.get(raft.term) != node.member:  # it may have just removed itself
            raise Violation("state machine safety", f"n{node.member} follows, yet knows first")
        if log.entry(last).term != raft.term:
            raise Violation("commits own term only", f"n{node.member} commits {last} by counting")
        if log.chain(self.commit_index) != self.chains[-1]:
            raise Violation("state machine safety", f"n{node.member} before {last}")
        chain = log.chain(last)
        assert chain is not None
        voters = log.config_before(log.last_index + 1).voters
        durable = sum(self._disks[voter].has(last, chain) for voter in voters)
        if durable * 2 <= len(voters):
            raise Violation("a majority has it on disk", f"{last}: {durable} of {len(voters)}")
        for index in range(self.commit_index + 1, last + 1):
            self._fold(log.entry(index))
            self.entries.append(log.entry(index))
            self.chains.append(log.chain(index) or 0)
            self._committed_in.append(raft.term)

    def _fold(self, entry: Entry) -> None:
        operation = entry.ref
        if not self.fence.admits(operation):
            raise Violation("fencing", f"{operation} is committed behind {self.fence}")
        self.fence = self.fence.after(operation)
        if isinstance(operation, Wal | Epoch):
            self.wal_ends[self.fence.epoch] = self.fence.wal_end

    def _check_change(self, node: Witness, index: int, config: Config) -> None:
        before = node.log.config_before(index)
        if before.voters and len(before.voters ^ config.voters) > 1:
            raise Violation("one change at a time", f"n{node.member}: {before} then {config}")
        if node.raft.role is not Role.LEADER:
            return
        if node.log.configs[:-1] and node.log.configs[-2][0] > node.raft.commit_index:
            raise Violation("one change at a time", f"n{node.member} has two under way at {index}")
        committed = min(node.raft.commit_index, self.commit_index)
        if not committed or self.entries[committed - 1].term != node.raft.term:
            raise Violation("changes after own term", f"n{node.member} at {index}")
