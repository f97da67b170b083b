"""What commands do to a cluster that runs: write what is wanted, signal, and wait until it is so.

There is no connection to the supervisor: what is wanted is in cluster.json, and what is the case is
in the locks of the processes. So every command works the same when the supervisor was killed, and
whoever dies in between leaves nothing half-done (docs/adr/0020).
"""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from fabric.ids import NodeName
from fabric.rpc_errors import RpcError
from fabric.tls import IdentityError
from log_service.compute_methods import ComputeState
from sqlnode.datadir import ComputeDir
from sqlnode.privileges import choose_identity
from sqlnode.processes import ends_within_blocking

from .bring_up import next_progress
from .calls import Nodes
from .cluster_file import ClusterError, ClusterFile, load, require_owner, save
from .layout import Layout
from .node_files import all_names, kind_of, names_of, run_dir
from .plan import STOP_MS, Rank
from .processes import Running, find_running, has_said, running_pid, take_lock
from .scale import require_computes, require_supervisor

DOWN_S: Final = 120.0  # five ranks of STOP_MS, and some time
READY_S: Final = 60.0
LOOK_S: Final = 0.05
SWITCH_MS: Final = 20_000
SAVED_S: Final = 2.0  # what ALTER SYSTEM has just set is in the log by then, for new replicas


# --- Down and away --------------------------------------------------------------------------------


def down(layout: Layout) -> None:
    """Stop everything, in order; ClusterError if nothing runs."""
    require_owner(layout)
    cluster = load(layout)
    supervisor = find_running(layout.lock)
    if supervisor is not None:
        _stop(supervisor, f"the supervisor (process {supervisor.process.pid})")
        return
    if not any(running_pid(layout.node(name).lock) for name in all_names(cluster)):
        raise ClusterError(f"nothing runs in {layout.top}: `seawall up` starts it")
    lock = take_lock(layout.lock)
    if lock is None:
        raise ClusterError("a supervisor has just begun: run the command again")
    try:
        _stop_nodes(layout, cluster)
    finally:
        os.close(lock)


def _stop(running: Running, what: str) -> None:
    running.send(signal.SIGTERM)
    if not ends_within_blocking(running.pidfd, DOWN_S):
        raise ClusterError(f"{what} does not stop: end it by hand, then run the command again")
    os.close(running.pidfd)


def _stop_nodes(layout: Layout, cluster: ClusterFile) -> None:
    """Stop nodes that have no supervisor, those first that need others."""
    primary = asyncio.run(_holder(layout, cluster))
    computes = list(cluster.computes)
    groups = {
        Rank.GATEWAY: list(cluster.gateways),
        Rank.REPLICA: [name for name in computes if name != primary],
        Rank.PRIMARY: [name for name in computes if name == primary],
        Rank.STORAGE: list(cluster.storage),
        Rank.LOG: list(cluster.log),
    }
    for rank in Rank:
        found = [find_running(layout.node(name).lock) for name in groups[rank]]
        running = [one for one in found if one is not None]
        for one in running:
            one.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_MS / 1000
        for one in running:
            if not ends_within_blocking(one.pidfd, max(0.0, deadline - time.monotonic())):
                one.send(signal.SIGKILL)
                ends_within_blocking(one.pidfd, DOWN_S)
            os.close(one.pidfd)


async def _holder(layout: Layout, cluster: ClusterFile) -> str | None:
    try:
        async with Nodes(layout, cluster).log() as log:
            topology = await log.topology(cluster.branch, timeout_ms=500)
    except (IdentityError, OSError, RpcError):
        return None
    return None if topology.holder is None else str(topology.holder.name)


def destroy(layout: Layout) -> None:
    """Stop everything and delete it all."""
    require_owner(layout)
    cluster = load(layout)
    try:
        down(layout)
    except ClusterError:
        if is_running(layout, cluster):
            raise
    lock = take_lock(layout.lock)
    if lock is None:
        raise ClusterError("a supervisor has just begun: run the command again")
    try:
        if cluster.run_root is not None:
            _remove_run_root(Path(cluster.run_root))
        # cluster.json last: until then whoever is interrupted can run the command again.
        for path in (layout.nodes, layout.objects, layout.secrets, layout.authority):
            shutil.rmtree(path, ignore_errors=True)
        layout.supervisor_log.unlink(missing_ok=True)
        layout.cluster_file.unlink()
        layout.lock.unlink()
        if not any(layout.top.iterdir()):
            layout.top.rmdir()
    finally:
        os.close(lock)


def is_running(layout: Layout, cluster: ClusterFile) -> bool:
    """Whether the supervisor or any node runs."""
    locks = [layout.lock, *(layout.node(name).lock for name in all_names(cluster))]
    return any(running_pid(lock) is not None for lock in locks)


def _remove_run_root(path: Path) -> None:
    """Delete what is ours alone: its parent is everybody's."""
    if path.is_symlink() or not path.is_dir():
        return
    if path.stat().st_uid in {os.geteuid(), choose_identity().uid}:
        shutil.rmtree(path, ignore_errors=True)


# --- Changes --------------------------------------------------------------------------------------


