"""The figures of a storage node for Prometheus: how far its branches are, and what that costs.

Everything is read when it is asked for, in the event loop, from what is in memory; nothing is
counted twice. Figures of a branch carry its name, and go with it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from fabric.ids import BranchName
from sqlnode.pagefault.block_map import BLOCK_BYTES

from .branch_host import BranchHost
from .handlers import PageCounters
from .keeper import Keeper
from .rocks_store import RocksStore

PREFIX: Final = "seawall_storage"
PHASES: Final = ("replay", "restartpoint", "store")


class NodeCollector(Collector):
    """All figures of one node."""

    def __init__(
        self, hosts: Mapping[BranchName, BranchHost], store: RocksStore, served: PageCounters
    ) -> None:
        self._hosts = hosts
        self._store = store
        self._served = served

    def collect(self) -> Iterator[Metric]:
        """Of the node, then of each branch."""
        yield from self._of_serving()
        yield from self._of_space()
        yield from self._of_branches()
        yield from self._of_cuts()

    def _of_serving(self) -> Iterator[Metric]:
        served = self._served
        yield _counter("pages_served", "pages given to computes and other nodes", served.pages)
        yield _counter("bytes_served", "bytes of these pages", served.bytes)
        yield _counter(
            "damaged_ranges_served", "ranges that a caller had to get elsewhere", served.damaged
        )

        yield GaugeMetricFamily(
            f"{PREFIX}_damage_met",
            "damage met in the page store since it was opened; it is made anew then",
            value=self._store.damage.count,
        )

    def _of_space(self) -> Iterator[Metric]:
        size_bytes = self._store.size_bytes()
        raw = _gauge_by_branch("newest_cut_bytes", "raw size of the newest cut")
        raw_bytes = 0
        for branch in self._hosts:
            branch_bytes = self._store.stats(branch).pages * BLOCK_BYTES
            raw.add_metric([branch], branch_bytes)
            raw_bytes += branch_bytes
        yield raw
        yield GaugeMetricFamily(
            f"{PREFIX}_size_bytes", "bytes of the page store on disk", value=size_bytes
        )
        yield GaugeMetricFamily(
            f"{PREFIX}_amplification",
            "bytes on disk for each byte of the newest cuts; 0 while there is none",
            value=size_bytes / raw_bytes if raw_bytes else 0.0,
        )

    def _of_branches(self) -> Iterator[Metric]:
        lag_bytes = _gauge_by_branch("lag_bytes", "committed WAL that is in no cut yet")
        lag_s = _gauge_by_branch("lag_seconds", "age of the newest cut while there is such WAL")
        cuts = _gauge_by_branch("cuts", "cuts that are kept")
        engines = _gauge_by_branch("engines_running", "redo engines that run")
        failing = _gauge_by_branch("failing", "1 while a branch gets no further")
        unreachable = _gauge_by_branch("log_unreachable", "1 while WAL cannot be had")
        for branch, host in self._hosts.items():
            report, keeper = host.report(), host.keeper
            if report.lag_bytes is not None and report.lag_s is not None:
                lag_bytes.add_metric([branch], report.lag_bytes)
                lag_s.add_metric([branch], report.lag_s)
            cuts.add_metric([branch], len(self._store.cuts(branch)))
            engines.add_metric([branch], int(keeper is not None and keeper.has_engine))
            failing.add_metric([branch], int(bool(host.problem)))
            is_unreachable = keeper is not None and bool(keeper.feed.complaint)
            unreachable.add_metric([branch], int(is_unreachable))
        yield from (lag_bytes, lag_s, cuts, engines, failing, unreachable)

    def _of_cuts(self) -> Iterator[Metric]:
        times = SummaryMetricFamily(
            f"{PREFIX}_cut_seconds", "where the time of cuts went", labels=["branch", "phase"]
        )
        stored = _counter_by_branch("pages_stored", "pages that cuts have added")
        damaged = _counter_by_branch("damaged_ranges", "damage that redo engines met")
        healed = _counter_by_branch("healed_ranges", "of these, read from another node")
        for branch, keeper in self._keepers():
            totals, met = keeper.totals, keeper.source.counters
            sums = (totals.replay_s, totals.restartpoint_s, totals.store_s)
            for phase, sum_s in zip(PHASES, sums, strict=True):
                times.add_metric([branch, phase], count_value=totals.cuts, sum_value=sum_s)
            stored.add_metric([branch], totals.pages)
            damaged.add_metric([branch], met.damaged)
            healed.add_metric([branch], met.healed)
        yield from (times, stored, damaged, healed)

    def _keepers(self) -> Iterator[tuple[BranchName, Keeper]]:
        for branch, host in self._hosts.items():
            if host.keeper is not None:
                yield branch, host.keeper


def registry_of(
    hosts: Mapping[BranchName, BranchHost], store: RocksStore, served: PageCounters
) -> CollectorRegistry:
    """Return a registry with one node's figures only; `hosts` changes as its branches do."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(NodeCollector(hosts, store, served))
    return registry


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _counter_by_branch(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, labels=["branch"])


def _gauge_by_branch(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=["branch"])
