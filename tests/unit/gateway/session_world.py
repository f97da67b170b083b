"""A gateway's sessions and pools among model servers and model clients, all in one seed.

Bytes move when the seed says so, cut where it says; servers die, shut down and come back under
another name; clients leave in the middle of everything. What must hold is checked as answers come
in (`Client`) and at the end (`check_rows`).
"""

# ruff: noqa: D102  # the names are those of what is imitated

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from unit.gateway.model_client import ModelClient
from unit.gateway.model_server import Database, ModelServer, farewell

from fabric.ids import Epoch
from fabric.lsn import Lsn
from gateway.classification.catalog import Catalog
from gateway.classification.classifier import Classifier
from gateway.counts import Counts
from gateway.link import Link
from gateway.logins import Login, PoolKey
from gateway.pool import Pool, Pools, target_id
from gateway.prepared import Serials
from gateway.reading import AUTO, PRIMARY_ONLY
from gateway.session import Session
from gateway.settings import Limits
from gateway.topology import ComputesView, Target
from gateway.wire import error_frame

REPLICA = "replica"


class LinkWire:
    """The bytes between a link and its server, in both directions."""

    def __init__(self, world: "World", server: ModelServer) -> None:
        self.world = world
        self.server = server
        self.link: Link | None = None
        self.to_server = b""
        self.to_gateway = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self.to_server += data

    def close(self) -> None:
        self.world.later(lambda: self.world.end_link(self))

    def abort(self) -> None:
        self.world.later(lambda: self.world.end_link(self))

    def fault(self, reason: str) -> None:
        raise AssertionError(reason)


@dataclass
class ClientWire:
    """A client's connection, and what is under way on it."""

    world: "World"
    model: ModelClient
    session: Session | None = None
    to_gateway: bytes = b""
    is_closed: bool = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "nothing is written to a client that was closed"
        self.model.receive(data)

    def close(self) -> None:
        self.is_closed = True
        self.model.is_over = True
        self.world.later(self._gone)

    abort = close

    def fault(self, reason: str) -> None:
        raise AssertionError(reason)

    def _gone(self) -> None:
        if self.session is not None:
            self.session.closed()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Desk:
    """The services of a session, without a clock."""

    def __init__(self, world: "World", login: Login) -> None:
        self.world = world
        self.login = login
        self.session: Session | None = None
        self.is_finding = False

    def acquire(self, *, replica: str | None) -> Link | None:
        return self.world.pools.acquire(self, replica=replica)

    def give_back(self, link: Link, *, is_clean: bool) -> None:
        self.world.pools.give_back(link, is_clean=is_clean)

    def replica_with(self, floor: Lsn, sticky: str | None) -> str | None:
        names = [one.name for one in self.world.pools.view.replicas]
        if sticky is not None:
            return sticky if sticky in names else None
        return names[0] if names else ""

    def replica_within(self, lag_ms: int, sticky: str | None) -> str | None:
        return self.replica_with(Lsn(0), None)

    def find_replica(self, floor: Lsn | None, sticky: str | None) -> None:
        if not self.is_finding:
            self.is_finding = True
            self.world.later(self._find)

    def _find(self) -> None:
        self.is_finding = False
        assert self.session is not None
        if not self.session.is_closed:
            name = self.replica_with(Lsn(0), None) if self.world.rng.random() < 0.7 else None
            self.session.links.found_replica(name or None, Lsn(1))

    def forget(self) -> None:
        self.world.pools.forget(self)

    def granted(self, link: Link) -> None:
        assert self.session is not None
        self.session.links.granted(link)

    def not_granted(self) -> None:
        assert self.session is not None
        self.session.links.not_granted()

    def timed_out(self, sqlstate: str, message: str, hint: str) -> None:
        assert self.session is not None
        self.session.requests.refuse(error_frame(sqlstate, message, hint=hint))

    def farewell(self, error: bytes) -> None:
        assert self.session is not None
        self.session.farewell(error)


