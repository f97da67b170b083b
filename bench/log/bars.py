"""What the log promises. Pure."""

from typing import Final

from bench.pagefault.report import Bar

CLIENTS: Final = (1, 8, 32)

BARS: Final = (
    Bar(name="tps_ratio_1_client", target=1.0, at_least=True),
    Bar(name="tps_ratio_8_clients", target=1.25, at_least=True),
    Bar(name="tps_ratio_32_clients", target=1.25, at_least=True),
    Bar(name="wal_bytes_ratio", target=0.4, at_least=False),
    Bar(name="commit_latency_ratio", target=1.5, at_least=False),
    Bar(name="copy_p99_over_idle_p50", target=10.0, at_least=False),
    Bar(name="copy_longest_stall_s", target=1.0, at_least=False),
    Bar(name="election_ms", target=500, at_least=False),
    Bar(name="ingest_resumed_s", target=1.0, at_least=False),
    Bar(name="errors_when_a_follower_dies", target=0, at_least=False),
    Bar(name="node_memory_mib", target=200, at_least=False),
    Bar(name="restart_with_1gb_s", target=2.0, at_least=False),
)


def tps_ratio_name(clients: int) -> str:
    """The name of the bar for so many clients."""
    return f"tps_ratio_{clients}_client{'' if clients == 1 else 's'}"
