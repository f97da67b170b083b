"""A gateway's figures for Prometheus: one endpoint for all of its workers.

The first worker serves it. It reads its own figures when it is asked, and the others' every
REFRESH_S, since a registry cannot wait for an answer. While that worker is being restarted the
endpoint is away for a moment, too.

Every series carries the number of its worker: a worker that was started again counts from 0 again,
and only by itself does that look to Prometheus like the restart that it is. Sum over `worker`.
Names of users are left out, whoever may read this; `SHOW POOLS` has them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fabric.metrics import MetricsServer, MetricsSettings

from .colleagues import Found
from .tables import Cell

if TYPE_CHECKING:
    from .worker import Worker

PREFIX: Final = "seawall_gateway"
REFRESH_S: Final = 1.0  # Prometheus asks every 15 s or more; asking a worker takes a millisecond
TABLES: Final = ("stats", "pools")
COUNTERS: Final = {
    "logins": "clients that were let in",
    "clients_refused": "clients that were refused because there were too many",
    "reads_on_replicas": "batches that a replica was asked",
    "reads_sent_again": "of these, those that the primary was asked after all",
    "statements_sent_again": "batches that were asked again because their server was gone",
    "transactions_lost": "transactions that were lost with their server",
    "outcomes_unknown": "batches of which nobody knows whether they were committed",
}
LINK_STATES: Final = ("idle", "active", "opening")  # columns of the pools, in their order

log = structlog.get_logger()


class Metrics:
    """Serves the figures of all workers, in the first one."""

    def __init__(self, worker: "Worker", settings: MetricsSettings) -> None:
        self._worker = worker
        self._settings = settings
        self._others: Mapping[int, Found] = {}
        self._refreshing: asyncio.Task[None] | None = None
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_GatewayCollector(self))
        self._server = MetricsServer(registry, problem=self._problem, settings=settings)

    async def start(self) -> None:
        """Begin to serve."""
        port = await self._server.start()
        log.info("metrics are served", host=self._settings.host, port=port)
        if len(self._worker.colleagues.indexes) > 1:
            self._refreshing = asyncio.create_task(self._refresh())

    async def close(self) -> None:
        """Stop serving."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._server.close()

    def collect(self) -> Iterator[Metric]:
        """All figures."""
        worker = self._worker
        own = {name: worker.tables.rows(name) for name in TABLES}
        found = {**self._others, worker.index: own}
        yield _up(worker.colleagues.indexes, found)
        yield from _of_stats({str(one): tables["stats"] for one, tables in found.items()})
        yield from _of_pools({str(one): tables["pools"] for one, tables in found.items()})
        view = worker.pools.view
        yield _gauge("has_primary", "1 while a primary is known", int(view.primary is not None))
        yield _gauge("replicas", "replicas that may be asked", len(view.replicas))
        yield _gauge("epoch", "of the branch: each failover begins another", int(view.epoch))

    def _problem(self) -> str | None:
        return "the gateway is shutting down" if self._worker.is_stopping else None

    async def _refresh(self) -> None:
        while True:
            self._others = await self._worker.colleagues.ask(*TABLES)
            await asyncio.sleep(REFRESH_S)


class _GatewayCollector(Collector):
    """What the registry asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """All figures."""
        return self._metrics.collect()


def _up(indexes: Sequence[int], found: Mapping[int, Found]) -> Metric:
    up = _by("worker_up", "1 while a worker answers", "worker")
    for index in indexes:
        up.add_metric([str(index)], int(index in found))
    return up


def _of_stats(found: Mapping[str, Sequence[Sequence[Cell]]]) -> Iterator[Metric]:
    by_worker = {worker: {str(name): _int(value) for name, value in rows}
                 for worker, rows in found.items()}  # fmt: skip
    clients = _by("clients", "connections of clients", "worker")
    for worker, figures in by_worker.items():
        clients.add_metric([worker], figures["clients"])
    yield clients
    for name, text in COUNTERS.items():
        counter = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["worker"])
        for worker, figures in by_worker.items():
            counter.add_metric([worker], figures[name])
        yield counter


def _of_pools(found: Mapping[str, Sequence[Sequence[Cell]]]) -> Iterator[Metric]:
    """Pools of one database and server together. There are as many as have links or waiters."""
    sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for worker, rows in found.items():
        for database, _user, server, *figures in rows:
            before = sums[worker, str(database), str(server)]
            sums[worker, str(database), str(server)] = [
                one + _int(other) for one, other in zip(before, figures, strict=True)
            ]
    links = _by("links", "connections to servers", "worker", "database", "server", "state")
    waiting = _by("waiting", "who waits for a connection", "worker", "database", "server")
    for labels, (*counts, waiters) in sums.items():
        for state, count in zip(LINK_STATES, counts, strict=True):
            links.add_metric([*labels, state], count)
        waiting.add_metric(labels, waiters)
    yield links
    yield waiting


def _gauge(name: str, text: str, value: int) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _by(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _int(cell: Cell) -> int:
    return cell if isinstance(cell, int) else 0