class World:
    """All of it."""

    def __init__(self, seed: int, *, clients: int, is_pooled: bool, has_replica: bool) -> None:
        self.rng = random.Random(seed)
        self.database = Database()
        self.is_pooled = is_pooled
        self.now_s = 0.0
        queue_ms = self.rng.choice([400, 30_000])
        self.limits = Limits(pool_links=3 if is_pooled else 90, queue_ms=queue_ms)
        self.pools = Pools(self, self.limits, workers=1, now_s=lambda: self.now_s)
        self.classifier = Classifier(Catalog.EMPTY)
        self.serials = Serials()
        self.links: list[LinkWire] = []
        self.events: list[Callable[[], None]] = []
        self.epoch = 1
        self.has_replica = has_replica
        self.has_primary = True
        self.follow()
        self.clients = [self._client(number) for number in range(clients)]

    def _client(self, number: int) -> ClientWire:
        model = ModelClient(self.rng, number)
        wire = ClientWire(self, model)
        key = PoolKey("u", "d")
        desk = Desk(self, Login(key, None))
        wire.session = desk.session = Session(
            wire, desk, classifier=self.classifier,
            serials=self.serials if self.is_pooled else Serials(), limits=self.limits,
            read_mode=AUTO if self.has_replica else PRIMARY_ONLY, is_pooled=self.is_pooled,
            counts=Counts(),
        )  # fmt: skip
        return wire

    # --- Connector ------------------------------------------------------------------------------

    def connect(self, pool: Pool, target: Target, login: Login) -> None:
        self.later(lambda: self._connect(pool, target, login))

    def _connect(self, pool: Pool, target: Target, login: Login) -> None:
        view = self.pools.view
        is_there = target == view.primary if pool.replica is None else target in view.replicas
        if not is_there or self.rng.random() < 0.05:
            self.pools.failed(pool, target, "", error_frame("57P03", "no", severity="FATAL"))
            return
        is_replica = pool.replica is not None
        wire = LinkWire(self, ModelServer(target.name, self.database, is_replica=is_replica))
        wire.link = Link(wire, login.key, target_id(target), is_primary=not is_replica)
        self.links.append(wire)
        self.pools.connected(pool, wire.link)

    def wake(self) -> None:
        pass

    # --- What happens ---------------------------------------------------------------------------

    def later(self, event: Callable[[], None]) -> None:
        self.events.append(event)

    def follow(self) -> None:
        primary = Target(f"p{self.epoch}", 1, "h", 1, Epoch(self.epoch))
        replicas = (Target(REPLICA, 1, "h", 2, Epoch(0)),) if self.has_replica else ()
        self.pools.follow(
            ComputesView(primary if self.has_primary else None, replicas, Epoch(self.epoch), True)
        )

    def step(self) -> bool:
        """Let one thing happen; whether anything could."""
        self.now_s += 0.01
        actions: list[Callable[[], None]] = []
        if self.events:
            actions += [self._event] * 3
        for wire in self.links:
            if wire.to_server:
                actions.append(lambda wire=wire: self._serve(wire))  # type: ignore[misc]  # bound now
            if wire.to_gateway:
                actions.append(lambda wire=wire: self._answer(wire))  # type: ignore[misc]  # bound now
        for client in self.clients:
            if client.to_gateway or client.model.wants_to_say():
                actions.append(lambda client=client: self._say(client))  # type: ignore[misc]  # bound now
        if not actions:
            self.pools.tick()
            return bool(self.events or self.pools.waiters)
        self.rng.choice(actions)()
        if self.rng.random() < 0.1:
            self.pools.tick()
        return True

    def _event(self) -> None:
        self.events.pop(self.rng.randrange(len(self.events)))()

    def _cut(self, data: bytes) -> int:
        return len(data) if self.rng.random() < 0.7 else self.rng.randint(1, len(data))

    def _serve(self, wire: LinkWire) -> None:
        size = self._cut(wire.to_server)
        data, wire.to_server = wire.to_server[:size], wire.to_server[size:]
        wire.to_gateway += wire.server.feed(data)

    def _answer(self, wire: LinkWire) -> None:
        size = self._cut(wire.to_gateway)
        data, wire.to_gateway = wire.to_gateway[:size], wire.to_gateway[size:]
        assert wire.link is not None
        wire.link.feed(data)

    def _say(self, client: ClientWire) -> None:
        client.to_gateway += client.model.say()
        size = self._cut(client.to_gateway)
        data, client.to_gateway = client.to_gateway[:size], client.to_gateway[size:]
        if not client.is_closed and data:
            assert client.session is not None
            client.session.feed(data)

    # --- Faults ---------------------------------------------------------------------------------

    def kill_primary(self, *, in_order: bool) -> None:
        """End the primary: what it has not read is lost, of what it has said a part may come."""
        self.has_primary = False
        self.epoch += 1
        for wire in [one for one in self.links if one.link is not None and one.link.is_primary]:
            wire.to_server = b""
            if in_order:
                wire.to_gateway += farewell("57P01")
                size = len(wire.to_gateway)
            else:
                size = self.rng.randint(0, len(wire.to_gateway))
            data = wire.to_gateway[:size]
            if data and wire.link is not None:
                wire.link.feed(data)
            self.end_link(wire)
        self.later(self._promote)
        self.follow()

    def _promote(self) -> None:
        self.has_primary = True
        self.follow()

    def kill_replica(self) -> None:
        for wire in [one for one in self.links if one.link is not None and not one.link.is_primary]:
            self.end_link(wire)

    def end_link(self, wire: LinkWire) -> None:
        if wire.is_closed:
            return
        wire.is_closed = True
        self.links.remove(wire)
        link = wire.link
        if link is None or link.is_closed:
            return
        owner, link.owner = link.owner, None
        self.pools.closed(link)
        if isinstance(owner, Session):
            owner.lost(link)

    def client_leaves(self, client: ClientWire) -> None:
        client.is_closed = client.model.is_over = True
        assert client.session is not None
        client.session.closed()


