"""A cluster of `seawall up`, seen from outside: by what its command line prints, and nothing else.

    cluster = LocalCluster(directory)
    await cluster.up("--ha")
    ... ClusterTarget(cluster, dsn=(await cluster.status()).urls.primary)
    await cluster.command("destroy", "--yes")

Whatever the nemesis kills is started again by the cluster's own supervisor.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from bench.node_process import node_environment

from .target import Component, Disk, Kind, Link, Role, TargetError

COMMAND_DEADLINE_S: Final = 120.0
QUOTED_CHARACTERS_MAX: Final = 500
NODE_MARK: Final = "seawall"
POSTGRES_MARK: Final = "postgres"
BETWEEN: Final = ">"  # in the name of a link of two; a link with the name of a node is all of its


class Compute(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a compute's status."""

    name: str
    role: str
    state: str
    pid: int | None = None
    agent_pid: int | None = None
    port: int = 0
    host: str = "127.0.0.1"
    complaint: str = ""


class LogNode(msgspec.Struct, frozen=True, kw_only=True):
    """Of a log node's."""

    name: str
    role: str
    pid: int | None = None


class StorageNode(msgspec.Struct, frozen=True, kw_only=True):
    """Of a storage node's."""

    name: str
    state: str
    pid: int | None = None
    lag_bytes: int | None = None


class Urls(msgspec.Struct, frozen=True, kw_only=True):
    """Connection strings."""

    primary: str
    replicas: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of `seawall status --json`."""

    computes: tuple[Compute, ...]
    log: tuple[LogNode, ...]
    storage: tuple[StorageNode, ...]
    urls: Urls
    primary: str | None = None
    epoch: int | None = None
    directory: str | None = None
    supervisor_pid: int | None = None


def what_is_missing(status: Status) -> str:
    """What keeps a cluster from being whole, for people; empty if nothing does."""
    found = []
    if status.primary is None:
        found.append("no primary")
    found += [
        f"{one.name} is {one.state}"
        for one in status.computes
        if one.role not in {"primary", "replica"} or one.pid is None
    ]
    if sum(one.role == "leader" for one in status.log) != 1:
        found.append("no leader of the log")
    found += [f"{one.name} is {one.role}" for one in status.log if one.pid is None]
    found += [f"{one.name} is {one.state}" for one in status.storage if one.pid is None]
    return ", ".join(found)


def components_of(status: Status) -> list[Component]:
    """What of a cluster can be hit now."""
    found: list[Component] = []
    for one in status.computes:
        role = Role.LEADING if one.role == "primary" else Role.FOLLOWING
        directory = _run_directory(status, one.name)
        if one.pid:
            found.append(Component(Kind.POSTGRES, one.name, role, (one.pid,), POSTGRES_MARK))
        if one.agent_pid:
            found.append(Component(Kind.AGENT, one.name, role, (one.agent_pid,), NODE_MARK))
            pids = (one.agent_pid, *((one.pid,) if one.pid else ()))
            found.append(Component(Kind.COMPUTE, one.name, role, pids, "", directory))
    for node in status.log:
        role = Role.LEADING if node.role == "leader" else Role.FOLLOWING
        if node.pid:
            found.append(Component(Kind.LOG, node.name, role, (node.pid,), NODE_MARK))
    found += [
        Component(Kind.STORAGE, store.name, Role.ANY, (store.pid,), NODE_MARK)
        for store in status.storage
        if store.pid
    ]
    return found


def with_fittings(
    found: Sequence[Component],
    links: Mapping[str, Link],
    disks: Mapping[str, Disk],
    *,
    directories: Mapping[str, Path],
) -> list[Component]:
    """Add links and disks: those of a node have the role of the node."""
    nodes = [one for one in found if one.kind in {Kind.LOG, Kind.STORAGE, Kind.COMPUTE}]
    roles = {node.name: node.role for node in nodes}
    return [
        *(
            replace(one, directory=directories[one.name])
            if one in nodes and one.name in directories
            else one
            for one in found
        ),
        *(
            Component(
                Kind.LINK if BETWEEN in name else Kind.NETWORK, name, roles.get(name, Role.ANY)
            )
            for name in links
        ),
        *(Component(Kind.DISK, name, roles.get(name, Role.ANY)) for name in disks),
    ]


def _run_directory(status: Status, name: str) -> Path | None:
    """Where a compute has its cache. Behind a link when the cluster's own path is too long."""
    if status.directory is None:
        return None
    run = Path(status.directory, "nodes", name, "run")
    return run.resolve() if run.exists() else None


class LocalCluster:
    """A directory, and the command line that is used on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def command(self, *arguments: str, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """Run `seawall ... --dir DIRECTORY`; what it prints. TargetError if it fails."""
        said, errors, status = await self._run(arguments, deadline_s)
        if status:
            raise TargetError(
                f"`seawall {' '.join(arguments)}` ended with {status}: "
                f"{(errors or said)[-QUOTED_CHARACTERS_MAX:].strip()}"
            )
        return said

    async def up(self, *options: str) -> None:
        """Start the cluster in the background; returns when it is ready."""
        await self.command("up", "--detach", *options)

    async def status(self) -> Status:
        """How it is now."""
        said, errors, _ = await self._run(("status", "--json"), COMMAND_DEADLINE_S)
        try:
            return msgspec.json.decode(said, type=Status)
        except msgspec.DecodeError as error:
            raise TargetError(
                f"`seawall status --json` cannot be read ({error}): "
                f"{errors[-QUOTED_CHARACTERS_MAX:].strip()}"
            ) from error

    async def _run(self, arguments: tuple[str, ...], deadline_s: float) -> tuple[str, str, int]:
        # Files and not pipes: what runs on in the background may hold a pipe open for ever.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "seawall", *arguments, "--dir", str(self.directory),
                env=_environment(), stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
            try:
                async with asyncio.timeout(deadline_s):
                    status = await process.wait()
            except TimeoutError:
                raise TargetError(
                    f"`seawall {' '.join(arguments)}` did not end within {deadline_s:g} s"
                ) from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    if process.returncode is None:
                        process.kill()
            return _text(out), _text(err), status


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    return {**node_environment(os.environ), "HOME": os.environ.get("HOME", "/")}


class Rebuilding(Protocol):
    """Gives nodes that lost their directories a new beginning."""

    async def log(self, name: str) -> None:
        """Of a log node."""

    async def storage(self, name: str) -> None:
        """Of a storage node."""


@dataclass(slots=True)
class ClusterTarget:
    """Such a cluster as a target. What it is fitted out with (`fitting.py`) can be hit, too."""

    cluster: LocalCluster
    dsn: str
    links: Mapping[str, Link] = field(default_factory=dict)
    disks: Mapping[str, Disk] = field(default_factory=dict)
    directories: Mapping[str, Path] = field(default_factory=dict)
    rebuilding: Rebuilding | None = None
    keeper_pid: int | None = None

    async def components(self) -> list[Component]:
        """By its status."""
        status = await self.cluster.status()
        self.keeper_pid = status.supervisor_pid
        return with_fittings(
            components_of(status), self.links, self.disks, directories=self.directories
        )

    async def rebuild(self, component: Component) -> None:
        """By calls to the nodes; a compute does it by itself."""
        if self.rebuilding is None:
            return
        if component.kind is Kind.LOG:
            await self.rebuilding.log(component.name)
        elif component.kind is Kind.STORAGE:
            await self.rebuilding.storage(component.name)

    async def missing(self) -> str:
        """By its status."""
        return what_is_missing(await self.cluster.status())
