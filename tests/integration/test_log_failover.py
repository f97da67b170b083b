"""The log chooses a new primary among real servers; what was acknowledged is all there.

The agents are the test's: they report for their servers, and promote when they are told to. In
scope: the log's side of a failover, under load. Out of scope: real agents, whose servers are built
from cuts; leaders that change otherwise (test_log_faults_leadership.py).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from fixtures.log_cluster import BRANCH, LogWorld, compute_settings
from fixtures.redo import one
from fixtures.servers import Fleet
from integration.log_node_world import CLUSTER, nodes_world, until
from integration.test_first_cut import OPTIONS, materialised, new_cluster

from bench.node_process import HOST
from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn
from fabric.rpc_errors import RpcError
from log_service.client import LogClient
from log_service.compute_methods import ComputeReport, ComputeState, Orders
from log_service.methods import Topology
from sqlnode.postgres import Postgres, request_standby
from storage.first_cut import make_template

pytestmark = pytest.mark.postgres

REPORT_S = 0.1
STORY_DEADLINE_S = 120.0
SOME_ROWS = 200

STARTING, REPLICA, PRIMARY = ComputeState.STARTING, ComputeState.REPLICA, ComputeState.PRIMARY
PROMOTING, DOWN = ComputeState.PROMOTING, ComputeState.DOWN


@dataclass
class Agent:
    """Reports for a server, and promotes it when it has the epoch and all WAL before it."""

    client: LogClient
    name: str
    server: Postgres
    state: ComputeState
    epoch: Epoch = Epoch(0)  # noqa: RUF009  # an immutable value

    def __post_init__(self) -> None:
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Report, and obey, for ever."""
        while True:
            received = await asyncio.to_thread(self._received) if self.state is REPLICA else Lsn(0)
            with suppress(RpcError):  # nobody leads at the moment
                await self._obey(await self.client.report(self._report(received)), received)
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._news.wait()
            self._news.clear()

    def become(self, state: ComputeState) -> None:
        """Report this at once."""
        self.state = state
        self._news.set()

    async def _obey(self, orders: Orders, received: Lsn) -> None:
        holder = orders.holder
        if holder is None or holder.name != self.name or self.state is not REPLICA:
            return
        if received >= orders.epoch_start:
            self.epoch = orders.epoch
            self.become(PROMOTING)
            await self.server.promote()
            self.become(PRIMARY)
        else:
            self._news.set()

    def _report(self, received: Lsn) -> ComputeReport:
        return ComputeReport(
            branch=BranchName(BRANCH),
            name=NodeName(self.name),
            instance=1,
            state=self.state,
            address=f"unix://{self.server.run_dir}/.s.PGSQL.{self.server.port}",
            epoch=self.epoch if self.state in {PROMOTING, PRIMARY} else Epoch(0),
            received=received,
        )

    def _received(self) -> Lsn:
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            query = "select coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), '0/0')"
            return Lsn.parse(one(connection, query))


