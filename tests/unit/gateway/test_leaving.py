"""A replica that shuts down in order: what gateways make of what the log says, and what becomes of
links to it. Nothing new goes there; what runs there goes on until it is gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fabric.ids import BranchName, Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from gateway.batches import our_batch
from gateway.link import Link
from gateway.logins import Login, PoolKey
from gateway.pool import Pool, Pools, target_id
from gateway.settings import Limits
from gateway.topology import ComputesView, Computing, Target
from log_service.compute_methods import ComputeInfo, Computes, ComputeState
from log_service.methods import Topology

if TYPE_CHECKING:
    from gateway.topology import ComputesView as View

BRANCH = BranchName("main")
KEY = PoolKey("u", "d")
LEAVES, STAYS = Target("c2", 1, "h", 2, Epoch(0)), Target("c3", 1, "h", 3, Epoch(0))


# --- What the log says ----------------------------------------------------------------------------


def info(name: str, state: ComputeState, **more: object) -> ComputeInfo:
    found = ComputeInfo(
        name=NodeName(name), instance=1, state=state, address="", client_address=f"h:{name[1:]}",
        user="postgres", epoch=Epoch(0), tli=Tli(1), received=Lsn(1), replayed=Lsn(1),
        postmaster_pid=9, agent_pid=9, can_lead=True, complaint="", heard_ms_ago=10,
    )  # fmt: skip
    fields = {name: getattr(found, name) for name in found.__struct_fields__}
    return ComputeInfo(**{**fields, **more})


def heard(computing: Computing, *infos: ComputeInfo) -> View:
    topology = Topology(
        version="1", node=NodeName("l"), leader=None, term=1, is_leading=True, members=(),
        epoch=Epoch(1), holder=None, is_streaming=True, tli=Tli(1), start=Lsn(0), end=Lsn(0),
        epoch_start=Lsn(0), system_identifier=SystemIdentifier(7),
    )  # fmt: skip
    return computing.take(Computes(tuple(infos), topology), 1.0)


def names(targets: tuple[Target, ...]) -> list[str]:
    return [one.name for one in targets]


def test_a_replica_that_is_down_while_its_server_is_there_leaves() -> None:
    computing = Computing()
    both = info("c2", ComputeState.REPLICA), info("c3", ComputeState.REPLICA)
    assert names(heard(computing, *both).replicas) == ["c2", "c3"]
    for _ in range(2):
        view = heard(computing, info("c2", ComputeState.DOWN), both[1])
        assert (names(view.replicas), names(view.leaving)) == (["c3"], ["c2"])
    view = heard(computing, info("c2", ComputeState.DOWN, postmaster_pid=0), both[1])
    assert (names(view.replicas), view.leaving) == (["c3"], ())


def test_who_is_silent_or_was_no_replica_or_has_begun_anew_does_not_leave() -> None:
    computing = Computing()
    down = info("c2", ComputeState.DOWN)
    assert heard(computing, down).leaving == ()
    heard(computing, info("c2", ComputeState.REPLICA))
    assert heard(computing, info("c2", ComputeState.DOWN, instance=2)).leaving == ()
    heard(computing, info("c2", ComputeState.REPLICA))
    assert heard(computing, info("c2", ComputeState.DOWN, heard_ms_ago=3_001)).leaving == ()


# --- What becomes of links ------------------------------------------------------------------------


class Wire:
    """Remembers how it was ended."""

    def __init__(self) -> None:
        self.ended = ""

    def write(self, data: bytes) -> None:
        """Carry nothing."""

    def close(self) -> None:
        """Be closed in order."""
        self.ended = "closed"

    def abort(self) -> None:
        """Be cut."""
        self.ended = "cut"

    def fault(self, reason: str) -> None:
        """Cannot be."""
        raise AssertionError(reason)


class Waiting:
    """A session that waits for a link."""

    def __init__(self) -> None:
        self.login = Login(KEY, None)
        self.link: Link | None = None
        self.was_refused = False

    def granted(self, link: Link) -> None:
        """Have it."""
        self.link = link

    def not_granted(self) -> None:
        """Go elsewhere."""
        self.was_refused = True

    def timed_out(self, sqlstate: str, message: str, hint: str) -> None:
        """Cannot be."""
        raise AssertionError(message)

    def farewell(self, error: bytes) -> None:
        """Cannot be."""
        raise AssertionError(error)


class World:
    """Pools of two replicas, and connections that are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Pool, Target]] = []
        self.pools = Pools(self, Limits(), workers=1, now_s=lambda: 1.0)
        self.view = ComputesView(replicas=(LEAVES, STAYS), epoch=Epoch(1), is_log_reachable=True)
        self.pools.follow(self.view)

    def connect(self, pool: Pool, target: Target, login: Login) -> None:
        """Be asked."""
        self.asked.append((pool, target))

    def wake(self) -> None:
        """Cannot be."""
        raise AssertionError

    def link(self, replica: str = "c2") -> tuple[Link, Wire]:
        """Return a link that somebody has."""
        waiter, wire = Waiting(), Wire()
        self.pools.acquire(waiter, replica=replica)
        pool, target = self.asked.pop()
        self.pools.connected(pool, Link(wire, KEY, target_id(target), is_primary=False))
        assert waiter.link is not None
        return waiter.link, wire

    def leave(self) -> None:
        """Hear that one of them leaves."""
        self.pools.follow(replace(self.view, replicas=(STAYS,), leaving=(LEAVES,)))


def test_a_link_in_use_lives_until_its_session_is_done_with_it() -> None:
    world = World()
    link, wire = world.link()
    world.leave()
    assert wire.ended == ""
    world.pools.give_back(link, is_clean=True)
    assert wire.ended == "closed"


def test_a_link_in_use_is_cut_when_the_replica_is_gone() -> None:
    world = World()
    link, wire = world.link()
    link.batches.append(our_batch(b""))
    world.leave()
    assert wire.ended == ""
    world.pools.follow(replace(world.view, replicas=(STAYS,)))
    assert wire.ended == "cut"


def test_nobody_gets_a_link_to_who_leaves() -> None:
    world = World()
    idle, wire = world.link()
    world.pools.give_back(idle, is_clean=True)
    _, other_wire = world.link("c3")
    world.leave()
    assert (wire.ended, other_wire.ended) == ("closed", "")
    waits = Waiting()
    assert world.pools.acquire(waits, replica="c2") is None
    assert waits.was_refused
    assert world.asked == []


def test_who_waits_for_a_link_goes_elsewhere() -> None:
    world = World()
    waits = Waiting()
    assert world.pools.acquire(waits, replica="c2") is None
    world.leave()
    assert waits.was_refused


def test_who_comes_back_is_a_replica_again() -> None:
    world = World()
    link, wire = world.link()
    world.leave()
    world.pools.follow(world.view)
    world.pools.give_back(link, is_clean=True)
    assert wire.ended == ""