def order_fewer(layout: Layout, computes: int) -> None:
    """Have fewer computes; done when the others are gone."""
    require_computes(computes)
    cluster = load(layout)
    leaving = cluster.compute_names()[computes:]
    asyncio.run(_step_aside(layout, cluster, leaving))
    changed = replace(cluster, computes_wanted=computes)
    save(layout, changed)
    supervisor = require_supervisor(layout)
    supervisor.send(signal.SIGHUP)
    os.close(supervisor.pidfd)
    _wait_until(lambda: not _running(layout, leaving), f"the end of {', '.join(leaving)}")
    for name in leaving:
        left = ComputeDir(run_dir(layout, cluster, name))
        if left.data.exists():  # it was killed; who ends in order leaves empty files
            shutil.rmtree(left.root, ignore_errors=True)


def wait_complete(layout: Layout) -> None:
    """Wait until there is a primary whose commits return, and every replica answers."""
    asyncio.run(_all_there(layout, load(layout)))


async def _step_aside(layout: Layout, cluster: ClusterFile, leaving: Iterable[str]) -> None:
    """Give the lead to a compute that stays."""
    names = set(leaving)
    try:
        async with Nodes(layout, cluster).log() as log:
            answer = await log.computes(cluster.branch)
            holder = answer.topology.holder
            if holder is None or holder.name not in names:
                return
            able = [
                info
                for info in answer.computes
                if info.state is ComputeState.REPLICA and info.can_lead and info.name not in names
            ]
            if not able:
                raise ClusterError(
                    f"{holder.name} is the primary and no compute that stays can follow it: wait "
                    "until there is a replica, see `seawall status`"
                )
            best = max(able, key=lambda info: (info.received, info.replayed))
            await log.switchover(cluster.branch, best.name, timeout_ms=SWITCH_MS)
    except RpcError as error:
        raise ClusterError(f"the lead could not be handed over: {error}") from error


async def _all_there(layout: Layout, cluster: ClusterFile) -> None:
    try:
        async with asyncio.timeout(READY_S), Nodes(layout, cluster).log() as log:
            while True:
                progress = await next_progress(log, cluster)
                if progress is not None and progress.is_complete(len(cluster.compute_names())):
                    return
    except TimeoutError:
        raise ClusterError(
            f"the computes were not ready within {READY_S:g} s: see `seawall doctor`"
        ) from None


def require_running(layout: Layout, names: Iterable[str]) -> None:
    """Refuse what needs one of some nodes, if none of them runs."""
    if not any(running_pid(layout.node(name).lock) for name in names):
        raise ClusterError(f"the cluster in {layout.top} is down: start it with `seawall up`")


def switch(layout: Layout, to: str | None, *, by_force: bool) -> str:
    """Make another compute the primary; return which one is it."""
    require_owner(layout)
    cluster = load(layout)
    if to is not None and to not in cluster.compute_names():
        raise ClusterError(
            f"there is no compute {to!r}: choose one of {', '.join(cluster.compute_names())}"
        )
    require_running(layout, cluster.log)
    return asyncio.run(_switch(layout, cluster, to, by_force=by_force))


async def _switch(layout: Layout, cluster: ClusterFile, to: str | None, *, by_force: bool) -> str:
    try:
        async with Nodes(layout, cluster).log() as log:
            name = None if to is None else NodeName(to)
            granted = await log.switchover(
                cluster.branch, name, by_force=by_force, timeout_ms=SWITCH_MS
            )
            async with asyncio.timeout(READY_S):
                while True:
                    progress = await next_progress(log, cluster)
                    if progress is None or progress.primary is None:
                        continue
                    if progress.primary.epoch >= granted.epoch and progress.is_streaming:
                        return str(progress.primary.name)
    except RpcError as error:
        raise ClusterError(f"the primary was not changed: {error}") from error
    except TimeoutError:
        raise ClusterError(
            f"the new primary was not ready within {READY_S:g} s: see `seawall doctor`"
        ) from None


def restart(layout: Layout, names: Iterable[str], report: Callable[[str], None]) -> None:
    """Restart nodes one after the other, the primary last: the database goes on meanwhile."""
    require_owner(layout)
    cluster = load(layout)
    asked = tuple(names)
    unknown = [name for name in asked if name not in names_of(cluster)]
    if unknown:
        raise ClusterError(
            f"there is no node {unknown[0]!r}: choose one of {', '.join(names_of(cluster))}"
        )
    os.close(require_supervisor(layout).pidfd)
    time.sleep(SAVED_S)
    primary = asyncio.run(_holder(layout, cluster))
    for name in sorted(asked or names_of(cluster), key=lambda name: name == primary):
        report(name)
        _restart_one(layout, name)
        asyncio.run(_all_there(layout, cluster))


def _restart_one(layout: Layout, name: str) -> None:
    node = layout.node(name)
    old = find_running(node.lock)
    if old is not None:
        old.send(signal.SIGTERM)
        if not ends_within_blocking(old.pidfd, STOP_MS / 1000):
            old.send(signal.SIGKILL)
            ends_within_blocking(old.pidfd, STOP_MS / 1000)
        os.close(old.pidfd)
    event = kind_of(name).ready_event
    _wait_until(
        lambda: running_pid(node.lock) is not None and has_said(node.said, event),
        f"a new start of {name}",
    )


def _running(layout: Layout, names: Iterable[str]) -> list[str]:
    return [name for name in names if running_pid(layout.node(name).lock) is not None]


def _wait_until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_S
    while not look():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} was waited for in vain: see `seawall doctor`")
        time.sleep(LOOK_S)