@dataclass
class Outcome:
    """How a run went."""

    answered: int = 0
    lost: int = 0
    unknown: int = 0
    notes: list[str] = field(default_factory=list)


def run(seed: int, *, is_pooled: bool, has_replica: bool, steps: int = 1_500) -> Outcome:
    """Play one seed; assertions fail where something does not hold."""
    world = World(seed, clients=4, is_pooled=is_pooled, has_replica=has_replica)
    rng = world.rng
    for _ in range(steps):
        chance = rng.random()
        if chance < 0.004 and world.has_primary:
            world.kill_primary(in_order=rng.random() < 0.4)
        elif chance < 0.006 and has_replica:
            world.kill_replica()
        elif chance < 0.0065:
            world.client_leaves(rng.choice(world.clients))
        world.step()
    for client in world.clients:
        client.model.is_stopping = True
    for _ in range(20_000):
        if not world.step() and world.has_primary and not world.events:
            break
    outcome = Outcome()
    for client in world.clients:
        client.model.check_end()
        outcome.answered += client.model.answered
        outcome.lost += client.model.lost
        outcome.unknown += client.model.unknown
    check_rows(world)
    return outcome


def check_rows(world: World) -> None:
    """What was acknowledged is there, once; what was refused is not."""
    for client in world.clients:
        for mark, fate in client.model.marks.items():
            times = world.database.rows.get(mark, 0)
            if fate == "kept":
                assert times == 1, f"{mark!r} was acknowledged and is there {times} times"
            elif fate == "refused":
                assert times == 0, f"{mark!r} was refused and is there {times} times"
            else:
                assert times <= 1, f"{mark!r} is there {times} times"
