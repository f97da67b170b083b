"""What the gateway promises. Pure."""

from typing import Final

from bench.pagefault.report import Bar

CLIENTS: Final = (8, 32)
LATENCY_CLIENTS: Final = 8
MODES: Final = ("simple", "prepared", "extended")  # of pgbench; what it says to --protocol
LATENCY_MODES: Final = ("simple", "prepared")


def cpu_name(mode: str, clients: int) -> str:
    """The name of the gateway's processor time a query by pgbouncer's."""
    return f"cpu_{mode}_{clients}"


def latency_name(mode: str) -> str:
    """The name of what the gateway adds to the latency by what pgbouncer adds."""
    return f"latency_{mode}_{LATENCY_CLIENTS}"


BARS: Final = (
    *(
        Bar(name=cpu_name(mode, clients), target=1.25, at_least=False)
        for mode in ("simple", "prepared")
        for clients in CLIENTS
    ),
    Bar(name=latency_name("simple"), target=1.5, at_least=False),
    Bar(name="routing_us", target=5, at_least=False),
    Bar(name="stale_reads", target=0, at_least=False),
    Bar(name="failover_connections_lost", target=0, at_least=False),
    Bar(name="failover_failed_statements", target=0, at_least=False),
    Bar(name="failover_states_lost", target=0, at_least=False),
    Bar(name="failover_worst_answer_s", target=1.5, at_least=False),
    Bar(name="idle_memory_mb", target=150, at_least=False),
    Bar(name="connects_per_min", target=10_000, at_least=True),
)
