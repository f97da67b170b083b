"""Who is the primary, and which replicas there are: as the leader of the log says, within moments.

    watch = TopologyWatch(log_client, branch, addresses, rng=rng, on_change=...)
    task = asyncio.create_task(watch.run())
    watch.view                             what is known now; on_change hears of every other one

Two questions are asked of the log. The leader answers `watch_topology` at once when epoch, holder,
leader or members change, or when the WAL of a primary begins or ceases to come in. It does not
answer it when a compute comes, goes, or has become the primary: for that `computes` is asked every
SLOW_S, at once when the topology has changed, and every FAST_S while there is no primary.

The leader is looked for here, by asking every log node at once, because a leader that hangs would
hold up a search that goes from one to the next. Of two that believe to lead, the newer term counts.

A leader that has just begun knows no computes until they report. What was known before stays known
for KEPT_S then, unless the epoch is another one: then there is no primary until it says so itself.

Nothing here raises: what fails is logged once, and tried again.
"""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from fabric.backoff import full_jitter_ms
from fabric.ids import BranchName, Epoch, Role
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from fabric.tls import ClientTls, client_context
from log_service.client import LogClient
from log_service.compute_methods import LIST_COMPUTES, ComputeInfo, Computes, ComputeState
from log_service.methods import WATCH_TOPOLOGY, OfBranch, WatchTopology

from .settings import GatewaySettings, UpstreamTls

FAST_S: Final = 0.02  # while there is no primary: 2 % of a leader's patience, 1 % of a core
PATIENT_AFTER_S: Final = (
    10.0  # without a primary for so long: it is asleep, or somebody has to help
)
PATIENT_S: Final = 0.1
SLOW_S: Final = 0.5
ASK_MS: Final = 500  # takes a millisecond
HANGING_S: Final = 0.1  # a leader that is silent for so long: everybody is asked who leads
WATCH_MS: Final = 5_000
WATCH_TIMEOUT_MS: Final = WATCH_MS + ASK_MS
RETRY_BASE_MS: Final = 20
RETRY_CAP_MS: Final = 500
KEPT_S: Final = 5.0
SILENT_MS_MAX: Final = 3_000  # computes report several times a second
REPLICAS_MAX: Final = 1_000
ADDRESSES_MAX: Final = 64
PORT_MAX: Final = 65_535

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Target:
    """A compute, in one life of its agent, and where its clients connect."""

    name: str
    instance: int
    host: str
    port: int
    epoch: Epoch
    """Of a primary, the one it was promoted for; of a replica 0: a failover leaves it the same."""


@dataclass(frozen=True, slots=True)
class ComputesView:
    """What a branch has. `epoch` may be ahead of the primary: then there is none yet."""

    primary: Target | None = None
    replicas: tuple[Target, ...] = ()
    epoch: Epoch = Epoch(0)  # noqa: RUF009  # an immutable value
    is_log_reachable: bool = False
    leaving: tuple[Target, ...] = ()
    """Replicas that shut down in order: who is there may stay for a moment, nobody comes."""

    @property
    def is_asleep(self) -> bool:
        """Whether there is no compute at all, and the log has said so."""
        return self.is_log_reachable and self.primary is None and not self.replicas


# --- What an answer means: pure -------------------------------------------------------------------