@asynccontextmanager
async def running(*agents: Agent) -> AsyncIterator[None]:
    """Agents that report until the end of the block; one that fails ends it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.run()) for agent in agents]
        yield
        for task in tasks:
            task.cancel()


async def until_streaming(client: LogClient, name: str) -> Topology:
    """Until a compute has the epoch and its WAL comes in."""

    async def look() -> Topology | None:
        topology = await client.topology(BranchName(BRANCH))
        is_it = topology.holder is not None and topology.holder.name == name
        return topology if is_it and topology.is_streaming else None

    return await until(look)


def play(addresses: list[str], story: Callable[[LogClient], Awaitable[None]]) -> None:
    """Tell a story with a client."""

    async def main() -> None:
        async with LogClient(addresses, rng=random.Random(1)) as client:
            await asyncio.wait_for(story(client), STORY_DEADLINE_S)

    asyncio.run(main())


@pytest.mark.parametrize("is_leader_killed", [False, True], ids=["", "and the leader"])
def test_primary_dies_and_the_log_chooses_its_standby(
    log_world: LogWorld, is_leader_killed: bool
) -> None:
    primary, standby = log_world.primary, log_world.standby("s")
    with log_world.writing() as writers:

        async def story(client: LogClient) -> None:
            old = Agent(client, "p", primary, PRIMARY, Epoch(1))
            new = Agent(client, "s", standby, REPLICA)
            async with running(old, new):
                await asyncio.to_thread(writers.wait_for_more, SOME_ROWS)
                assert (await until_streaming(client, "p")).epoch == 1
                await primary.kill()
                old.become(DOWN)
                if is_leader_killed:
                    log_world.cluster.nodes[log_world.cluster.wait_for_leader()].kill()
                topology = await until_streaming(client, "s")
                assert topology.tli == 2
                writers.direct(standby.conninfo())
                await asyncio.to_thread(writers.wait_for_more, SOME_ROWS)

        play([node.spec.rpc_address for node in log_world.cluster.nodes.values()], story)
    for node in log_world.cluster.nodes.values():
        if not node.running:
            node.start()
    log_world.judge(writers.journal())


def test_holder_is_not_followed_while_it_is_a_standby(log_world: LogWorld) -> None:
    """It would send what it got from us, for physical replication does not ask."""
    standby = log_world.standby("s")
    log_world.cluster.wait_for_leader()
    log_world.control.grant_epoch(holder="s", server=standby)
    with log_world.writing(server=standby) as writers:

        async def story(client: LogClient) -> None:
            topology = await client.topology(BranchName(BRANCH))
            assert topology.holder is not None
            states = "select coalesce(string_agg(state, ','), '') from pg_stat_replication"

            def is_connected() -> bool:
                with psycopg.connect(standby.conninfo(), autocommit=True) as connection:
                    state = one(connection, states)
                assert state in {"", "startup"}, "it has been asked for WAL"
                return state == "startup"

            async def is_known() -> bool:
                return await asyncio.to_thread(is_connected)

            await until(is_known)
            assert not (await client.topology(BranchName(BRANCH))).is_streaming
            await standby.promote()
            assert (await until_streaming(client, "s")).tli == 2
            await asyncio.to_thread(writers.wait_for_more, SOME_ROWS)

        play([node.spec.rpc_address for node in log_world.cluster.nodes.values()], story)
    log_world.primary.kill_blocking()
    log_world.judge(writers.journal())


def test_every_compute_of_a_new_cluster_starts_as_a_replica(fleet: Fleet, tmp_path: Path) -> None:
    """The log has the WAL that the first cut comes with, so stock standbys stream all they need."""
    cache_dir = fleet.directory / "templates"
    template = make_template(fleet.binaries, cache_dir, identity=fleet.identity, options=OPTIONS)
    first = new_cluster(template)
    with nodes_world(tmp_path, ("log-1",)) as nodes:
        branch, address = BranchName(BRANCH), nodes.address("log-1")
        nodes.run(lambda c: c.create_branch(branch, first.genesis, [address], first.wal))

        def replica(name: str) -> Postgres:
            root = materialised(fleet, first, name, has_wal=False)
            fleet.identity.make_directory(root / "pg_wal")
            request_standby(root, fleet.identity)
            port = address.pg.rsplit(":", 1)[1]
            conninfo = f"host={HOST} port={port} user={CLUSTER}.{BRANCH} application_name={name}"
            extra = compute_settings(primary_conninfo=conninfo)
            server = fleet.server(name, data_dir=root, settings=extra)
            server.start_blocking()
            return server

        one_server, other = replica("one"), replica("other")

        async def story(client: LogClient) -> None:
            agents = [
                Agent(client, "one", one_server, STARTING),
                Agent(client, "other", other, STARTING),
            ]
            async with running(*agents):
                agents[0].become(REPLICA)
                assert (await until_streaming(client, "one")).epoch == 2
                agents[1].become(REPLICA)
                await asyncio.to_thread(execute, one_server, "create table t as select 7 as n")
                await one_server.kill()
                agents[0].become(DOWN)
                assert (await until_streaming(client, "other")).epoch == 3
                await asyncio.to_thread(execute, other, "insert into t values (8)")

        play([address.rpc], story)
        with psycopg.connect(other.conninfo(), autocommit=True) as connection:
            assert one(connection, "select sum(n) from t") == "15"


def execute(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(statement.encode())
