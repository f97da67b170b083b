"""The network of a cluster on one machine: who hears whom, connection by connection.

    network = Network(world)
    network.listen("log-1", owner, public=17001, hidden=24113)  # the node listens at `hidden`
    network.between("log-1", "log-2").cut_there()           # log-2 hears nothing of log-1
    network.between("log-1", EVERYBODY).cut_back()          # log-1 hears nobody

A proxy stands where each node is known to listen; the node listens somewhere else, which it tells
nobody. Who has connected is asked of the kernel, so that a cut is between two nodes whichever of
them connected to the other. What does not go through TCP is not cut: the log's leader reads the
primary's WAL by a Unix socket.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from bench.proxy import Flow, Flows, Proxies, Way

HOST: Final = "127.0.0.1"
EVERYBODY: Final = "*"

Pair = tuple[str, str]  # who speaks, and to whom


class Owner(Protocol):
    """Tells whose a connection is."""

    async def of(self, *, port: int, to: int) -> str:
        """The name of who connected from one port to another."""


@dataclass(slots=True)
class Weather:
    """What is cut and what is slow. Pure."""

    cut: set[Pair] = field(default_factory=set)
    slow: dict[Pair, float] = field(default_factory=dict)

    def is_cut(self, pair: Pair) -> bool:
        """Whether nothing travels from the one to the other."""
        return not self.cut.isdisjoint(_patterns(pair))

    def delay_s(self, pair: Pair) -> float:
        """How long each piece takes more."""
        return max((self.slow.get(pattern, 0.0) for pattern in _patterns(pair)), default=0.0)


def _patterns(pair: Pair) -> tuple[Pair, Pair, Pair]:
    speaker, hearer = pair
    return pair, (speaker, EVERYBODY), (EVERYBODY, hearer)


class Network:
    """All listeners of a cluster, and what lies between them."""

    def __init__(self, world: Proxies) -> None:
        self._world = world
        # Invariant: both are touched by the proxies' thread alone
        self._weather = Weather()
        self._flows: dict[Pair, Flow] = {}

    def listen(self, name: str, owner: Owner, *, public: int, hidden: int) -> None:
        """Stand at a port that a node is known by, and lead to where it listens."""

        async def flows(writer: asyncio.StreamWriter) -> Flows:
            port = writer.get_extra_info("peername")[1]
            source = await owner.of(port=port, to=public)
            return {Way.THERE: self._flow((source, name)), Way.BACK: self._flow((name, source))}

        self._world.link((HOST, hidden), port=public, flows=flows)

    def between(self, one: str, other: str) -> "Between":
        """What can be cut between two, or between one and EVERYBODY."""
        return Between(self, (one, other), (other, one))

    def change(self, pairs: Iterable[Pair], *, is_cut: bool = False, delay_s: float = 0.0) -> None:
        """Make it so for some pairs, at once; from any thread."""
        self._world.call(self._change(list(pairs), is_cut=is_cut, delay_s=delay_s))

    async def _change(self, pairs: list[Pair], *, is_cut: bool, delay_s: float) -> None:
        for pair in pairs:
            (self._weather.cut.add if is_cut else self._weather.cut.discard)(pair)
            self._weather.slow[pair] = delay_s
        for pair, flow in self._flows.items():
            self._apply(pair, flow)

    def _flow(self, pair: Pair) -> Flow:
        if pair not in self._flows:
            self._flows[pair] = Flow()
            self._apply(pair, self._flows[pair])
        return self._flows[pair]

    def _apply(self, pair: Pair, flow: Flow) -> None:
        flow.delay_s = self._weather.delay_s(pair)
        (flow.is_open.clear if self._weather.is_cut(pair) else flow.is_open.set)()


@dataclass(frozen=True, slots=True)
class Between:
    """Two ways, as the nemesis wants them."""

    network: Network
    there: Pair
    back: Pair

    def cut_there(self) -> None:
        """As the nemesis's Link has it."""
        self.network.change([self.there], is_cut=True)

    def cut_back(self) -> None:
        """As the nemesis's Link has it."""
        self.network.change([self.back], is_cut=True)

    def slow(self, seconds: float) -> None:
        """As the nemesis's Link has it."""
        self.network.change([self.there, self.back], delay_s=seconds)

    def mend(self) -> None:
        """As the nemesis's Link has it."""
        self.network.change([self.there, self.back])


def pairs_that_talk(
    logs: Iterable[str], stores: Iterable[str], computes: Iterable[str], *, outside: str
) -> Iterator[Pair]:
    """Who has anything to say to whom. Pure."""
    logs, stores, computes = list(logs), list(stores), list(computes)
    for alike in (logs, stores):
        yield from ((one, other) for n, one in enumerate(alike) for other in alike[n + 1 :])
    yield from ((store, log) for store in stores for log in logs)
    for compute in computes:
        yield from ((compute, other) for other in (*logs, *stores))
        yield outside, compute
