"""The figures of a compute for Prometheus: what it is, how far it is, and what its blocks cost.

    agent ──figures_of()──► ComputeFigures, plain values ──ComputeCollector──► Prometheus

Everything is read when it is asked for, in the event loop, from what is in memory. Positions are
bytes of WAL, as PostgreSQL counts them. What belongs to one life begins at 0 with the next, which
looks to Prometheus like the restart that it is.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabric.ids import Epoch
from fabric.lsn import Lsn
from fabric.metrics import MetricsServer, MetricsSettings
from log_service.compute_methods import ComputeState
from sqlnode.broker import Broker
from sqlnode.broker_metrics import BrokerCollector

from .agent import Agent
from .machine import Phase

PREFIX: Final = "seawall_compute"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeFigures:
    """A compute at one moment. None: not known, or there is no such thing."""

    state: ComputeState
    is_ready: bool
    epoch: Epoch
    lives: int
    lease_ms: int | None
    log_unreachable: bool
    storage_unreachable: bool
    received: Lsn | None
    replayed: Lsn | None
    cut: Lsn | None
    cache_bytes: int | None
    cache_bytes_max: int | None
    broker: Broker | None


class ComputeCollector(Collector):
    """All figures of one agent and its server."""

    def __init__(self, look: Callable[[], ComputeFigures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Of the agent, of its life, then of that one's blocks."""
        found = self._look()
        yield _states(found.state)
        yield _gauge("ready", "1 while postgres answers as replica or primary", found.is_ready)
        yield _gauge("epoch", "of which it is, or becomes, the primary; else 0", found.epoch)
        yield CounterMetricFamily(
            f"{PREFIX}_lives", "data directories built; all but the first are restarts",
            value=found.lives,
        )  # fmt: skip
        yield _gauge("log_unreachable", "1 while nobody takes its reports", found.log_unreachable)
        yield _gauge(
            "storage_unreachable", "1 while reads wait for storage", found.storage_unreachable
        )
        yield from _of_life(found)
        if found.broker is not None:
            yield from BrokerCollector(found.broker).collect()


def _states(state: ComputeState) -> Metric:
    states = GaugeMetricFamily(
        f"{PREFIX}_state", "1 for what it is, 0 for all else", labels=["state"]
    )
    for one in ComputeState:
        states.add_metric([one.value], int(one is state))
    return states


def _of_life(found: ComputeFigures) -> Iterator[Metric]:
    lease_s = None if found.lease_ms is None else found.lease_ms / 1000
    lag_bytes = None
    if found.received is not None and found.replayed is not None:
        lag_bytes = max(0, int(found.received) - int(found.replayed))
    for name, text, value in (
        ("lease_remaining_seconds", "for which it may be the primary, as last heard", lease_s),
        ("received_position_bytes", "where its WAL ends: received, or written", found.received),
        ("replayed_position_bytes", "how far it has replayed, or written", found.replayed),
        ("replay_lag_bytes", "WAL that it has and has not replayed", lag_bytes),
        ("cut_position_bytes", "the cut that its missing blocks are of, at least", found.cut),
        ("cache_bytes", "of data files on its disk, at the last look", found.cache_bytes),
        ("cache_max_bytes", "above which blocks are dropped", found.cache_bytes_max),
    ):
        if value is not None:
            yield _gauge(name, text, value)


def figures_of(agent: Agent) -> ComputeFigures:
    """Look at an agent."""
    machine, server = agent.machine, agent.living
    leads = machine.phase in {Phase.PROMOTING, Phase.PRIMARY, Phase.DRAINING}
    cache = None if server is None else server.cache
    return ComputeFigures(
        state=machine.state,
        is_ready=agent.unreadiness() is None,
        epoch=machine.epoch,
        lives=machine.life,
        lease_ms=machine.lease_left_ms if leads else None,
        log_unreachable=bool(agent.reporter.failure),
        storage_unreachable=server is not None and bool(server.complaint),
        received=max(machine.received, machine.replayed) or None,
        replayed=machine.replayed or None,
        cut=server.cut_lsn if server is not None and server.pages is not None else None,
        cache_bytes=None if cache is None else cache.used_bytes,
        cache_bytes_max=None if cache is None or server is None else server.cache_bytes_max,
        broker=None if server is None else server.broker,
    )


@contextlib.asynccontextmanager
async def metrics_of(agent: Agent, settings: MetricsSettings | None) -> AsyncIterator[None]:
    """Serve an agent's figures and what probes ask, if that is wanted, until left."""
    if settings is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ComputeCollector(lambda: figures_of(agent)))
    server = MetricsServer(
        registry, problem=agent.problem, readiness=agent.unreadiness, settings=settings
    )
    port = await server.start()
    log.info("metrics are served", host=settings.host, port=port)
    try:
        yield
    finally:
        await server.close()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
