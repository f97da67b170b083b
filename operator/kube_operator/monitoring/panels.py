"""The panels of the Grafana dashboards: what is drawn of each component.

Each metric named here is one that a component has; a test asks the components. In queries `@`
stands for the chosen cluster, and `~` for Grafana's rate interval.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    queries: dict[str, str]
    """PromQL by legend."""
    text: str


LOG: Final = (
    Panel(
        "Leaders",
        "none",
        {"{{pod}}, {{branch}}": "seawall_log_is_leader{@} == 1"},
        "Whose node leads a branch, and knows all that is committed.",
    ),
    Panel(
        "Terms and epochs",
        "none",
        {
            "term, {{branch}}": "max by (branch) (seawall_log_term{@})",
            "epoch, {{branch}}": "max by (branch) (seawall_log_epoch{@})",
        },
        "Each election of a leader begins another term, each new primary another epoch.",
    ),
    Panel(
        "WAL committed",
        "Bps",
        {"{{branch}}": "max by (branch) (rate(seawall_log_committed_position_bytes{@}[~]))"},
        "On the disks of a majority: what primaries write.",
    ),
    Panel(
        "WAL that no majority has yet",
        "bytes",
        {"{{branch}}": "max by (branch) (seawall_log_uncommitted_bytes{@})"},
        "Commits wait for it.",
    ),
    Panel(
        "Followers behind",
        "bytes",
        {
            "{{follower}}, {{branch}}": "max by (follower, branch) "
            "(seawall_log_follower_lag_bytes{@})"
        },
        "As the leader knows it.",
    ),
    Panel(
        "Followers that answer",
        "none",
        {"{{follower}}, {{branch}}": "max by (follower, branch) (seawall_log_follower_active{@})"},
        "1 while the leader hears from a follower.",
    ),
    Panel(
        "WAL kept",
        "bytes",
        {
            "{{pod}}, {{branch}}": "seawall_log_committed_position_bytes{@} - "
            "seawall_log_start_position_bytes{@}"
        },
        "What is archived, and older than the oldest cut that anyone needs, is trimmed.",
    ),
    Panel(
        "WAL that is not archived",
        "bytes",
        {"{{branch}}": "max by (branch) (seawall_log_archive_lag_bytes{@})"},
        "Of a cluster with an object store. WAL goes there in segments of 16 MiB.",
    ),
    Panel(
        "Readers of WAL",
        "none",
        {"{{pod}}": "sum by (pod) (seawall_log_standbys{@})"},
        "Replicas and storage nodes.",
    ),
    Panel(
        "Trouble",
        "none",
        {
            "no leader known, {{pod}}": "seawall_log_has_leader{@} == bool 0",
            "primary not followed, {{branch}}": "max by (branch) (seawall_log_ingest_failing{@})",
            "archive, {{branch}}": "max by (branch) (seawall_log_archive_failing{@})",
            "disk full, {{pod}}": "max by (pod) (seawall_log_disk_full{@})",
            "disk failed, {{pod}}": "seawall_log_disk_failed{@}",
        },
        "All of it is 0 in good times.",
    ),
)
STORAGE: Final = (
    Panel(
        "Age of the newest cut",
        "s",
        {"{{pod}}, {{branch}}": "seawall_storage_lag_seconds{@}"},
        "While there is WAL that is in no cut. Cuts follow checkpoints: every 10 s under load.",
    ),
    Panel(
        "WAL that is in no cut",
        "bytes",
        {"{{pod}}, {{branch}}": "seawall_storage_lag_bytes{@}"},
        "What the next compute has to replay.",
    ),
    Panel(
        "Where the time of cuts goes",
        "percentunit",
        {
            "{{branch}}, {{phase}}": "sum by (branch, phase) "
            "(rate(seawall_storage_cut_seconds_sum{@}[~]))"
        },
        "Replay by the redo engine, its restartpoint, and the page store. A sum of 1 is one core, "
        "or one disk, that is busy all the time.",
    ),
    Panel(
        "Cuts and pages stored",
        "ops",
        {
            "cuts, {{pod}}": "sum by (pod) (rate(seawall_storage_cut_seconds_count"
            '{phase="store",@}[~]))',
            "pages, {{pod}}": "sum by (pod) (rate(seawall_storage_pages_stored_total{@}[~]))",
        },
        "What primaries write, as pages.",
    ),
    Panel(
        "Pages served",
        "ops",
        {"{{pod}}": "rate(seawall_storage_pages_served_total{@}[~])"},
        "To computes, and to other storage nodes that heal.",
    ),
    Panel(
        "Bytes served",
        "Bps",
        {"{{pod}}": "rate(seawall_storage_bytes_served_total{@}[~])"},
        "The same as bytes.",
    ),
    Panel(
        "Page store on disk",
        "bytes",
        {
            "on disk, {{pod}}": "seawall_storage_size_bytes{@}",
            "newest cut, {{branch}}": "max by (branch) (seawall_storage_newest_cut_bytes{@})",
        },
        "Compressed and with its history; the newest cut as PostgreSQL would have it.",
    ),
    Panel(
        "Bytes on disk for each byte of the newest cuts",
        "none",
        {"{{pod}}": "seawall_storage_amplification{@}"},
        "Grows with retention, and with how much is written over.",
    ),
    Panel(
        "Cuts kept, and engines",
        "none",
        {
            "cuts, {{branch}}": "max by (branch) (seawall_storage_cuts{@})",
            "engines, {{pod}}": "sum by (pod) (seawall_storage_engines_running{@})",
        },
        "An engine of a branch that is idle is stopped.",
    ),
    Panel(
        "Trouble",
        "none",
        {
            "failing, {{pod}}": "max by (pod) (seawall_storage_failing{@})",
            "log out of reach, {{pod}}": "max by (pod) (seawall_storage_log_unreachable{@})",
            "damage met, {{pod}}": "seawall_storage_damage_met{@}",
            "damaged ranges, {{pod}}": "sum by (pod) "
            "(increase(seawall_storage_damaged_ranges_total{@}[~]))",
            "healed ranges, {{pod}}": "sum by (pod) "
            "(increase(seawall_storage_healed_ranges_total{@}[~]))",
            "damaged ranges asked for, {{pod}}": "increase("
            "seawall_storage_damaged_ranges_served_total{@}[~])",
        },
        "All of it is 0 in good times. Damage is healed from other storage nodes.",
    ),
)
COMPUTES: Final = (
    Panel(
        "What computes are",
        "none",
        {"{{pod}}: {{state}}": "seawall_compute_state{@} == 1"},
        "One primary, the others replicas.",
    ),
    Panel(
        "Ready",
        "none",
        {"{{pod}}": "seawall_compute_ready{@}"},
        "1 while PostgreSQL answers.",
    ),
    Panel(
        "Behind the log",
        "bytes",
        {
            "{{pod}}": "scalar(max(seawall_log_committed_position_bytes{@})) - "
            "seawall_compute_replayed_position_bytes{@}"
        },
        "WAL that is committed and not replayed: how old the answers of a replica are.",
    ),
    Panel(
        "Received and not replayed",
        "bytes",
        {"{{pod}}": "seawall_compute_replay_lag_bytes{@}"},
        "A replica that is slow, or held up by a statement, not by the network.",
    ),
    Panel(
        "Faults",
        "ops",
        {
            "{{pod}}": "rate(seawall_pagefault_faults_total{@}[~])",
            "prefetches, {{pod}}": "rate(seawall_pagefault_prefetches_total{@}[~])",
        },
        "How often PostgreSQL waited for pages that its disk did not have, or asked ahead.",
    ),
    Panel(
        "How long a fault takes",
        "µs",
        {
            "{{pod}}": "rate(seawall_pagefault_fault_us_total{@}[~]) / "
            "rate(seawall_pagefault_faults_total{@}[~])"
        },
        "On average.",
    ),
    Panel(
        "Blocks fetched, and dropped",
        "ops",
        {
            "fetched, {{pod}}": "rate(seawall_broker_blocks_total{@}[~])",
            "dropped, {{pod}}": "rate(seawall_broker_dropped_total{@}[~])",
        },
        "As many dropped as fetched, for long: spec.compute.cacheSize is too small.",
    ),
    Panel(
        "Cache",
        "bytes",
        {
            "used, {{pod}}": "seawall_compute_cache_bytes{@}",
            "at most, {{pod}}": "seawall_compute_cache_max_bytes{@}",
        },
        "Of data files on the local disk.",
    ),
    Panel(
        "Blocks that storage still has",
        "none",
        {"{{pod}}": "seawall_pagefault_missing_blocks{@}"},
        "Falls as the cache fills, and rises when blocks are dropped.",
    ),
    Panel(
        "Trouble",
        "none",
        {
            "log out of reach, {{pod}}": "seawall_compute_log_unreachable{@}",
            "storage out of reach, {{pod}}": "seawall_compute_storage_unreachable{@}",
            "started again, {{pod}}": "increase(seawall_compute_lives_total{@}[~])",
            "pages not to be had, {{pod}}": "increase(seawall_broker_failed_total{@}[~])",
            "pages damaged, {{pod}}": "increase(seawall_broker_damaged_total{@}[~])",
        },
        "All of it is 0 in good times, but for starts.",
    ),
)
GATEWAY: Final = (
    Panel(
        "Clients",
        "none",
        {"{{pod}}": "sum by (pod) (seawall_gateway_clients{@})"},
        "Connections of clients.",
    ),
    Panel(
        "Logins and refusals",
        "ops",
        {
            "logins": "sum(rate(seawall_gateway_logins_total{@}[~]))",
            "refused": "sum(rate(seawall_gateway_clients_refused_total{@}[~]))",
        },
        "Refused are those above spec.gateway.clientsMax.",
    ),
    Panel(
        "Connections to servers",
        "none",
        {"{{server}}, {{state}}": "sum by (server, state) (seawall_gateway_links{@})"},
        "Of all gateways together; each has at most spec.gateway.serverConnectionsMax to a server.",
    ),
    Panel(
        "Clients that wait for a connection",
        "none",
        {"{{database}}, {{server}}": "sum by (database, server) (seawall_gateway_waiting{@})"},
        "During a failover, or because all connections are in use.",
    ),
    Panel(
        "Reads on replicas",
        "ops",
        {
            "on replicas": "sum(rate(seawall_gateway_reads_on_replicas_total{@}[~]))",
            "of these, asked again": "sum(rate(seawall_gateway_reads_sent_again_total{@}[~]))",
        },
        "Those that are asked again cost twice: the replica could not answer them.",
    ),
    Panel(
        "Failovers as clients see them",
        "none",
        {
            "asked again": "sum(increase(seawall_gateway_statements_sent_again_total{@}[~]))",
            "transactions lost": "sum(increase(seawall_gateway_transactions_lost_total{@}[~]))",
            "outcomes unknown": "sum(increase(seawall_gateway_outcomes_unknown_total{@}[~]))",
        },
        "Asked again: nobody noticed. Lost: the client got 40001. Unknown: it got 08007.",
    ),
    Panel(
        "Servers known",
        "none",
        {
            "primary, {{pod}}": "seawall_gateway_has_primary{@}",
            "replicas, {{pod}}": "seawall_gateway_replicas{@}",
        },
        "As each gateway knows the cluster.",
    ),
    Panel(
        "Workers that answer",
        "none",
        {"{{pod}}": "sum by (pod) (seawall_gateway_worker_up{@})"},
        "Of spec.gateway.workers.",
    ),
)
OPERATOR: Final = (
    Panel(
        "Leader",
        "none",
        {"{{pod}}": "seawall_operator_leader"},
        "1 for the operator that leads; the others wait.",
    ),
    Panel(
        "Looks at clusters",
        "ops",
        {"{{result}}": "sum by (result) (rate(seawall_operator_reconciles_total[~]))"},
        "By how they ended: done, or a kind of error.",
    ),
    Panel(
        "How long a look takes",
        "s",
        {
            "median": "histogram_quantile(0.5, sum by (le) "
            "(rate(seawall_operator_reconcile_seconds_bucket[~])))",
            "99 of 100": "histogram_quantile(0.99, sum by (le) "
            "(rate(seawall_operator_reconcile_seconds_bucket[~])))",
        },
        "A look asks nodes how they are, and writes to the API.",
    ),
    Panel(
        "Writes to the Kubernetes API",
        "ops",
        {
            "{{verb}} {{kind}}": "sum by (verb, kind) (rate(seawall_operator_api_writes_total[~]))",
            "failed: {{error}}": "sum by (error) (rate(seawall_operator_api_errors_total[~]))",
        },
        "A cluster that nothing happens to costs none but the Lease's.",
    ),
    Panel(
        "Watches begun again",
        "ops",
        {
            "{{kind}}, {{reason}}": "sum by (kind, reason) "
            "(rate(seawall_operator_watch_restarts_total[~]))"
        },
        "`end` is how they are meant to end.",
    ),
    Panel(
        "Clusters",
        "none",
        {
            "known, {{pod}}": "seawall_operator_clusters",
            "due, {{pod}}": "seawall_operator_queue_depth",
            "looked at, {{pod}}": "seawall_operator_in_flight",
        },
        "Those that are due wait for a worker.",
    ),
    Panel(
        "Events dropped",
        "ops",
        {"{{pod}}": "rate(seawall_operator_events_dropped_total[~])"},
        "Too many at once, or the API did not take them.",
    ),
)
DASHBOARDS: Final = {
    "log": ("Seawall: log", LOG),
    "storage": ("Seawall: storage nodes", STORAGE),
    "computes": ("Seawall: computes", COMPUTES),
    "gateway": ("Seawall: gateway", GATEWAY),
    "operator": ("Seawall: operator", OPERATOR),
}
