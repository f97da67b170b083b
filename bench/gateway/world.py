"""The cluster of a benchmark, and all ways to its primary.

    async with staged(place) as stage:
        stage.ways                   # direct, pgbouncer, gateway
        stage.environment            # for libpq: no TLS, and a file with the password

With `--control` a second pgbouncer stands where the gateway should: what is found then is what the
benchmark itself makes of two equal things.
"""

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from bench.failover.world import local_cluster, target_of
from bench.faults.cluster_target import Compute, LocalCluster
from bench.faults.nemesis import wait_whole
from bench.faults.sessions import Row
from bench.faults.target import TargetError
from bench.node_process import node_environment
from bench.pagefault.workspace import Workspace

from .credentials import DATABASE, HOST, USER, Credentials
from .pgbouncer import running_pgbouncer
from .ways import DIRECT, GATEWAY, Way

COMPUTES: Final = 3  # two replicas: one may lag while the other answers
REPLAY_DEADLINE_S: Final = 60.0
LOOK_S: Final = 0.02


class GatewayNode(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a gateway's status."""

    name: str
    port: int
    pid: int | None = None


class GatewayUrls(msgspec.Struct, frozen=True, kw_only=True):
    """Connection strings."""

    primary: str


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of `seawall status --json`."""

    computes: tuple[Compute, ...]
    urls: GatewayUrls
    gateways: tuple[GatewayNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything that a benchmark acts on."""

    place: Workspace
    cluster: LocalCluster
    credentials: Credentials
    direct: Way
    pgbouncer: Way
    gateway: Way
    gateway_name: str | None  # None: there is none, and `gateway` is a pgbouncer
    replica_ports: tuple[int, ...]
    passfile: Path

    @property
    def ways(self) -> tuple[Way, Way, Way]:
        """All."""
        return (self.direct, self.pgbouncer, self.gateway)

    @property
    def compute_ports(self) -> tuple[int, ...]:
        """Of the primary, and of the replicas."""
        return (self.direct.port, *self.replica_ports)

    @property
    def environment(self) -> Mapping[str, str]:
        """For programs that use libpq."""
        return {
            **node_environment(os.environ),
            "PGPASSFILE": str(self.passfile),
            "PGSSLMODE": "disable",
        }

    async def session(self, port: int) -> psycopg.AsyncConnection[Row]:
        """A session of the superuser at a compute's own port, in autocommit mode."""
        return await psycopg.AsyncConnection.connect(
            host=HOST, port=port, user=USER, dbname=DATABASE,
            password=self.credentials.password, sslmode="disable", autocommit=True,
        )  # fmt: skip

    async def run(self, *statements: str, port: int | None = None) -> None:
        """Carry statements out one by one, on the primary unless another port is said."""
        async with await self.session(port or self.direct.port) as session:
            for statement in statements:
                await session.execute(statement.encode())

    async def reads_by_replicas(self, table: str) -> int:
        """How often replicas have looked into a table: a scan is one statement that read it.

        A backend tells of its scans when it is idle, ten seconds after the last at the latest.
        """
        count = 0
        for port in self.replica_ports:
            async with await self.session(port) as session:
                cursor = await session.execute(
                    "select coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint"
                    " from pg_stat_user_tables where relname = %s",
                    (table,),
                )
                row = await cursor.fetchone()
                assert row is not None, "a sum is one row"
                count += row[0]
        return count

    def config_of_gateway(self) -> Path:
        """Where the cluster has written the gateway's settings."""
        if self.gateway_name is None:
            raise TargetError("a pgbouncer stands for the gateway, which cannot be set up anew")
        return self.cluster.directory / "nodes" / self.gateway_name / "node.toml"


@contextlib.asynccontextmanager
async def staged(
    place: Workspace, arguments: argparse.Namespace, *, connections_max: int = 0
) -> AsyncIterator[Stage]:
    """A cluster that is up, with its gateway, and a pgbouncer beside it."""
    async with local_cluster(place, "--computes", str(COMPUTES)) as cluster:
        status = await status_of(cluster)
        if connections_max:
            status = await _with_room(cluster, status, connections_max)
        direct = Way(DIRECT, primary_of(status).port)
        credentials = await asyncio.to_thread(Credentials.read, status.urls.primary, direct.port)
        passfile = place.new_directory("pass") / "pgpass"
        credentials.write_passfile(passfile)
        with contextlib.ExitStack() as ends:

            def bouncer(name: str = "pgbouncer") -> Way:
                return ends.enter_context(
                    running_pgbouncer(
                        place, server_port=direct.port, verifier=credentials.verifier, name=name
                    )
                )

            node = None if arguments.control else _gateway_node(status)
            yield Stage(
                place=place,
                cluster=cluster,
                credentials=credentials,
                direct=direct,
                pgbouncer=bouncer(),
                gateway=bouncer(GATEWAY) if node is None else Way(GATEWAY, node.port, node.pid),
                gateway_name=None if node is None else node.name,
                replica_ports=tuple(one.port for one in status.computes if one.role == "replica"),
                passfile=passfile,
            )


async def replicas_have_all(stage: Stage) -> None:
    """Until replicas have replayed what is committed now."""
    async with await stage.session(stage.direct.port) as session:
        cursor = await session.execute("select pg_current_wal_insert_lsn()::text")
        row = await cursor.fetchone()
        assert row is not None, "a function gives a row"
    for port in stage.replica_ports:
        async with await stage.session(port) as session, asyncio.timeout(REPLAY_DEADLINE_S):
            while True:
                cursor = await session.execute(
                    "select pg_last_wal_replay_lsn() >= %s::pg_lsn", (row[0],)
                )
                if await cursor.fetchone() == (True,):
                    break
                await asyncio.sleep(LOOK_S)


async def _with_room(
    cluster: LocalCluster, status: GatewayStatus, connections_max: int
) -> GatewayStatus:
    """Have computes take more connections, which needs a start of all of them."""
    port = primary_of(status).port
    credentials = await asyncio.to_thread(Credentials.read, status.urls.primary, port)
    async with await psycopg.AsyncConnection.connect(
        host=HOST, port=port, user=USER, dbname=DATABASE,
        password=credentials.password, autocommit=True,
    ) as session:  # fmt: skip
        await session.execute(f"alter system set max_connections = {connections_max}".encode())
        await session.execute("checkpoint")
    await cluster.command("down")
    await cluster.up()
    await wait_whole(await target_of(cluster))
    return await status_of(cluster)


def primary_of(status: GatewayStatus) -> Compute:
    """Return the compute that takes writes."""
    found = next((one for one in status.computes if one.role == "primary"), None)
    if found is None:
        raise TargetError("the cluster has no primary")
    return found


def _gateway_node(status: GatewayStatus) -> GatewayNode:
    """Return the one that runs."""
    found = next((one for one in status.gateways if one.pid is not None), None)
    if found is None:
        raise TargetError("the cluster has no gateway that runs")
    return found


async def status_of(cluster: LocalCluster) -> GatewayStatus:
    """How it is now."""
    said = await cluster.command("status", "--json")
    try:
        return msgspec.json.decode(said, type=GatewayStatus)
    except msgspec.DecodeError as error:
        raise TargetError(f"`seawall status --json` cannot be read: {error}") from error
