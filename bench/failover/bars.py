"""What a whole cluster promises to its clients."""

from typing import Final

from bench.pagefault.report import Bar

BARS: Final = (
    Bar(name="primary_killed_gap_s", target=0.6, at_least=False),
    Bar(name="primary_killed_worst_gap_s", target=1.2, at_least=False),
    # The lease of 1.8 s more: nobody says that the primary is gone.
    Bar(name="node_killed_gap_s", target=2.4, at_least=False),
    Bar(name="node_killed_worst_gap_s", target=3.0, at_least=False),
    Bar(name="node_paused_worst_gap_s", target=4.0, at_least=False),
    Bar(name="alone_killed_gap_s", target=2.0, at_least=False),
    Bar(name="switchover_gap_s", target=0.5, at_least=False),
    Bar(name="log_leader_killed_worst_gap_s", target=1.0, at_least=False),
    Bar(name="storage_killed_failed_statements", target=0, at_least=False),
    Bar(name="acknowledged_rows_lost", target=0, at_least=False),
    Bar(name="random_kills_violations", target=0, at_least=False),
    Bar(name="new_replica_s", target=1.0, at_least=False),
    Bar(name="new_replica_large_over_small", target=1.5, at_least=False),
    Bar(name="new_replica_storage_bytes", target=0, at_least=False),
    Bar(name="replica_lag_p99_ms", target=50, at_least=False),
    Bar(name="up_first_s", target=8, at_least=False),
    Bar(name="up_again_s", target=4, at_least=False),
    Bar(name="idle_core_percent", target=3, at_least=False),
    Bar(name="python_memory_mb", target=700, at_least=False),
    Bar(name="ha_tps_ratio_32_clients", target=0.9, at_least=True),
)