class Computing:
    """Makes a view of each answer of the leader, and of what was known before."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        self._view = ComputesView()

    def take(self, answer: Computes, now_s: float) -> ComputesView:
        """Return the view after an answer."""
        topology = answer.topology
        holder = topology.holder
        listed = {str(info.name) for info in answer.computes}
        primary: Target | None = None
        replicas: list[Target] = []
        leaving: list[Target] = []
        before = self._view
        for info in answer.computes[:REPLICAS_MAX]:
            self._heard_s[str(info.name)] = now_s
            target = target_of(info)
            if target is None:
                continue
            if info.state is ComputeState.PRIMARY:
                is_ours = holder is not None and holder.name == info.name
                is_ours = is_ours and holder is not None and holder.instance in {0, info.instance}
                # One that is silent has lost its lease, and serves nobody any more.
                is_ours = is_ours and info.heard_ms_ago <= SILENT_MS_MAX
                if is_ours and info.epoch == topology.epoch:
                    primary = target
            elif _serves_reads(info):
                replicas.append(target)
            elif _is_leaving(info) and target in (*before.replicas, *before.leaving):
                leaving.append(target)
        if primary is None and before.primary is not None and before.epoch == topology.epoch:
            primary = before.primary if self._is_kept(before.primary, listed, now_s) else None
        replicas += [one for one in before.replicas if self._is_kept(one, listed, now_s)]
        self._view = ComputesView(
            primary=primary,
            replicas=tuple(sorted(replicas, key=lambda one: one.name)),
            leaving=tuple(sorted(leaving, key=lambda one: one.name)),
            epoch=topology.epoch,
            is_log_reachable=True,
        )
        names = {one.name for one in self._view.replicas} | listed
        names |= set() if primary is None else {primary.name}
        self._heard_s = {name: s for name, s in self._heard_s.items() if name in names}
        return self._view

    def lose(self) -> ComputesView:
        """Return the view while the log does not answer: as it was, and known to be old."""
        self._view = replace(self._view, is_log_reachable=False)
        return self._view

    def _is_kept(self, target: Target, listed: set[str], now_s: float) -> bool:
        if target.name in listed:
            return False  # the leader knows better
        return now_s - self._heard_s.get(target.name, now_s) <= KEPT_S


def _serves_reads(info: ComputeInfo) -> bool:
    is_there = info.state is ComputeState.REPLICA and info.replayed > Lsn(0)
    return is_there and info.heard_ms_ago <= SILENT_MS_MAX


def _is_leaving(info: ComputeInfo) -> bool:
    """Whether its PostgreSQL is there still, though it is down: its agent was told to end."""
    is_there = info.state is ComputeState.DOWN and info.postmaster_pid > 0
    return is_there and info.heard_ms_ago <= SILENT_MS_MAX


def target_of(info: ComputeInfo) -> Target | None:
    """Return where a compute's clients connect; None: it does not say, or nothing sensible."""
    host, _, digits = info.client_address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(PORT_MAX)):
        return None
    port = int(digits)
    if not 0 < port <= PORT_MAX:
        return None
    epoch = info.epoch if info.state is ComputeState.PRIMARY else Epoch(0)
    return Target(str(info.name), info.instance, host, port, epoch)


# --- Asking ---------------------------------------------------------------------------------------


