"""What `seawall status` prints: JSON for programs, a few lines for people. Pure."""

import msgspec

from fabric.lsn import Lsn

from .snapshot import ComputeStatus, GatewayStatus, LogStatus, Snapshot, StorageStatus

KIB = 1024


def json_text(snapshot: Snapshot) -> str:
    """Return everything; positions as PostgreSQL writes them."""
    return msgspec.json.format(msgspec.json.encode(snapshot, enc_hook=_plain), indent=2).decode()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, (Lsn, str)) else int(str(value))


def rows_of(snapshot: Snapshot) -> list[tuple[str, str, str, str, str]]:
    """Return a line for each node: name, state, port, pid, and what else there is to say."""
    rows = [_compute_row(one) for one in snapshot.computes]
    rows += [_log_row(one) for one in snapshot.log]
    rows += [_storage_row(one) for one in snapshot.storage]
    rows += [_gateway_row(one) for one in snapshot.gateways]
    return rows


def _compute_row(one: ComputeStatus) -> tuple[str, str, str, str, str]:
    at = "" if one.replay_lsn is None else f"at {one.replay_lsn}"
    return (one.name, one.state, str(one.port), _pid(one.pid), _joined(at, one.complaint))


def _log_row(one: LogStatus) -> tuple[str, str, str, str, str]:
    at = "" if one.commit_lsn is None else f"committed {one.commit_lsn}, term {one.term}"
    return (one.name, one.role, str(one.port), _pid(one.pid), _joined(at, one.complaint))


def _storage_row(one: StorageStatus) -> tuple[str, str, str, str, str]:
    at = ""
    if one.newest_cut is not None:
        at = f"cut {one.newest_cut.seq} at {one.newest_cut.lsn}"
    if one.lag_bytes:
        at += f", {one.lag_bytes // KIB:,} KiB behind"
    return (one.name, one.state, str(one.port), _pid(one.pid), _joined(at, one.complaint))


def _gateway_row(one: GatewayStatus) -> tuple[str, str, str, str, str]:
    return (one.name, one.state, str(one.port), _pid(one.pid), one.complaint)


def _pid(pid: int | None) -> str:
    return "" if pid is None else str(pid)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def headline(snapshot: Snapshot) -> str:
    """Return how the whole is, in one line."""
    name = f"cluster {snapshot.cluster}, branch {snapshot.branch}"
    if all(one.pid is None for one in snapshot.log):
        return f"{name}: down"
    if snapshot.epoch is None:
        return f"{name}: NO QUORUM of the log"
    if snapshot.primary is None:
        return f"{name}: NO PRIMARY (epoch {snapshot.epoch})"
    return f"{name}: primary {snapshot.primary} (epoch {snapshot.epoch})"


def table(snapshot: Snapshot) -> str:
    """Return the lines, in columns, with the URL for clients."""
    rows = [("NODE", "STATE", "PORT", "PID", ""), *rows_of(snapshot)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(row[n].ljust(widths[n]) for n in range(4)), row[4]]).rstrip() for row in rows
    ]
    watched = snapshot.supervisor_pid
    supervisor = (
        f"supervisor: process {watched}"
        if watched is not None
        else "supervisor: none, so nothing is started again: run `seawall up`"
    )
    is_down = all(one.pid is None for one in snapshot.log)
    gateway = [] if snapshot.urls.gateway is None else [f"gateway:  {snapshot.urls.gateway}"]
    return "\n".join(
        [headline(snapshot), *([] if is_down else [supervisor]), "", *lines, "", *gateway,
         f"primary:  {snapshot.urls.primary}", f"replicas: {snapshot.urls.replicas}"]
    )  # fmt: skip
