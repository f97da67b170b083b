"""Elections in random worlds: computes fail, hang and come back, leaders change and are stopped.

The world is ours: time moves when we say so, and what is committed is one variable. Computes behave
as their agents do (report, hold a lease, promote once per epoch, discard themselves); leaders as
`elector.py` does. At every moment:

- at most one compute acts as the primary, whatever clocks and networks do;
- an epoch is granted to who said lately that it is a replica, and in place of nobody who is well.

When the faults end, there is a primary soon, and it stays; also when the last one hangs for ever.
"""

import random
from dataclasses import dataclass, field
from functools import partial

import pytest

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn
from log_service.compute_methods import ComputeReport, ComputeState
from log_service.election import Election, Standing
from log_service.group_settings import PROOF_MS_MAX, GroupSettings
from log_service.record_bodies import Holder

SETTINGS = GroupSettings()
STEP_MS = 20
REPORT_MS = 200
COMPUTES = 3
FAULTS_MS = 60_000
CALM_MS = 30_000
SETTLED_MS = 10_000  # the end of the calm, in which nothing may happen any more
NEVER_MS = 1 << 62
SEEDS = range(20)

REPLICA, PROMOTING, PRIMARY = ComputeState.REPLICA, ComputeState.PROMOTING, ComputeState.PRIMARY
STARTING, DOWN = ComputeState.STARTING, ComputeState.DOWN


@dataclass(eq=False)
class Compute:
    """An agent and its server."""

    name: NodeName
    rng: random.Random
    instance: int = 0
    state: ComputeState = STARTING
    epoch: Epoch = Epoch(0)  # noqa: RUF009  # an immutable value
    seen_epoch: int = 0
    next_state_ms: int = 0
    next_report_ms: int = 0
    lease_end_ms: int = 0
    hangs_till_ms: int = 0
    mute_till_ms: int = 0
    deaf_till_ms: int = 0
    is_slow: bool = False
    """Its promotion does not end, till it is told that somebody else has the epoch."""

    def restart(self, now_ms: int) -> None:
        """Begin another life of the agent."""
        self.instance = self.rng.getrandbits(63)
        self.build(STARTING, now_ms)

    def build(self, state: ComputeState, now_ms: int) -> None:
        """Begin anew with PostgreSQL."""
        self.state, self.epoch, self.lease_end_ms, self.is_slow = state, Epoch(0), 0, False
        self.next_state_ms = now_ms + self.rng.randrange(100, 3_000)
        self.next_report_ms = now_ms

    def is_acting(self, now_ms: int) -> bool:
        """Whether it serves clients as the primary; who hangs, too, for its sockets are open."""
        return self.state is PRIMARY and now_ms < self.lease_end_ms

    def live(self, now_ms: int) -> None:
        """Let time pass."""
        if self.state in {PRIMARY, PROMOTING} and now_ms >= self.lease_end_ms:
            self.build(DOWN, now_ms)
        if now_ms < self.next_state_ms:
            return
        following = {DOWN: STARTING, STARTING: REPLICA}
        if self.state is PROMOTING and not self.is_slow:
            self.state, self.next_report_ms = PRIMARY, now_ms
        elif self.state in following:
            self.state = following[self.state]
            self.next_state_ms = now_ms + self.rng.randrange(100, 1_000)
            self.next_report_ms = now_ms

    def report(self) -> ComputeReport:
        """What it says of itself."""
        return ComputeReport(
            branch=BranchName("main"),
            name=self.name,
            instance=self.instance,
            state=self.state,
            address="tcp://127.0.0.1:1",
            epoch=self.epoch,
            received=Lsn(self.rng.randrange(1, 4)),
        )

    def obey(self, standing: Standing, sent_ms: int, now_ms: int) -> None:
        """Take orders that answer the report sent at `sent_ms`."""
        holder = standing.holder
        is_me = holder is not None and (holder.name, holder.instance) == (self.name, self.instance)
        if standing.epoch < self.seen_epoch:
            return  # of a leader that was deposed
        is_new, self.seen_epoch = standing.epoch > self.seen_epoch, standing.epoch
        if self.state in {PROMOTING, PRIMARY}:
            if not is_me or standing.epoch != self.epoch:
                self.build(DOWN, now_ms)
            else:
                self.lease_end_ms = sent_ms + SETTINGS.lease_ms
        elif is_me and is_new and self.state is REPLICA:
            self.state, self.epoch = PROMOTING, standing.epoch
            self.lease_end_ms = sent_ms + SETTINGS.lease_ms
            self.next_state_ms = now_ms + self.rng.randrange(50, 500)
            self.next_report_ms = now_ms


@dataclass(eq=False)
class Leader:
    """A log node that leads, or believes to."""

    standing: Standing
    election: Election
    proved_ms: int
    stopped_till_ms: int = 0
    heard: dict[NodeName, tuple[int, ComputeReport]] = field(default_factory=dict)


