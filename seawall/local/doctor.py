"""What is wrong with a local cluster, and what to do about it. Pure: findings from a snapshot."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .cluster_file import ClusterFile
from .snapshot import NO_ANSWER, NOT_RUNNING, Snapshot

MIB: Final = 1024 * 1024
DISK_LOW_BYTES: Final = 512 * MIB
DISK_LOW_FRACTION: Final = 0.02
LAG_BYTES_MAX: Final = 256 * MIB  # of storage: the tail that a new compute replays
REPLICA_LAG_BYTES_MAX: Final = 64 * MIB
CERTIFICATE_DAYS_MIN: Final = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.advice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the machine has left, and the certificates."""

    disk_free_bytes: int
    disk_total_bytes: int
    certificate_days: Mapping[str, int]
    last_words: Mapping[str, str]  # of nodes that do not run


def findings(snapshot: Snapshot, cluster: ClusterFile, machine: Machine) -> list[Finding]:
    """Return everything that is wrong, the worst first; nothing: all is well."""
    pids = [
        *(one.agent_pid for one in snapshot.computes),
        *(one.pid for one in snapshot.log),
        *(one.pid for one in snapshot.storage),
        *(one.pid for one in snapshot.gateways),
    ]
    if not any(pids):
        return [Finding("the cluster is down", "start it with `seawall up`")]
    return [
        *_of_the_whole(snapshot, cluster),
        *_of_processes(snapshot, machine),
        *_of_lag(snapshot),
        *_of_the_machine(machine),
    ]


def _of_the_whole(snapshot: Snapshot, cluster: ClusterFile) -> Iterator[Finding]:
    answering = sum(one.term is not None for one in snapshot.log)
    needed = len(cluster.log) // 2 + 1
    if answering < needed:
        yield Finding(
            f"the log has no quorum: {answering} of {len(cluster.log)} nodes answer, {needed} are "
            "needed, and no commit returns",
            "start the missing nodes with `seawall up`",
        )
    elif snapshot.epoch is None:
        yield Finding("the log has no leader", "wait a second; if it stays so, see `seawall logs`")
    elif snapshot.primary is None:
        yield Finding(
            "there is no primary, so nobody can write",
            "wait a few seconds for an election; if it stays so, see the computes below",
        )
    elif not snapshot.is_streaming:
        yield Finding(
            f"the log gets no WAL from {snapshot.primary}, so no commit returns",
            f"see `seawall logs {snapshot.primary}`, or run `seawall failover`",
        )
    if snapshot.supervisor_pid is None:
        yield Finding(
            "no supervisor runs, so nothing that ends is started again",
            "run `seawall up`; it takes over what runs",
        )


def _of_processes(snapshot: Snapshot, machine: Machine) -> Iterator[Finding]:
    states = [
        *((one.name, one.state, one.complaint) for one in snapshot.computes),
        *((one.name, one.role, one.complaint) for one in snapshot.log),
        *((one.name, one.state, one.complaint) for one in snapshot.storage),
        *((one.name, one.state, one.complaint) for one in snapshot.gateways),
    ]
    for name, state, complaint in states:
        if state == NOT_RUNNING:
            words = machine.last_words.get(name, "")
            said = f" (its log ends: {words})" if words else ""
            yield Finding(f"{name} does not run{said}", "`seawall up` starts it again")
        elif state == NO_ANSWER:
            yield Finding(
                f"{name} runs but does not answer ({complaint})", f"try `seawall restart {name}`"
            )
        elif state == "down":
            yield Finding(
                f"PostgreSQL of {name} is down ({complaint or 'it builds itself anew'})",
                f"wait a moment; if it stays so, see `seawall logs {name}`",
            )
        elif complaint:
            yield Finding(f"{name} complains: {complaint}", f"see `seawall logs {name}`")


def _of_lag(snapshot: Snapshot) -> Iterator[Finding]:
    for store in snapshot.storage:
        if store.lag_bytes is not None and store.lag_bytes > LAG_BYTES_MAX:
            yield Finding(
                f"{store.name} is {store.lag_bytes // MIB} MiB of WAL behind",
                "new computes start slowly until it has caught up; a machine with more CPU helps",
            )
    ends = [one.commit_lsn for one in snapshot.log if one.commit_lsn is not None]
    for compute in snapshot.computes:
        if compute.role == "replica" and ends and compute.replay_lsn is not None:
            lag_bytes = max(ends) - compute.replay_lsn
            if lag_bytes > REPLICA_LAG_BYTES_MAX:
                yield Finding(
                    f"{compute.name} is {lag_bytes // MIB} MiB of WAL behind",
                    "its reads are old; end long queries there, or give the machine more CPU",
                )


def _of_the_machine(machine: Machine) -> Iterator[Finding]:
    free, total = machine.disk_free_bytes, machine.disk_total_bytes
    if free < max(DISK_LOW_BYTES, total * DISK_LOW_FRACTION):
        yield Finding(
            f"the disk is nearly full: {free // MIB} MiB are free",
            "free some space: commits stop when the log cannot write",
        )
    for name, days in sorted(machine.certificate_days.items(), key=lambda item: item[1]):
        if days < CERTIFICATE_DAYS_MIN:
            when = "has expired" if days < 0 else f"expires in {days} days"
            yield Finding(
                f"the certificate of {name} {when}",
                "restart with `seawall down` and `seawall up`, which renews it",
            )
