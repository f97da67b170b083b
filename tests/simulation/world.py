"""One run: a group of nodes, its users and its faults, from one seed to its end.

    build → faults for `duration_us`, everything checked at every step → everything heals →
    within a bounded virtual time a leader serves, all that was asked for is acknowledged, every
    member has and knows everything, and nobody needs to tick any more

The same seed gives the same run, in every process and whether or not its trace is kept.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from raft.messages import Message
from raft.types import Config, Entry, Role, Snapshot

from .administrator import Administrator, settled
from .checkers import Checkers
from .clients import Clients
from .disk import Disk
from .faults import Faults
from .network import Network
from .node import Node
from .operations import EMPTY_STATE, Epoch
from .scenario import draw
from .timeline import MILLISECOND_US, SECOND_US, Timeline
from .trace import Trace, described
from .violation import Violation

HEAL_US_MAX: Final = 60 * SECOND_US
_HEAL_STEP_US: Final = 500 * MILLISECOND_US


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run."""

    seed: int
    events: int
    committed: int
    virtual_us: int
    counts: Counter[str]
    violation: Violation | None
    lines: list[str]


def run(seed: int, *, is_traced: bool = False) -> Result:
    """Run a seed to its end, or to the first violation."""
    world = World(seed, is_traced=is_traced)
    violation = None
    try:
        world.run()
    except Violation as error:
        violation = error
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        violation = Violation("the core never fails", f"{type(error).__name__}: {error}")
        violation.__cause__ = error
    return Result(
        seed=seed,
        events=world.timeline.events,
        committed=world.checkers.commit_index,
        virtual_us=world.timeline.now_us,
        counts=world.trace.counts,
        violation=violation,
        lines=world.trace.lines,
    )


class World:
    """Everything there is."""

    def __init__(self, seed: int, *, is_traced: bool) -> None:
        self.rng = random.Random(seed)
        self.scenario = draw(self.rng)
        self.timeline = Timeline()
        self.trace = Trace(self.timeline, is_kept=is_traced)
        self.trace.note("scenario", 0, self.scenario)
        self.is_healing = False
        self.network = Network(
            self.timeline,
            self.trace,
            self.rng,
            is_ordered=self.scenario.is_ordered,
            deliver=self._deliver,
            notice=self._notice,
        )
        self.disks: dict[int, Disk] = {}
        self.nodes: dict[int, Node] = {}
        config = Config(frozenset(range(1, self.scenario.voters + 1)))
        self.checkers = Checkers(self.disks)
        for _ in config.voters:
            self.create_member(config)
        self.clients = Clients(self)
        self.faults = Faults(self)
        self.administrator = Administrator(self)
        self.timeline.after(self.gap_us(self.scenario.trim_mean_us), self._trim)

    def run(self) -> None:
        """Live through the faults, heal, and see that everything comes right."""
        self.timeline.run_until(self.scenario.duration_us)
        self._begin_healing()
        end_us = self.timeline.now_us + HEAL_US_MAX
        self.timeline.run_until(self.timeline.now_us + 2 * SECOND_US)
        self.clients.is_finishing = True
        while not (self.clients.is_content and settled(self)):
            if self.timeline.now_us >= end_us:
                raise Violation("liveness", self._what_is_missing())
            self.timeline.run_until(self.timeline.now_us + _HEAL_STEP_US)
            self.administrator.retire_removed()
        leader = settled(self)
        assert leader is not None
        self.trace.note("settled", leader.member, leader.raft.config)
        for member in leader.raft.config.members:
            self.checkers.finished(member, self.nodes[member].machine.numbers)

    # --- what the parts of the world ask of each other --------------------------------------------

    def gap_us(self, mean_us: int) -> int:
        """A random time until something that happens every `mean_us` on average."""
        return int(self.rng.expovariate(1) * mean_us) + 1

    def fork_rng(self) -> random.Random:
        """Randomness for a node, so that its use of it does not disturb the others'."""
        return random.Random(self.rng.getrandbits(64))

    def leaders(self) -> Iterator[Node]:
        """Every node that believes it leads."""
        return (n for n in self.nodes.values() if n.is_up and n.raft.role is Role.LEADER)

    def newest_leader(self) -> Node | None:
        """The one of the newest term."""
        return max(self.leaders(), key=lambda node: node.raft.term, default=None)

    def likely_leader(self) -> Node:
        """Where somebody would send a command: mostly right, sometimes anywhere."""
        leaders = list(self.leaders())
        if leaders and self.rng.random() < 0.85:
            newest = max(leaders, key=lambda node: node.raft.term)
            return newest if self.rng.random() < 0.7 else self.rng.choice(leaders)
        return self.rng.choice(list(self.nodes.values()))

    def create_member(self, config: Config | None = None) -> int:
        """Make a node with an empty disk: of a new group, or (no config) one that is to join."""
        member = len(self.disks) + 1
        start = Snapshot(0, 0, config or Config(frozenset()), EMPTY_STATE)
        self.disks[member] = Disk(member, self.timeline, self.trace, self.rng, start)
        self.nodes[member] = Node(self, self.disks[member])
        self.trace.note("member created", member)
        return member

    def crash(self, member: int) -> None:
        """Let a node lose power; its peers may notice that their connections broke."""
        self.trace.note("crashed", member)
        self.nodes[member].crash()
        for peer in self.nodes:
            if peer != member and self.rng.random() < 0.6:
                self.timeline.after(5 * MILLISECOND_US, self._notice, peer, member)

    def restart(self, member: int) -> None:
        """Start a node that is down, if there is anything to start from."""
        node = self.nodes[member]
        if not node.is_up and not node.disk.is_destroyed:
            node.boot()
            self.trace.note("restarted", member, node.disk.hard_state)

    def applied(self, entry: Entry) -> None:
        """Some node has applied an entry."""
        if isinstance(entry.ref, Epoch):
            self.clients.granted(entry.ref)

    def _deliver(self, message: Message) -> None:
        node = self.nodes[message.to]
        if self.trace.is_kept:
            self.trace.line("got", message.to, described(message))
        node.enter(node.receive, message)

    def _notice(self, member: int, peer: int) -> None:
        node = self.nodes[member]
        node.enter(node.hint, peer)

    def _trim(self) -> None:
        self.timeline.after(self.gap_us(self.scenario.trim_mean_us), self._trim)
        node = self.newest_leader()
        if node is None or self.rng.random() < 0.5:
            node = self.rng.choice(list(self.nodes.values()))
        node.enter(node.trim)

    def _begin_healing(self) -> None:
        self.trace.note("healing")
        self.is_healing = True
        self.faults.heal()
        self.clients.silent_until_us = 0

    def _what_is_missing(self) -> str:
        leader = self.newest_leader()
        if leader is None:
            return "no leader"
        members = {
            node.member: (node.is_up, node.machine.index, node.is_up and node.raft.can_rest())
            for node in self.nodes.values()
        }
        return (
            f"n{leader.member} leads {leader.raft.config} up to {leader.log.last_index}; "
            f"members (up, applied, can rest): {members}; content: {self.clients.is_content}"
        )
