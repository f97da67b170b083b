"""The broker's figures for Prometheus: what postgres saw, and what the broker did."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .broker import Broker, BrokerCounters

_POSTGRES: Final = "seawall_pagefault"
_BROKER: Final = "seawall_broker"
SLOTS_COUNTED_MAX: Final = 50_000  # 0.1 s, in which no fault is answered


class BrokerCollector(Collector):
    """Reads shared memory and counters when asked; costs nothing in between."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        """All counters, and how much of the data directory is not here, if it has not too many
        files to look at them all.
        """
        for name, value in self._broker.block_map.counters().items():
            yield CounterMetricFamily(
                f"{_POSTGRES}_{name}", f"{name} of the block map's statistics page", value=value
            )
        for counter in fields(BrokerCounters):
            value = getattr(self._broker.counters, counter.name)
            yield CounterMetricFamily(f"{_BROKER}_{counter.name}", counter.name, value=value)
        if self._broker.block_map.slots_used() <= SLOTS_COUNTED_MAX:
            yield self._missing()

    def _missing(self) -> Metric:
        missing = GaugeMetricFamily(f"{_POSTGRES}_missing_blocks", "blocks that storage still has")
        missing.add_metric([], sum(slot.missing for slot in self._broker.block_map.slots()))
        return missing


def registry_of(broker: Broker) -> CollectorRegistry:
    """A registry with this broker's figures only."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(BrokerCollector(broker))
    return registry
