"""Who changes the members: adds learners, promotes and removes, replaces what is gone for good.

It keeps the one rule that an administrator must keep: of the voters of any configuration that some
node may still believe in, a majority has a disk. Everything else it tries, also what the core must
refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raft.types import Config, Role

if TYPE_CHECKING:
    from .disk import Disk
    from .node import Node
    from .world import World

VOTERS_MAX = 5
NODES_MAX = 9
LAG_MAX = 5  # entries that a learner may be behind when it is promoted


class Administrator:
    """Acts now and then, through whichever node says that it leads."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._again()

    def act(self) -> None:
        """Try one change."""
        node = self._world.newest_leader()
        if node is None or node.is_stopped:
            return
        config = self._tidied(node) or (None if self._world.is_healing else self._changed(node))
        if config is not None and self._is_survivable(config):
            node.enter(node.propose_config, config)

    def destroy(self, disk: Disk) -> None:
        """Lose a disk for ever, if the group can survive it."""
        logs = [node.log for node in self._world.nodes.values() if node.is_up]
        logs += [other.log for other in self._world.disks.values() if not other.is_destroyed]
        configs = [log.config_before(log.last_index + 1) for log in logs]
        disk.is_destroyed = True
        if not all(self._is_survivable(config) for config in configs):
            disk.is_destroyed = False
            return
        self._world.trace.note("disk destroyed", disk.member)
        if self._world.nodes[disk.member].is_up:
            self._world.crash(disk.member)

    def retire_removed(self) -> None:
        """Shut down what a settled leader no longer has among its members."""
        leader = self._world.newest_leader()
        if leader is None or not leader.raft.is_leader_ready:
            return
        if leader.machine.config == leader.raft.config:
            for member in set(self._world.nodes) - leader.raft.config.members:
                if self._world.nodes[member].is_up:
                    self._world.crash(member)

    def _again(self) -> None:
        world = self._world
        mean_us = 300_000 if world.is_healing else world.scenario.admin_mean_us
        world.timeline.after(world.gap_us(mean_us), self._again)
        self.act()

    def _tidied(self, node: Node) -> Config | None:
        """Without a member whose disk is gone."""
        config = node.raft.config
        for member in sorted(config.members):
            if self._world.disks[member].is_destroyed:
                return Config(config.voters - {member}, config.learners - {member})
        return None

    def _changed(self, node: Node) -> Config | None:
        config, rng = node.raft.config, self._world.rng
        voters, learners = config.voters, config.learners
        choice = rng.random()
        if learners and choice < 0.6:
            learner = rng.choice(sorted(learners))
            progress = node.raft.progress().get(learner)
            is_close = progress and node.raft.last_index - progress.match_index <= LAG_MAX
            if is_close or rng.random() < 0.1:
                return Config(voters | {learner}, learners - {learner})
            return None
        if choice < 0.7 and len(voters) < VOTERS_MAX and len(self._world.nodes) < NODES_MAX:
            return Config(voters, learners | {self._world.create_member()})
        if choice < 0.9 and len(voters) > 2:
            return Config(voters - {rng.choice(sorted(voters))}, learners)
        if choice < 0.95 and len(voters) > 3:
            return Config(voters - set(rng.sample(sorted(voters), 2)), learners)
        return Config(voters, learners - set(learners))

    def _is_survivable(self, config: Config) -> bool:
        living = sum(not self._world.disks[voter].is_destroyed for voter in config.voters)
        return not config.voters or living * 2 > len(config.voters)


def settled(world: World) -> Node | None:
    """The leader of a group in which everybody has and knows everything; None if it is not so."""
    leader = world.newest_leader()
    if leader is None or not leader.raft.is_leader_ready:
        return None
    config, last_index = leader.raft.config, leader.log.last_index
    for member in config.members:
        node = world.nodes[member]
        if not node.is_up or (node.raft.role is Role.LEADER and node is not leader):
            return None
        if node.machine.index != last_index or not node.raft.can_rest():
            return None
    return leader
