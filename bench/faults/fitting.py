"""Fit a local cluster out for faults of networks and disks, and give lost nodes a new beginning.

    async with fitted(LocalCluster(directory)) as fittings:
        ... fittings.links, fittings.disks, fittings.directories, fittings.rebuilder

A cluster of `seawall up` knows one port for each node, on loopback. Here every node is stopped
once, as by a crash, and comes back listening somewhere else, while a proxy stands at the port that
it is known by; and what it keeps is moved to a small disk of its own. The supervisor sleeps
meanwhile. It never rewrites the settings of a node that it starts again, so they hold until the
cluster is stopped; the next `seawall up` writes its own.
"""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bench.node_process import HOST, free_ports, toml_text
from bench.proxy import Proxies, proxies
from bench.storage.processes import all_processes, descendants

from . import disks as small_disks
from .cluster_target import BETWEEN, ClusterTarget, LocalCluster, Status
from .disks import SmallDisk
from .network import EVERYBODY, Network, Owner, pairs_that_talk
from .rebuilding import Rebuilder
from .socket_owner import OUTSIDE, Outsiders, SocketOwner
from .target import Disk, Link, TargetError

GONE_DEADLINE_S: Final = 10.0
PREFERRED: Final = -10  # as nice has it
# A segment that is made full in seconds: three of them are preallocated, and room is what runs out.
LOG_SEGMENT_BYTES: Final = 1 << 20
LOG_MEMBERS_MIN: Final = 3  # of fewer none may be lost


class LogPorts(msgspec.Struct, frozen=True):
    """Where a log node is known to listen."""

    rpc: int
    pg: int


class ClusterFile(msgspec.Struct, frozen=True):
    """What is used of cluster.json."""

    cluster: str
    branch: str
    log: dict[str, LogPorts]
    storage: dict[str, int]
    computes: dict[str, int]
    run_root: str | None = None


@dataclass(slots=True)
class Fittings:
    """What can be done to the cluster besides signals."""

    links: dict[str, Link] = field(default_factory=dict)
    disks: dict[str, Disk] = field(default_factory=dict)
    directories: dict[str, Path] = field(default_factory=dict)
    rebuilder: Rebuilder | None = None
    lacks: str = ""  # what could not be had here, for people

    async def target(self, cluster: LocalCluster) -> ClusterTarget:
        """Return the cluster as what is broken, with all that is here."""
        return ClusterTarget(
            cluster,
            (await cluster.status()).urls.primary,
            links=self.links,
            disks=self.disks,
            directories=self.directories,
            rebuilding=self.rebuilder,
        )


@contextlib.asynccontextmanager
async def fitted(cluster: LocalCluster, *, keep: bool) -> AsyncIterator[Fittings]:
    """Fit a running cluster out; `keep`: its data is to be there when it is stopped.

    Leaves when the cluster has been stopped, by the caller or here.
    """
    file = msgspec.json.decode((cluster.directory / "cluster.json").read_bytes(), type=ClusterFile)
    nodes = {
        name: cluster.directory / "nodes" / name
        for name in (*file.log, *file.storage, *file.computes)
    }
    found = Fittings()
    mounted: list[SmallDisk] = []
    with proxies() as world, _preferred(world):
        try:
            async with _at_rest(await cluster.status()):
                _give_network(world, file, nodes, found)  # first: a port that is free is anybody's
                found.lacks = _give_disks(cluster.directory, file, nodes, mounted, found)
            found.directories = _deletable(cluster.directory, file)
            found.rebuilder = Rebuilder(
                cluster.directory,
                cluster=file.cluster,
                branch=file.branch,
                log={name: (ports.rpc, ports.pg) for name, ports in file.log.items()},
                storage=file.storage,
            )
            yield found
        finally:
            try:
                await cluster.command("down")
            finally:
                for disk in mounted:
                    disk.unmount(keep=keep)


