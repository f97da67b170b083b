"""The targets of a comparison: all up at the same time, or one after the other.

    with fleet_of(work, names, settings) as fleet:
        for step in fleet.plan(cases, rounds):
            target = fleet.target(step.target)

All are started once. If they are too much for the machine together (see rounds.py), all are stopped
again, and each is started for its own steps.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.targets.target import Address, Target, TargetError, TargetSettings

from .processor import free_memory_mb, memory_mb, moment
from .refusals import REFUSALS
from .rounds import (
    IDLE_SHARE_MAX,
    Arrangement,
    Case,
    IdleCost,
    Step,
    arrangement,
    in_turns,
    together,
)
from .starting import Start
from .work import Work

SETTLE_SECONDS: Final = 3.0  # the last checkpoint and the first connections are over
IDLE_SECONDS: Final = 5.0  # longer than a period of anybody's heartbeat but one: Patroni's 10 s


ALONE: Final = Arrangement(is_together=True, reason="one target is alone")


class LeftOutError(TargetError):
    """No target is there to be measured."""


@dataclass(slots=True)
class Fleet:
    """What is up."""

    work: Work
    names: Sequence[str]
    settings: TargetSettings
    start: Start
    idle_share_max: float = IDLE_SHARE_MAX
    ends: dict[str, contextlib.ExitStack] = field(default_factory=dict)
    up: dict[str, Target] = field(default_factory=dict)
    roots: dict[str, Sequence[int]] = field(default_factory=dict)  # of all processes of each
    directs: dict[str, Address] = field(default_factory=dict)  # the primary of each
    prepared: set[tuple[str, object]] = field(default_factory=set)
    arranged: Arrangement = ALONE

    def plan(self, cases: Sequence[Case], rounds: int) -> list[Step]:
        """The steps, in the order in which they are to be made."""
        make = together if self.arranged.is_together else in_turns
        return list(make(cases, self.names, rounds, self.work.options.seed))

    def target(self, name: str) -> Target:
        """It, up; where only one may be, the others are gone."""
        if name not in self.up:
            if not self.arranged.is_together:
                self.stop_all()
            self._enter(name)
        return self.up[name]

    def prepare(self, name: str, what: object, do: Callable[[], None]) -> None:
        """Do something once for each time that a target was started."""
        self.target(name)
        if (name, what) not in self.prepared:
            do()
            self.prepared.add((name, what))

    def refresh(self, name: str) -> None:
        """Ask a target anew who its primary and its processes are: after each blow."""
        self.roots[name] = tuple(self.up[name].pids)
        self.directs[name] = self.up[name].direct

    def mend(self, name: str) -> None:
        """After something went wrong: the primary may be another one, and tables half made.

        A target that cannot be mended is stopped; it is started anew for its next step.
        """
        self.prepared = {one for one in self.prepared if one[0] != name}
        if name not in self.up:
            return
        try:
            self.up[name].wait_whole()
            self.refresh(name)
        except REFUSALS as refusal:
            self.work.remark(f"{name} is not whole again, so it is started anew: {refusal}")
            self._leave(name)

    def all_roots(self) -> list[int]:
        """Of the processes of all that is up."""
        return [pid for roots in self.roots.values() for pid in roots]

    def start_all(self) -> None:
        """Start what can be started, and decide whether it stays."""
        left = []
        for name in self.names:
            self.work.progress.warn(f"starting {name}")
            try:
                self._enter(name)
                left.append(name)
            except REFUSALS as refusal:
                sentence = f"{name} was left out: {refusal}"
                if self.work.options.was_asked_for(name):
                    self.work.fail(sentence)
                else:
                    self.work.remark(sentence)
        self.names = left
        if not left:
            raise LeftOutError("none of the targets could be started")
        if len(left) > 1:
            self._arrange()

    def stop_all(self) -> None:
        """Nothing is up; the trouble of one keeps none from being stopped."""
        with contextlib.ExitStack() as all_of_them:
            for name in list(self.ends):
                all_of_them.callback(self._leave, name)

    def _enter(self, name: str) -> None:
        with contextlib.ExitStack() as end:
            end.callback(self.up.pop, name, None)  # also when it is up and does not answer
            target = end.enter_context(self.start(name, self.work.place, self.settings))
            self.up[name] = target
            self.refresh(name)
            self.ends[name] = end.pop_all()
        self.work.record.seen(target)

    def _leave(self, name: str) -> None:
        for known in (self.up, self.roots, self.directs):
            known.pop(name, None)
        self.prepared = {one for one in self.prepared if one[0] != name}
        self.ends.pop(name).close()

    def _arrange(self) -> None:
        time.sleep(SETTLE_SECONDS)
        costs = self._idle_costs()
        self.arranged = arrangement(
            costs,
            cores=os.cpu_count() or 1,
            free_mb=free_memory_mb(),
            idle_share_max=self.idle_share_max,
        )
        for name, cost in costs.items():
            self.work.record.seen(
                self.up[name],
                idle_cores=round(cost.cores, 4),
                idle_memory_mb=round(cost.memory_mb, 1),
                stays_up_while_others_are_measured=self.arranged.is_together,
            )
        if not self.arranged.is_together:
            self.stop_all()
        how = "all stay up" if self.arranged.is_together else "each is started for its own steps"
        self.work.progress.warn(f"{how}: {self.arranged.reason}")

    def _idle_costs(self) -> dict[str, IdleCost]:
        before = {name: moment(roots) for name, roots in self.roots.items()}
        time.sleep(IDLE_SECONDS)
        costs = {}
        for name, roots in self.roots.items():
            now = moment(roots)
            cores = now.target_s_since(before[name]) / (now.at_s - before[name].at_s)
            costs[name] = IdleCost(cores, memory_mb(roots))
        return costs


@contextlib.contextmanager
def fleet_of(
    work: Work,
    names: Sequence[str],
    settings: TargetSettings,
    start: Start,
    *,
    idle_share_max: float = IDLE_SHARE_MAX,
) -> Iterator[Fleet]:
    """All of it; gone at the end."""
    fleet = Fleet(work, names, settings, start, idle_share_max)
    with contextlib.ExitStack() as end:
        end.callback(fleet.stop_all)
        fleet.start_all()
        yield fleet
