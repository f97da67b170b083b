"""Seawall itself, as `seawall up` starts it on one machine.

Its computes get the buffers and connections of the comparison by ALTER SYSTEM and a start of the
whole cluster, which is how a user would do it. Checkpoints are asked for by a compute's agent, so
max_wal_size and checkpoint_timeout stay as every compute has them.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.failover.world import target_of
from bench.faults import target as faults_target
from bench.faults.cluster_target import Compute, LocalCluster, LogNode, Status
from bench.faults.nemesis import wait_whole
from bench.gateway.credentials import password_in
from bench.gateway.world import GatewayStatus
from bench.gateway.world import status_of as gateway_status_of
from bench.pagefault.workspace import Workspace

from . import even
from .programs import Stopped, end_all_in, kill_alone, kill_trees, roots_of
from .sessions import ask, takes_writes, wait_until_nothing_is_missing
from .target import Address, Blow, TargetError, TargetSettings

SMALL: Final = "seawall-small"
HA: Final = "seawall-ha"
POSTGRES_MARK: Final = "postgres"
NODE_MARK: Final = "seawall"
START_DEADLINE_SECONDS: Final = 120.0

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class SeawallTarget:
    """A local cluster; what it is now, its command line says."""

    name: str
    description: str
    facts: Mapping[str, object]
    cluster: LocalCluster
    front: Address
    _stopped: Stopped = field(default_factory=Stopped)

    def _status(self) -> Status:
        return _run(self.cluster.status())

    @property
    def direct(self) -> Address:
        """The primary's own port."""
        port = _primary_of(self._status()).port
        return even.address(port, self.front.password)

    @property
    def readers(self) -> Sequence[Address]:
        """The replicas' own ports."""
        return [
            even.address(one.port, self.front.password)
            for one in self._status().computes
            if one.role == "replica"
        ]

    @property
    def pids(self) -> Sequence[int]:
        """Of every node and of the supervisor."""
        status, gateways = self._status(), _run(gateway_status_of(self.cluster)).gateways
        found = [
            status.supervisor_pid,
            *(one.pid for one in status.log),
            *(one.pid for one in status.storage),
            *(one.pid for one in gateways),
            *(pid for one in status.computes for pid in (one.agent_pid, one.pid)),
        ]
        return roots_of(pid for pid in found if pid is not None)

    @property
    def blows(self) -> frozenset[Blow]:
        """Everything; but one compute that is stopped has nobody who takes over."""
        alone = {Blow.NODE_STOPPED} if self.name == SMALL else set()
        return frozenset(Blow) - alone

    def strike(self, blow: Blow) -> None:
        """Hit whom the blow names."""
        if blow not in self.blows:
            raise TargetError(f"{self.name} has nothing that {blow} could hit: see its blows")
        status = self._status()
        match blow:
            case Blow.POSTGRES_KILLED:
                kill_alone(_primary_pids(status)[1], POSTGRES_MARK)
            case Blow.NODE_KILLED:
                kill_trees(_primary_pids(status))
            case Blow.NODE_STOPPED:
                self._stopped.stop_trees(_primary_pids(status))
            case Blow.LOG_LEADER_KILLED:
                kill_alone(_leader_pid(status.log), NODE_MARK)
            case Blow.STORAGE_KILLED:
                pids = [one.pid for one in status.storage if one.pid is not None]
                if not pids:
                    raise TargetError("no storage node runs: wait until the target is whole")
                kill_alone(pids[0], NODE_MARK)

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Its supervisor starts what was killed; what was stopped goes on."""
        self._stopped.go_on()
        _run(_whole(self.cluster, deadline_seconds))
        wait_until_nothing_is_missing(
            self.name, lambda: takes_writes(self.front), deadline_seconds=deadline_seconds
        )

    def end(self) -> None:
        """Remove it with all that it has; also after a start that failed."""
        self._stopped.go_on()
        try:
            _run(self.cluster.command("destroy", "--yes"))
        finally:
            end_all_in([self.cluster.directory])


def _run(what: Coroutine[Any, Any, T]) -> T:
    """Carry out what the modules for a local cluster do, with the errors of targets."""
    try:
        return asyncio.run(what)
    except faults_target.TargetError as error:
        raise TargetError(str(error)) from error


def _primary_of(status: Status) -> Compute:
    found = next((one for one in status.computes if one.role == "primary"), None)
    if found is None:
        raise TargetError("the cluster has no primary now: wait until the target is whole")
    return found


def _primary_pids(status: Status) -> tuple[int, int]:
    """The agent first, because it would start the other again."""
    primary = _primary_of(status)
    if primary.agent_pid is None or primary.pid is None:
        raise TargetError("the primary does not run now: wait until the target is whole")
    return primary.agent_pid, primary.pid


def _leader_pid(nodes: Sequence[LogNode]) -> int:
    found = next((one.pid for one in nodes if one.role == "leader"), None)
    if found is None:
        raise TargetError("the log has no leader now: wait until the target is whole")
    return found


async def _whole(cluster: LocalCluster, deadline_seconds: float) -> None:
    await wait_whole(await target_of(cluster), deadline_s=deadline_seconds)


def altered_settings(settings: TargetSettings) -> dict[str, str]:
    """Return what computes are told besides what each of them has. Pure."""
    return {
        "autovacuum": "off",
        "max_connections": str(settings.max_connections),
        "shared_buffers": settings.shared_buffers,
    }


@contextlib.contextmanager
def seawall_target(
    place: Workspace, settings: TargetSettings, *, name: str
) -> Iterator[SeawallTarget]:
    """A cluster that is whole."""
    cluster = LocalCluster(place.new_directory("c") / "d")
    options = ("--ha", "--computes", str(settings.computes)) if name == HA else ()
    target = SeawallTarget(
        name=name,
        description=_description(place, settings, name),
        facts={"postgres": str(place.binaries.version), "altered": altered_settings(settings)},
        cluster=cluster,
        front=even.address(0, ""),  # until it is up
    )
    try:
        _run(_up(cluster, "--pg-bin", str(place.binaries.bin_dir), *options))
        target.front = _front(_run(gateway_status_of(cluster)))
        _alter(target, altered_settings(settings))
        yield target
    finally:
        target.end()


def _description(place: Workspace, settings: TargetSettings, name: str) -> str:
    what = (
        f"seawall up --ha: 3 log nodes, 2 storage nodes, {settings.computes} computes, a gateway"
        if name == HA
        else "seawall up: a log node, a storage node, a compute, a gateway"
    )
    return f"{what}; PostgreSQL {place.binaries.version}, shared_buffers {settings.shared_buffers}"


async def _up(cluster: LocalCluster, *options: str) -> None:
    await cluster.up(*options)
    await _whole(cluster, START_DEADLINE_SECONDS)


def _front(status: GatewayStatus) -> Address:
    """The gateway, with the password that the cluster has made for its user."""
    if not status.gateways:
        raise TargetError("the cluster has no gateway: start it without --no-gateway")
    passfile = conninfo_to_dict(status.urls.primary).get("passfile")
    if passfile is None:
        raise TargetError("the URL of the primary names no file with a password")
    password = password_in(Path(str(passfile)).read_text(encoding="utf-8"))
    return even.address(status.gateways[0].port, password)


def _alter(target: SeawallTarget, values: Mapping[str, str]) -> None:
    """Change settings that need a start of the computes, and see that all of them have them."""
    statements = [f"alter system set {name} = '{value}'" for name, value in values.items()]
    try:
        # What a compute starts from is a cut, and a checkpoint makes one.
        ask(target.direct, *statements, "checkpoint", seconds=START_DEADLINE_SECONDS)
        _run(target.cluster.command("down"))
        _run(_up(target.cluster))
        target.wait_whole(deadline_seconds=START_DEADLINE_SECONDS)
        for address in (target.direct, *target.readers):
            for name, value in values.items():
                found = ask(address, f"show {name}")
                if found != [value]:
                    raise TargetError(
                        f"a compute has {name} = {found[0]} and not {value}: ask for 100"
                        " connections at least, and for sizes in PostgreSQL's own words (1GB)"
                    )
    except (psycopg.Error, TimeoutError) as error:
        raise TargetError(f"the settings of the computes cannot be changed: {error}") from error
