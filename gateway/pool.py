"""Who gets which link, who waits, and for how long. Pure: the shell connects, and tells the time.

    pools.acquire(waiter, replica=None)   a link, or later waiter.granted / not_granted / farewell
    pools.give_back(link, is_clean=...)   it goes to who waits, or becomes idle
    pools.follow(view)                    who is who now: links to anybody else are cut
    pools.connected(...), failed(...)     what became of a connection that was asked for
    pools.tick()                          whoever has waited too long, what was idle for too long

A pool has the links of one user, database and set of start-up parameters to the primary, or to one
replica. Links that are free are used newest first, so that what is not needed grows old.

Invariants: a link is idle, or has an owner, or is being cleaned; `opening` counts those that are
being connected; idle, used and opening together never exceed a pool's limit, nor the compute's.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from .batches import IDLE, Batch, our_batch
from .link import Link, Wire
from .logins import Login, PoolKey
from .settings import Limits
from .topology import ComputesView, Target
from .wire import error_fields, query_frame

RETRY_S: Final = 0.05  # after a compute did not take a connection
CLEANING: Final = query_frame(b"discard all")
WELCOMES_MAX: Final = 10_000
TOO_MANY: Final = "53300"  # too_many_connections
# A server that is about to be there, or has no place just now: it is asked again.
PASSING: Final = frozenset({"57P01", "57P02", "57P03", TOO_MANY, "55000"})


class Waiter(Protocol):
    """Who wants a link."""

    @property
    def login(self) -> Login:
        """As whom."""

    def granted(self, link: Link) -> None:
        """Have it."""

    def not_granted(self) -> None:
        """A replica cannot be reached."""

    def timed_out(self, sqlstate: str, message: str, hint: str) -> None:
        """Hear that there was none in time."""

    def farewell(self, error: bytes) -> None:
        """Hear why there will be none, ever."""


class Connector(Protocol):
    """Who opens connections."""

    def connect(self, pool: "Pool", target: Target, login: Login) -> None:
        """Open one: then Pools.connected or Pools.failed."""

    def wake(self) -> None:
        """Ask for a compute: somebody waits, and there is none."""


@dataclass(slots=True)
class Pool:
    """The links of one key to the primary (`replica` None) or to a replica."""

    key: PoolKey
    replica: str | None
    idle: list[Link] = field(default_factory=list)
    used: int = 0
    opening: int = 0
    not_before_s: float = 0.0
    last_error: bytes = b""
    waiting: deque["_Waiting"] = field(default_factory=deque)

    @property
    def links(self) -> int:
        """All there are, or will be."""
        return len(self.idle) + self.used + self.opening


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    waiter: Waiter
    since_s: float


class _Janitor:
    """Owns links while they are cleaned. Nobody hears what they say."""

    def __init__(self, done: Callable[[Link, bool], None]) -> None:
        self._done = done
        self.client: Wire = _Nowhere()

    def ended(self, link: Link, batch: Batch) -> None:
        """The link is clean, unless that failed."""
        if not link.batches:
            self._done(link, not batch.has_failed and link.status == IDLE)

    def statement_ended(self, link: Link, batch: Batch, tag: bytes) -> None:
        """Nothing is to be remembered."""

    def failed(self, link: Link, batch: Batch, error: bytes) -> None:
        """`ended` follows."""

    def confirmed(self, change: object) -> None:
        """Cannot be."""

    def copy_began(self, link: Link, batch: Batch) -> None:
        """Cannot be."""

    def told(self, name: bytes, value: bytes) -> None:
        """The link remembers."""


class _Nowhere:
    def write(self, data: bytes) -> None:
        """Drop it."""

    def close(self) -> None:
        """Nothing to close."""

    def abort(self) -> None:
        """Nothing to end."""

    def fault(self, reason: str) -> None:
        """Nothing to end."""


class Pools:
    """All links of one process."""

    def __init__(
        self, connector: Connector, limits: Limits, *, workers: int, now_s: Callable[[], float]
    ) -> None:
        self.view = ComputesView()
        self.limits = limits
        self.links: set[Link] = set()
        self._connector = connector
        self._workers = workers
        self._now_s = now_s
        self._pools: dict[tuple[PoolKey, str | None], Pool] = {}
        self._welcomes: dict[PoolKey, Mapping[str, str]] = {}
        self._janitor = _Janitor(self._cleaned)
        self._opening: dict[str, int] = {}  # connections on their way, by compute

    # --- What is asked --------------------------------------------------------------------------

    def welcome(self, key: PoolKey) -> Mapping[str, str] | None:
        """Return what a server told the last link of a key at its login."""
        return self._welcomes.get(key)

    def acquire(self, waiter: Waiter, *, replica: str | None) -> Link | None:
        """Return a link if one is free; else the waiter hears later. Asking twice waits once."""
        pool = self._pool(waiter.login.key, replica)
        if pool.idle:
            pool.used += 1
            return pool.idle.pop()
        if all(one.waiter is not waiter for one in pool.waiting):
            pool.waiting.append(_Waiting(waiter, self._now_s()))
        self._open_more(pool)
        return None

    def forget(self, waiter: Waiter) -> None:
        """Let somebody wait no longer."""
        for pool in self._pools.values():
            if pool.waiting:
                kept = [one for one in pool.waiting if one.waiter is not waiter]
                pool.waiting = deque(kept)

    def give_back(self, link: Link, *, is_clean: bool) -> None:
        """Take a link that its session needs no more."""
        link.owner = None
        if link.is_closed:
            return
        if link.is_busy or not self._is_wanted(link):
            link.wire.close()
        elif is_clean:
            self._free(link)
        else:
            link.owner = self._janitor
            link.applied = ()
            link.statements.clear()
            link.batches.append(our_batch(CLEANING))
            link.wire.write(CLEANING)

    @property
    def waiters(self) -> int:
        """How many wait."""
        return sum(len(pool.waiting) for pool in self._pools.values())

    @property
    def pools(self) -> list[Pool]:
        """All of them, for who looks after them."""
        return list(self._pools.values())

    def loads(self) -> dict[str, int]:
        """Return how many links of each replica are in use."""
        found: dict[str, int] = {}
        for pool in self._pools.values():
            if pool.replica is not None:
                found[pool.replica] = found.get(pool.replica, 0) + pool.used
        return found

    # --- What happens ---------------------------------------------------------------------------

    def follow(self, view: ComputesView) -> None:
        """Take a new view. Who is not in it is cut off: its sessions go on elsewhere. Who leaves
        gets nothing new.
        """
        before, self.view = self.view, view
        if view.primary is not None and view.primary != before.primary:
            self._cut(lambda link: link.is_primary and not self._is_wanted(link))
        there = {one.name for one in (*view.replicas, *view.leaving)}
        gone = {one.name for one in (*before.replicas, *before.leaving)} - there
        if gone:
            self._cut(lambda link: not link.is_primary and link.target_name in gone)
        leaving = {one.name for one in view.leaving}
        for pool in self.pools:
            pool.not_before_s = 0.0
            if pool.replica in gone | leaving:
                self._refuse_all(pool)
            for link in list(pool.idle) if pool.replica in leaving else ():
                self._let_go(link)
            self._open_more(pool)

    def connected(self, pool: Pool, link: Link) -> None:
        """Take a link that has logged in."""
        pool.opening -= 1
        pool.used += 1
        pool.last_error = b""
        self.links.add(link)
        self._opened(link.target_name)
        self._welcomes.pop(pool.key, None)
        if len(self._welcomes) >= WELCOMES_MAX:
            del self._welcomes[next(iter(self._welcomes))]  # what was heard longest ago
        self._welcomes[pool.key] = dict(link.parameters)
        if self._is_wanted(link):
            self._free(link)
        else:
            link.wire.close()

    def failed(self, pool: Pool, target: Target, sqlstate: str, error: bytes) -> None:
        """Hear that a connection was not to be had; `sqlstate` "": there was no answer."""
        pool.opening -= 1
        pool.last_error = error
        self._opened(target.name)
        is_hopeless = sqlstate == TOO_MANY and not pool.links  # none of ours will become free
        if sqlstate and (sqlstate not in PASSING or is_hopeless):
            waiting, pool.waiting = pool.waiting, deque()
            for one in waiting:
                one.waiter.farewell(error)
        elif pool.replica is not None:
            self._refuse_all(pool)
        else:
            pool.not_before_s = self._now_s() + RETRY_S

    def closed(self, link: Link) -> None:
        """Hear that a link has ended, for whatever reason; its owner is told by the shell."""
        self.links.discard(link)
        link.is_closed = True
        pool = self._pools.get(_pool_key(link))
        if pool is None:
            return
        if link in pool.idle:
            pool.idle.remove(link)
        else:
            pool.used -= 1
        for one in self.pools:
            if one.waiting:
                self._open_more(one)

    def tick(self) -> None:
        """Look who has waited for too long, and what nobody needs."""
        now_s = self._now_s()
        is_asleep = self.view.is_asleep
        wait_ms = self.limits.wake_ms if is_asleep else self.limits.queue_ms
        if is_asleep and self.waiters:
            self._connector.wake()
        for pool in self.pools:
            while pool.waiting and now_s - pool.waiting[0].since_s > wait_ms / 1000:
                pool.waiting.popleft().waiter.timed_out(*self._too_long(pool, wait_ms))
            self._open_more(pool)
            old_s = now_s - self.limits.idle_link_ms / 1000
            while pool.idle and pool.idle[0].idle_since_s < old_s:
                self._let_go(pool.idle[0])
            if not pool.links and not pool.waiting:
                del self._pools[(pool.key, pool.replica)]

    # --- Inside ---------------------------------------------------------------------------------

    def _pool(self, key: PoolKey, replica: str | None) -> Pool:
        pool = self._pools.get((key, replica))
        if pool is None:
            pool = self._pools[(key, replica)] = Pool(key, replica)
        return pool

    def _target(self, pool: Pool) -> Target | None:
        if pool.replica is None:
            return self.view.primary
        return next((one for one in self.view.replicas if one.name == pool.replica), None)

    def _is_wanted(self, link: Link) -> bool:
        if link.is_primary:
            primary = self.view.primary
            return primary is None or target_id(primary) == link.target_id
        return any(target_id(one) == link.target_id for one in self.view.replicas)

    def _open_more(self, pool: Pool) -> None:
        """Connect for those who wait, as far as limits allow."""
        target = self._target(pool)
        if target is None:
            if pool.replica is not None:
                self._refuse_all(pool)
            return
        share = max(1, self.limits.pool_links // self._workers)
        links_max = max(1, self.limits.links // self._workers)
        while (
            pool.opening < len(pool.waiting)
            and pool.links < share
            and self._has_room(target.name, links_max)
            and self._now_s() >= pool.not_before_s
        ):
            pool.opening += 1
            self._opening[target.name] = self._opening.get(target.name, 0) + 1
            self._connector.connect(pool, target, pool.waiting[0].waiter.login)

    def _has_room(self, name: str, links_max: int) -> bool:
        """Whether a compute may have one link more; an idle one of another pool makes room."""
        if self._links_to(name) < links_max:
            return True
        idle = [
            one for pool in self._pools.values() for one in pool.idle if one.target_name == name
        ]
        if idle:
            self._let_go(min(idle, key=lambda link: link.idle_since_s))
        return False  # it will have, in a moment

    def _let_go(self, link: Link) -> None:
        """Close an idle link."""
        pool = self._pool(*_pool_key(link))
        pool.idle.remove(link)
        pool.used += 1  # until `closed`
        link.wire.close()

    def _links_to(self, name: str) -> int:
        there = sum(1 for link in self.links if link.target_name == name)
        return there + self._opening.get(name, 0)

    def _opened(self, name: str) -> None:
        self._opening[name] = self._opening.get(name, 1) - 1

    def _free(self, link: Link) -> None:
        """Give a link that counts as used to who waits, or let it be idle."""
        pool = self._pool(*_pool_key(link))
        if pool.waiting:
            pool.waiting.popleft().waiter.granted(link)
            return
        pool.used -= 1
        link.idle_since_s = self._now_s()
        pool.idle.append(link)

    def _cleaned(self, link: Link, is_clean: bool) -> None:
        link.owner = None
        if is_clean and self._is_wanted(link):
            self._free(link)
        else:
            link.wire.close()

    def _cut(self, is_cut: Callable[[Link], bool]) -> None:
        for link in [link for link in self.links if is_cut(link)]:
            link.wire.abort()

    def _refuse_all(self, pool: Pool) -> None:
        waiting, pool.waiting = pool.waiting, deque()
        for one in waiting:
            one.waiter.not_granted()

    def _too_long(self, pool: Pool, wait_ms: int) -> tuple[str, str, str]:
        """Return SQLSTATE, message and hint for who has waited too long."""
        waited = f"within {wait_ms / 1000:g} s"
        if pool.last_error:
            fields = error_fields(pool.last_error)
            message = f"no connection to the server {waited}: {fields.get('M', '')}"
            return (fields.get("C", "57P03"), message, "Try again later.")
        if self._target(pool) is None:
            return ("57P03", f"there was no primary {waited}", "Try again later.")
        message = f"no connection to the server became free {waited}"
        return (TOO_MANY, message, "Use fewer clients, or raise limits.pool_links.")


def target_id(target: Target) -> tuple[str, int, int]:
    """Return what tells a compute from another life of it."""
    return (target.name, target.instance, int(target.epoch))


def _pool_key(link: Link) -> tuple[PoolKey, str | None]:
    return (link.key, None if link.is_primary else link.target_name)