@contextlib.contextmanager
def _preferred(world: Proxies) -> Iterator[None]:
    """Have the network not wait for the processor, if that is allowed: all nodes go through it, so
    on a busy machine it would break by itself, and nobody planned that. Clients share its process.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        world.set_priority(PREFERRED)
        os.setpriority(os.PRIO_PROCESS, 0, PREFERRED)
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.asynccontextmanager
async def _at_rest(status: Status) -> AsyncIterator[None]:
    """While this lasts no node runs, and nobody starts one."""
    if status.supervisor_pid is None:
        raise TargetError("the cluster has no supervisor: start it with `seawall up`")
    supervisor = os.pidfd_open(status.supervisor_pid)
    try:
        signal.pidfd_send_signal(supervisor, signal.SIGSTOP)
        await _kill_nodes(status)
        yield
    finally:
        signal.pidfd_send_signal(supervisor, signal.SIGCONT)
        os.close(supervisor)


async def _kill_nodes(status: Status) -> None:
    roots = [one.agent_pid for one in status.computes]
    roots += [one.pid for one in status.log] + [one.pid for one in status.storage]
    processes = all_processes()
    ends = []
    for root in roots:
        if root is not None:
            for pid in (root, *(one.pid for one in descendants(root, processes))):
                with contextlib.suppress(ProcessLookupError):
                    ends.append(os.pidfd_open(pid))
    for descriptor in ends:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    async with asyncio.timeout(GONE_DEADLINE_S):
        for descriptor in ends:
            await _ended(descriptor)
            os.close(descriptor)


async def _ended(descriptor: int) -> None:
    """Until a process has ended: its pidfd can be read then."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)


# --- Networks -------------------------------------------------------------------------------------


def _give_network(
    world: Proxies, file: ClusterFile, nodes: Mapping[str, Path], found: Fittings
) -> None:
    files = {name: node / "process" for name, node in nodes.items()}
    # Nodes call each other; postgres reads WAL; to a compute only clients connect.
    callers = SocketOwner(files)
    readers = SocketOwner({name: files[name] for name in file.computes}, below=True)
    network = Network(world)
    rng = random.Random(secrets.randbits(64))  # noqa: S311  # where to look for free ports
    for name, node in nodes.items():
        settings = tomllib.loads((node / "node.toml").read_text(encoding="utf-8"))
        for listen in ("rpc_listen", "pg_listen"):
            if listen in settings:
                public = int(str(settings[listen]).rpartition(":")[2])
                (hidden,) = free_ports(1, rng)
                settings |= elsewhere(name, listen, public=public, hidden=hidden)
                owner: Owner = callers if listen == "rpc_listen" else readers
                if name in file.computes:
                    owner = Outsiders()
                network.listen(name, owner, public=public, hidden=hidden)
        if name in file.log:
            settings["group"]["segment_bytes"] = LOG_SEGMENT_BYTES
        with (node / "node.toml").open("w", encoding="utf-8") as out:  # the owner stays
            out.write(toml_text(settings))
    for name in nodes:
        found.links[name] = network.between(name, EVERYBODY)
    for one, other in pairs_that_talk(file.log, file.storage, file.computes, outside=OUTSIDE):
        found.links[one + BETWEEN + other] = network.between(one, other)


def elsewhere(name: str, listen: str, *, public: int, hidden: int) -> dict[str, object]:
    """The settings of a node that listens at one port and is known by another. Pure."""
    found: dict[str, object] = {listen: f"tcp://{HOST}:{hidden}"}
    if name.startswith("log"):
        found[listen.replace("listen", "advertise")] = f"tcp://{HOST}:{public}"
    elif name.startswith("compute"):
        found["pg_advertise"] = f"{HOST}:{public}"
    return found  # of a storage node the others are told by settings of theirs


# --- Disks ----------------------------------------------------------------------------------------


def _give_disks(
    directory: Path,
    file: ClusterFile,
    nodes: Mapping[str, Path],
    mounted: list[SmallDisk],
    found: Fittings,
) -> str:
    """Move what nodes keep to disks of their own; why not, if it cannot be done here."""
    lacks = small_disks.obstacle()
    if lacks:
        return f"no full disks: {lacks}"
    for name in nodes:
        path = kept_at(directory, file, name)
        if name in file.computes:
            _empty(path)  # a cache, which is not worth copying
        try:
            disk = SmallDisk.mounted(path)
        except TargetError as error:
            return f"no full disks: {error}"
        mounted.append(disk)
        found.disks[name] = disk
    return ""


def kept_at(directory: Path, file: ClusterFile, name: str) -> Path:
    """Where a node has what fills its disk."""
    if name not in file.computes:
        return directory / "nodes" / name / "data"
    if file.run_root is not None:
        return Path(file.run_root) / name
    return directory / "nodes" / name / "run"


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _deletable(directory: Path, file: ClusterFile) -> dict[str, Path]:
    """Directories of which one at a time may be lost, because others have the same."""
    names: list[str] = []
    if len(file.log) >= LOG_MEMBERS_MIN:
        names += file.log
    if len(file.storage) > 1:
        names += file.storage
    return {name: kept_at(directory, file, name) for name in names}