class World:
    """Everything, driven by one random source."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 1_000
        self.standing = Standing()
        self.grants: list[tuple[int, NodeName]] = []
        self.computes = [Compute(NodeName(f"c{i}"), self.rng) for i in range(COMPUTES)]
        for compute in self.computes:
            compute.restart(self.now_ms)
        self.leaders: list[Leader] = []
        self.elect()

    def elect(self) -> None:
        """Have a new leader; the old one may not know it."""
        election = Election(SETTINGS, self.standing, self.now_ms)
        self.leaders = [*self.leaders[-1:], Leader(self.standing, election, self.now_ms)]

    def step(self, *, is_calm: bool) -> None:
        """Let STEP_MS pass."""
        self.now_ms += STEP_MS
        if not is_calm:
            self._break_something()
        turns = [partial(self._live, compute) for compute in self.computes]
        turns += [partial(self._decide, leader) for leader in self.leaders]
        self.rng.shuffle(turns)
        for turn in turns:
            turn()
        acting = [compute.name for compute in self.computes if compute.is_acting(self.now_ms)]
        assert len(acting) <= 1, acting

    def _live(self, compute: Compute) -> None:
        if self.now_ms < compute.hangs_till_ms:
            return
        compute.live(self.now_ms)
        if self.now_ms >= compute.next_report_ms:
            self._report(compute)

    def _report(self, compute: Compute) -> None:
        compute.next_report_ms = self.now_ms + REPORT_MS
        report = compute.report()
        for leader in self.leaders:
            is_mute = self.now_ms < max(leader.stopped_till_ms, compute.mute_till_ms)
            if is_mute:
                continue
            leader.heard[compute.name] = (self.now_ms, report)
            leader.election.heard(report, self.now_ms)
            if leader is self.leaders[-1]:
                leader.standing, leader.proved_ms = self.standing, self.now_ms
            elif self.now_ms - leader.proved_ms > PROOF_MS_MAX:
                continue  # no proof, no answer
            if self.now_ms >= compute.deaf_till_ms:
                compute.obey(leader.standing, self.now_ms, self.now_ms)

    def _decide(self, leader: Leader) -> None:
        if self.now_ms < leader.stopped_till_ms:
            return
        is_true = leader is self.leaders[-1]
        leader.election.follow(self.standing if is_true else leader.standing, self.now_ms)
        chosen = leader.election.decide(self.now_ms)
        if chosen is None or not is_true:
            return  # what somebody else proposes is never committed
        self._verify(leader, chosen)
        holder = Holder(chosen.name, chosen.address, chosen.user, chosen.instance)
        self.standing = leader.standing = Standing(self.standing.epoch.next(), holder)
        leader.election.follow(self.standing, self.now_ms)
        self.grants.append((self.now_ms, chosen.name))

    def _verify(self, leader: Leader, chosen: ComputeReport) -> None:
        heard_ms, said = leader.heard[chosen.name]
        assert said == chosen
        assert said.state is REPLICA
        assert self.now_ms - heard_ms <= SETTINGS.fresh_ms
        holder = self.standing.holder
        if holder is not None and holder.name in leader.heard:
            heard_ms, said = leader.heard[holder.name]
            is_well = (
                said.state is PRIMARY
                and (said.epoch, said.instance) == (self.standing.epoch, holder.instance)
                and self.now_ms - heard_ms < SETTINGS.takeover_ms
            )
            assert not is_well, f"{holder.name} was well"

    def _break_something(self) -> None:
        rng, now_ms = self.rng, self.now_ms
        if rng.random() > 0.02:
            return
        compute = rng.choice(self.computes)
        till_ms = now_ms + rng.choice((300, 1_500, 3_000, 8_000))
        way = rng.choice(("hangs_till_ms", "mute_till_ms", "deaf_till_ms"))
        match rng.randrange(9):
            case 0:
                compute.build(DOWN, now_ms)
            case 1:
                compute.restart(now_ms)
            case 2 | 3 | 4:
                setattr(compute, way, till_ms)
            case 5:
                self.elect()
            case 6:
                self.leaders[-1].stopped_till_ms = till_ms
                if rng.random() < 0.5:
                    self.elect()
            case 7:
                self.now_ms += rng.choice((300, 3_000))  # everything was stopped
            case _:
                compute.is_slow = True


@pytest.mark.parametrize("seed", SEEDS)
def test_random_worlds(seed: int) -> None:
    world = World(seed)
    while world.now_ms < FAULTS_MS:
        world.step(is_calm=False)
    for compute in world.computes:
        compute.hangs_till_ms = compute.mute_till_ms = compute.deaf_till_ms = 0
        compute.is_slow = False
    holder = world.standing.holder
    dead = [compute for compute in world.computes if holder and compute.name == holder.name]
    for compute in dead if seed % 2 else ():
        compute.hangs_till_ms = NEVER_MS
    world.leaders[-1].stopped_till_ms = 0
    end_ms = world.now_ms + CALM_MS
    grants_before_end = 0
    while world.now_ms < end_ms:
        world.step(is_calm=True)
        if world.now_ms < end_ms - SETTLED_MS:
            grants_before_end = len(world.grants)
    assert len(world.grants) == grants_before_end
    acting = [compute.name for compute in world.computes if compute.is_acting(world.now_ms)]
    assert world.standing.holder is not None
    assert acting == [world.standing.holder.name]
