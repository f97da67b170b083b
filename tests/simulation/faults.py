"""What goes wrong: one fault after another, at random moments, for random times.

Each seed leaves some kinds of faults out, so that the others get deeper.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .disk import DiskTimes
from .hard_cases import contest, depose
from .network import Weather
from .scenario import TICK_US
from .timeline import MILLISECOND_US, SECOND_US

if TYPE_CHECKING:
    from collections.abc import Callable

    from .world import World

_SHARES_OF_KINDS: Final = (0.2, 0.5, 0.8)


class Faults:
    """Brings faults until the world heals."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        kinds: list[tuple[Callable[[], None], int]] = [
            (self._crash, 6),
            (self._crash_leader, 4),
            (self._crash_all, 1),
            (self._crash_syncing, 8),
            (self._depose, 30 if world.scenario.settings.lease_reads else 10),
            (self._contest, 6),
            (self._stop, 3),
            (self._cut_links, 8),
            (self._weather, 4),
            (self._disk_times, 4),
            (self._clock_rate, 2),
            (self._clock_jump, 1),
            (self._transfer, 3),
            (self._campaign, 1),
            (self._hint, 2),
            (self._destroy, 1),
            (self._silence, 1),
        ]
        share = self._rng.choice(_SHARES_OF_KINDS)
        self._kinds = [kind for kind in kinds if self._rng.random() < share] or kinds
        self._later()

    def heal(self) -> None:
        """End every fault that lasts."""
        world = self._world
        world.network.heal()
        world.network.weather = Weather()
        for node in world.nodes.values():
            node.disk.times = DiskTimes()
            node.tick_us = TICK_US
            node.disk.when_syncing = None
            if node.is_stopped:
                node.resume()
        for node in world.nodes.values():
            world.restart(node.member)

    def _later(self) -> None:
        self._world.timeline.after(
            self._world.gap_us(self._world.scenario.fault_mean_us), self._strike
        )

    def _strike(self) -> None:
        if self._world.is_healing:
            return
        strikes, weights = zip(*self._kinds, strict=True)
        self._rng.choices(strikes, weights)[0]()
        self._world.trace.counts["faults"] += 1
        self._later()

    def _member(self) -> int:
        return self._rng.choice(list(self._world.nodes))

    def _crash(self) -> None:
        self._crash_one(self._member())

    def _crash_leader(self) -> None:
        leader = self._world.newest_leader()
        if leader is not None:
            self._crash_one(leader.member)

    def _crash_all(self) -> None:
        self._world.trace.note("power cut")
        for member in self._world.nodes:
            self._crash_one(member)

    def _crash_one(self, member: int) -> None:
        if self._world.nodes[member].is_up:
            self._world.crash(member)
            down_us = self._rng.choice((5, 200, 3_000)) * MILLISECOND_US
            delay_us = self._world.gap_us(down_us)
            self._world.timeline.after(delay_us, self._world.restart, member)

    def _crash_syncing(self) -> None:
        """Crash a node, or all of them, in the middle of the next sync."""
        members = list(self._world.nodes) if self._rng.random() < 0.2 else [self._member()]
        for member in members:
            self._world.disks[member].awaits_vote = False
            self._world.disks[member].when_syncing = partial(self._crash_one, member)

    def _depose(self) -> None:
        depose(self._world)

    def _contest(self) -> None:
        contest(self._world)

    def _stop(self) -> None:
        leader = self._world.newest_leader()
        node = self._world.nodes[self._member()]
        if leader is not None and self._rng.random() < 0.4:
            node = leader
        if node.is_up and not node.is_stopped:
            self._world.trace.note("stopped", node.member)
            node.stop()
            delay_us = self._rng.choice((50, 500, 3_000)) * MILLISECOND_US
            self._world.timeline.after(self._world.gap_us(delay_us), self._resume, node.member)

    def _resume(self, member: int) -> None:
        node = self._world.nodes[member]
        if node.is_stopped:
            self._world.trace.note("resumed", member)
            node.resume()

    def _cut_links(self) -> None:
        members = list(self._world.nodes)
        self._rng.shuffle(members)
        leader = self._world.newest_leader()
        if leader is not None and self._rng.random() < 0.5:
            members.remove(leader.member)
            members.insert(0, leader.member)
        count = 1 if self._rng.random() < 0.5 else self._rng.randint(1, len(members))
        others = members[count:]
        if self._rng.random() < 0.2:
            others = others[:1]
        is_one_way = self._rng.random() < 0.3
        if is_one_way and self._rng.random() < 0.5:
            self._world.network.isolate(others, members[:count], is_one_way=True)
        else:
            self._world.network.isolate(members[:count], others, is_one_way=is_one_way)
        what = "cut one way" if is_one_way else "cut both ways"
        self._world.trace.note(what, 0, (members[:count], others))
        delay_us = self._world.gap_us(self._rng.choice((300, 2_500)) * MILLISECOND_US)
        self._world.timeline.after(delay_us, self._mend)

    def _mend(self) -> None:
        self._world.network.heal()
        self._world.trace.note("links mended")

    def _weather(self) -> None:
        rng = self._rng
        weather = Weather(
            loss=rng.choice((0.0, 0.02, 0.2)),
            repetition=rng.choice((0.0, 0.02, 0.2)),
            delay_us=rng.choice((100, 500, 40_000)),
            spread_us=rng.choice((100, 5_000, 300_000)),
        )
        self._world.network.weather = weather
        self._world.trace.note("weather changed", 0, weather)

    def _disk_times(self) -> None:
        rng, node = self._rng, self._world.nodes[self._member()]
        slow_us = rng.choice((8, 100, 2_000)) * MILLISECOND_US
        node.disk.times = DiskTimes(300, slow_us, rng.choice((0.02, 0.2, 0.7)))
        self._world.trace.note("disk speed changed", node.member, node.disk.times)

    def _clock_rate(self) -> None:
        node, skew = self._world.nodes[self._member()], self._world.scenario.clock_skew
        node.tick_us = int(TICK_US * (1 + skew * (2 * self._rng.random() - 1)))
        self._world.trace.note("clock speed changed", node.member, node.tick_us)

    def _clock_jump(self) -> None:
        if not self._world.scenario.settings.lease_reads:
            node = self._world.nodes[self._member()]
            self._world.trace.note("clock jumped", node.member)
            for _ in range(self._rng.randint(2, 15)):
                node.enter(node.raft.tick)

    def _transfer(self) -> None:
        leader = self._world.newest_leader()
        if leader is not None:
            leader.enter(leader.transfer, self._member())

    def _campaign(self) -> None:
        node = self._world.nodes[self._member()]
        node.enter(node.campaign)

    def _hint(self) -> None:
        node = self._world.nodes[self._member()]
        peer = node.raft.leader if self._rng.random() < 0.5 else self._member()
        node.enter(node.hint, peer)

    def _destroy(self) -> None:
        self._world.administrator.destroy(self._world.disks[self._member()])

    def _silence(self) -> None:
        self._world.trace.note("clients fall silent")
        now_us = self._world.timeline.now_us
        self._world.clients.silent_until_us = now_us + self._rng.randint(3, 6) * SECOND_US
