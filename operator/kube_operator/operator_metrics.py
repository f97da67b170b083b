"""What the operator counts and times, for Prometheus."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .kube_port import Kind

PREFIX: Final = "seawall_operator"
SECONDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)  # of a look, to one that waits


class OperatorMetrics:
    """The operator's numbers, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._reconciles = Counter(
            f"{PREFIX}_reconciles",
            "Looks at a cluster, by how they ended: done, or a kind of error.",
            ["result"],
            registry=registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "How long a look at a cluster took.",
            buckets=SECONDS,
            registry=registry,
        )
        self._restarts = Counter(
            f"{PREFIX}_watch_restarts",
            "Watches of the API that are over, by kind of object and reason: end, gone, error.",
            ["kind", "reason"],
            registry=registry,
        )
        self._writes = Counter(
            f"{PREFIX}_api_writes",
            "Writes to the API, by verb and kind of object; the Lease's and events' included.",
            ["verb", "kind"],
            registry=registry,
        )
        self._errors = Counter(
            f"{PREFIX}_api_errors",
            "Writes that the API did not take, by kind of error.",
            ["error"],
            registry=registry,
        )
        self.events_dropped = Counter(
            f"{PREFIX}_events_dropped", "Events that were not written.", registry=registry
        )
        self.leader = Gauge(f"{PREFIX}_leader", "1 if this operator leads.", registry=registry)

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number that is read when somebody asks."""
        Gauge(f"{PREFIX}_{name}", help_text, registry=self.registry).set_function(read)

    def reconciled(self, result: str, seconds: float) -> None:
        """Count a look at a cluster."""
        self._reconciles.labels(result).inc()
        self._seconds.observe(seconds)

    def watch_over(self, kind: Kind, reason: str) -> None:
        """Count a watch that is over."""
        self._restarts.labels(kind.plural, reason).inc()

    def wrote(self, verb: str, kind: Kind) -> None:
        """Count a write."""
        self._writes.labels(verb, kind.plural).inc()

    def refused(self, error: Exception) -> None:
        """Count a write that failed."""
        self._errors.labels(type(error).__name__).inc()
