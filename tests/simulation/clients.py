"""Who uses the group: clients that add numbers, epoch holders that stream WAL, readers.

A client that gets no answer does not know whether its command happened, and sends the same again.
Old holders never notice that they were superseded: they stream on, to old leaders and new ones.
Nobody here knows who the leader is; they believe what nodes say about themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from raft.types import Role

from .operations import Add, Epoch, Wal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .node import Node
    from .world import World

ANSWERS_LOST = 0.05
PULL_BYTES_MAX = 150
OPEN_MAX = 100  # commands whose fate is not known
FINISHING_US = 30_000  # between two calls when the run is to end


@dataclass(slots=True)
class Holder:
    """The holder of an epoch: it has WAL from where its epoch began up to `end`."""

    epoch: int
    end: int
    acknowledged: int


class Clients:
    """All users together."""

    def __init__(self, world: World) -> None:
        self.holders: dict[int, Holder] = {}
        self.is_finishing = False
        self.silent_until_us = 0
        self._world = world
        self._numbers = 0
        self._contexts = 0
        self._open: dict[int, Add] = {}
        scenario = world.scenario
        self._every(scenario.proposal_mean_us, self._add)
        self._every(scenario.proposal_mean_us * 2, self._read)
        self._every(scenario.wal_mean_us, self._stream)
        self._every(3_000_000, self._grant)
        self._grant()

    @property
    def is_content(self) -> bool:
        """Whether everything that was asked for has been acknowledged."""
        return not self._open and all(
            holder.acknowledged == holder.end
            for epoch, holder in self.holders.items()
            if epoch == self._world.checkers.fence.epoch
        )

    def _every(self, mean_us: int, action: Callable[[], None]) -> None:
        gap_us = self._world.gap_us(FINISHING_US if self.is_finishing else mean_us)
        self._world.timeline.after(gap_us, self._again, mean_us, action)

    def _again(self, mean_us: int, action: Callable[[], None]) -> None:
        if self._world.timeline.now_us >= self.silent_until_us:
            action()
        self._every(mean_us, action)

    def _add(self) -> None:
        self.add_at(self._world.likely_leader())

    def add_at(self, node: Node) -> None:
        """Send a node a new command, or one whose fate is unknown."""
        world = self._world
        is_patient = self.is_finishing or len(self._open) >= OPEN_MAX
        if self._open and (is_patient or world.rng.random() < 0.3):
            operation = world.rng.choice(list(self._open.values())[:20])
        elif self.is_finishing:
            return
        else:
            self._numbers += 1
            operation = self._open[self._numbers] = Add(self._numbers)
        node.enter(node.propose, operation, partial(self._added, operation))

    def _added(self, operation: Add, index: int | None) -> None:
        if index is not None and self._world.rng.random() >= ANSWERS_LOST:
            self._world.checkers.acknowledged(operation.number, index)
            self._world.trace.count("acknowledged")
            self._open.pop(operation.number, None)

    def _read(self) -> None:
        self.read_at(self._world.likely_leader())

    def read_at(self, node: Node) -> None:
        """Ask a node for an index to read at."""
        self._contexts += 1
        node.enter(node.read, self._contexts)

    def _grant(self) -> None:
        """Somebody thinks that a new holder is needed."""
        node = self._world.likely_leader()
        if node.is_up and node.tip is not None and not self.is_finishing:
            operation = Epoch(node.tip.epoch + 1, node.tip.wal_end)
            node.enter(node.propose, operation, lambda _: None)

    def granted(self, operation: Epoch) -> None:
        """An epoch is committed: its holder begins."""
        start = operation.start
        if operation.epoch not in self.holders:
            self._world.trace.note("epoch granted", 0, operation)
            self.holders[operation.epoch] = Holder(operation.epoch, start, start)

    def _stream(self) -> None:
        """A holder has written something; every node that believes it leads fetches from it."""
        rng = self._world.rng
        if not self.holders:
            self._grant()
            return
        newest = max(self.holders)
        epoch = newest if rng.random() < 0.7 else rng.choice(list(self.holders))
        holder = self.holders[epoch]
        if not self.is_finishing:
            holder.end += rng.randint(1, 2 * PULL_BYTES_MAX)
        for node in self._world.nodes.values():
            if node.is_up and node.raft.role is Role.LEADER:
                node.enter(self._pull, node, holder)

    def _pull(self, node: Node, holder: Holder) -> None:
        tip, committed = node.tip, node.machine.fence
        if tip is None:
            return
        if committed.epoch == holder.epoch:
            self._acknowledge(holder, committed.wal_end)
        if tip.epoch != holder.epoch:
            operation = Wal(holder.epoch, tip.wal_end, tip.wal_end + 1)
            node.propose(operation, partial(self._pulled, holder, operation))
        elif holder.end > tip.wal_end:
            size_bytes = self._world.rng.randint(1, PULL_BYTES_MAX)
            size_bytes *= 20 if self.is_finishing else 1
            end = min(holder.end, tip.wal_end + size_bytes)
            operation = Wal(holder.epoch, tip.wal_end, end)
            node.propose(operation, partial(self._pulled, holder, operation))

    def _pulled(self, holder: Holder, operation: Wal, index: int | None) -> None:
        if index is not None:
            self._acknowledge(holder, operation.end)

    def _acknowledge(self, holder: Holder, lsn: int) -> None:
        self._world.checkers.wal_acknowledged(holder.epoch, lsn)
        self._world.trace.count("WAL acknowledged")
        holder.acknowledged = max(holder.acknowledged, lsn)
