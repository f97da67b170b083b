"""Two hard cases made on purpose, because chance alone rarely meets them.

`depose`: a leader is cut off, and everything is done to elect another at once. Left to chance, a
leader that hears from no majority steps down about when the others stop waiting for it. Here its
clock is slow and theirs are fast, as far as the scenario allows; they may restart, be told again
and again to campaign, or have just been asked by the leader itself to take over. Meanwhile users
write to both sides and read from the old leader, every few milliseconds. Its disk may be so slow
that it still writes what the new leader makes it cut.

`contest`: several candidates in one term, and voters that crash around the sync of their vote and
are back before the next candidate asks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from .disk import DiskTimes
from .network import Weather
from .scenario import TICK_US
from .timeline import MILLISECOND_US

if TYPE_CHECKING:
    from .node import Node
    from .world import World

_ROUNDS: Final = 60
_ROUND_US: Final = 30 * MILLISECOND_US


def depose(world: World) -> None:
    """Begin with the leader that there is, if any; otherwise nothing happens."""
    leader, rng = world.newest_leader(), world.rng
    others = [node for node in world.nodes.values() if node is not leader and node.is_up]
    if leader is None or not others:
        return
    world.trace.note("leader deposed", leader.member)
    world.network.weather = Weather()
    for node in world.nodes.values():
        skew = world.scenario.clock_skew
        node.tick_us = int(TICK_US * (1 + skew if node is leader else 1 - skew))
    if rng.random() < 0.4:  # what it wrote last is still on its way to disk when it must be cut
        leader.disk.times = DiskTimes(300, 2_000_000, 0.7)
    progress = leader.raft.progress()
    ready = [m for m, peer in progress.items() if peer.match_index == leader.log.last_index]
    if ready and rng.random() < 0.4:
        leader.enter(leader.transfer, rng.choice(ready))
    world.timeline.after(rng.choice((1, 700, 1_500, 5_000)), _cut_off, world, leader, others)
    world.timeline.after(_ROUNDS * _ROUND_US, world.network.heal)


def contest(world: World) -> None:
    """Let everybody that is not the leader campaign; the leader is cut off."""
    leader, rng = world.newest_leader(), world.rng
    world.trace.note("election contested")
    world.network.weather = Weather(spread_us=rng.choice((1_000, 10_000, 50_000)))
    if leader is not None:
        world.network.isolate([leader.member], list(world.nodes), is_one_way=False)
        world.timeline.after(_ROUNDS * _ROUND_US, world.network.heal)
    for node in world.nodes.values():
        if rng.random() < 0.7:
            node.disk.awaits_vote = True
            node.disk.when_syncing = partial(_crash_briefly, world, node)
        if node is not leader:
            node.enter(node.hint, node.raft.leader)
            world.timeline.after(rng.randint(1, 3_000), node.enter, node.campaign)


def _crash_briefly(world: World, node: Node) -> None:
    if node.is_up:
        world.crash(node.member)
        world.timeline.after(world.rng.randint(1, 5_000), world.restart, node.member)


def _cut_off(world: World, leader: Node, others: list[Node]) -> None:
    world.network.isolate([leader.member], list(world.nodes), is_one_way=False)
    if world.rng.random() < 0.4:
        for node in others:
            if node.is_up:
                world.crash(node.member)
                world.restart(node.member)
    if world.rng.random() < 0.5:
        for node in others:
            node.enter(node.hint, leader.member)
    is_urged = world.rng.random() < 0.6
    _use_both_sides(world, leader, others, is_urged, _ROUNDS)


def _use_both_sides(
    world: World, leader: Node, others: list[Node], is_urged: bool, rounds: int
) -> None:
    if not rounds or world.is_healing:
        return
    world.clients.read_at(leader)
    world.clients.add_at(leader if rounds % 4 == 0 else world.rng.choice(others))
    if is_urged and world.newest_leader() is leader:
        candidate = world.rng.choice(others)
        candidate.enter(candidate.campaign)
    world.timeline.after(_ROUND_US, _use_both_sides, world, leader, others, is_urged, rounds - 1)