class TopologyWatch:
    """Follows one branch. Invariant: `view` is what `on_change` was told last."""

    def __init__(
        self,
        client: LogClient,
        branch: BranchName,
        addresses: Sequence[str],
        *,
        rng: random.Random,
        on_change: Callable[[ComputesView], None],
    ) -> None:
        self.view = ComputesView()
        self._client, self._branch, self._rng = client, branch, rng
        self._on_change = on_change
        self._addresses = list(dict.fromkeys(addresses))
        self._leader: str | None = None
        self._term = 0
        self._computing = Computing()
        self._due = asyncio.Event()  # the computes have to be looked at again
        self._watching: asyncio.Task[None] | None = None  # of the leader
        self._without_primary_s: float | None = None
        self._failures = 0
        self._reason = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                self._due.clear()
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._due.wait()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.wait([self._watching])

    def look_now(self) -> None:
        """Have the log asked at once: somebody has lost a compute."""
        self._due.set()

    async def _look(self) -> None:
        answer = await self._ask_leader()
        if answer is None:
            self._failures += 1
            if self._failures == 1:
                log.warning("the log does not answer", reason=self._reason)
            self._tell(self._computing.lose())
        else:
            self._failures = 0
            self._tell(self._computing.take(answer, _now_s()))

    def _pause_s(self) -> float:
        if self._failures:
            return _pause_s(self._rng, self._failures)
        if self.view.primary is not None:
            self._without_primary_s = None
            return SLOW_S
        if self._without_primary_s is None:
            self._without_primary_s = _now_s()
        is_new = _now_s() - self._without_primary_s < PATIENT_AFTER_S
        return FAST_S if is_new else PATIENT_S

    def _tell(self, view: ComputesView) -> None:
        if view == self.view:
            return
        before, self.view = self.view, view
        if before.primary != view.primary or before.is_log_reachable != view.is_log_reachable:
            name = None if view.primary is None else view.primary.name
            log.info(
                "topology changed", primary=name, epoch=int(view.epoch),
                replicas=len(view.replicas), is_log_reachable=view.is_log_reachable,
            )  # fmt: skip
        self._on_change(view)

    # The leader.

    async def _ask_leader(self) -> Computes | None:
        """Return what the leader says of the computes; None: there is none that answers."""
        if self._leader is not None:
            asking = asyncio.create_task(self._ask(self._leader))
            try:
                await asyncio.wait([asking], timeout=HANGING_S)
                answer = asking.result() if asking.done() else None
            finally:
                asking.cancel()
            if answer is not None and self._is_leading(answer):
                return answer
            self._leader = None
        return await self._find_leader()

    async def _find_leader(self) -> Computes | None:
        """Ask everybody at once, and take the first that leads; who hangs holds nobody up."""
        asked = {asyncio.create_task(self._ask(one)): one for one in self._addresses}
        pending = set(asked)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    answer = task.result()
                    if answer is not None and self._is_leading(answer):
                        self._be_led_by(asked[task])
                        return answer
        finally:
            for task in pending:
                task.cancel()
        return None

    def _is_leading(self, answer: Computes) -> bool:
        topology = answer.topology
        for member in topology.members:
            is_known = member.rpc in self._addresses
            if not is_known and len(self._addresses) < ADDRESSES_MAX:
                self._addresses.append(member.rpc)
        if not topology.is_leading or topology.term < self._term:
            return False
        self._term = topology.term
        return True

    async def _ask(self, address: str) -> Computes | None:
        request = OfBranch(self._branch)
        try:
            answer = await self._client.call_node(
                address, LIST_COMPUTES, request, timeout_ms=ASK_MS
            )
        except (RpcError, ValueError, OSError) as error:
            self._reason = f"{address}: {error}"
            return None
        return answer.response

    def _be_led_by(self, address: str) -> None:
        """Watch this one from now on: the last one may hang, and so would its answer."""
        self._leader = address
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._watch(address))

    async def _watch(self, address: str) -> None:
        """Have the computes looked at as soon as the topology is another one."""
        known, failures = "", 0
        while True:
            request = WatchTopology(self._branch, known, WATCH_MS)
            try:
                answer = await self._client.call_node(
                    address, WATCH_TOPOLOGY, request, timeout_ms=WATCH_TIMEOUT_MS
                )
            except (RpcError, ValueError, OSError):
                failures += 1
                self._due.set()  # it may lead no longer
                await asyncio.sleep(_pause_s(self._rng, failures))
                continue
            failures = 0
            if answer.response.version != known:
                known = answer.response.version
                self._due.set()


def _pause_s(rng: random.Random, failures: int) -> float:
    pause_ms = full_jitter_ms(rng, failures=failures, base_ms=RETRY_BASE_MS, cap_ms=RETRY_CAP_MS)
    return (RETRY_BASE_MS + pause_ms) / 1000


def _now_s() -> float:
    return asyncio.get_running_loop().time()


# --- How others are reached -----------------------------------------------------------------------


def log_tls(settings: GatewaySettings) -> ClientTls | None:
    """Return how the log nodes are called."""
    if settings.tls is None:
        return None
    return ClientTls(client_context(settings.tls), settings.cluster, Role.LOG)


def upstream_context(tls: UpstreamTls | None) -> ssl.SSLContext | None:
    """Return how computes are connected to; None: without TLS.

    Their certificates come from the authority given, whatever their names are: computes move.
    """
    if tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cafile=tls.ca_file)
    return context
