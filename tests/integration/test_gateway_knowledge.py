"""What a gateway learns of a real cluster: who is the primary, positions, users, functions.

In scope: topology.py, position_watch.py, catalog_reader.py against a cluster of one primary and one
replica; its role's rights; a failover under all of them. Out of scope: what is done with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest
from integration.local_world import LocalCluster, local_cluster

from fabric.lsn import Lsn
from gateway.catalog_reader import CatalogReader
from gateway.classification.catalog import Catalog
from gateway.position_watch import PositionError, PositionWatch
from gateway.settings import GATEWAY_ROLE
from gateway.topology import ComputesView, TopologyWatch
from gateway.users import can_be_a_name
from pgwire.scram import ScramClient, ScramError, ScramServer, ScramVerifier
from seawall.local.bring_up import make_gateway_role, progress_of
from seawall.local.calls import Nodes
from seawall.local.cluster_file import load
from seawall.local.node_files import log_addresses, password_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres

PAIRS = 200


@pytest.fixture(scope="module")
def cluster(identity: Identity, server_binaries: ServerBinaries) -> Iterator[LocalCluster]:
    with local_cluster(identity, server_binaries) as cluster:
        cluster.up("--ha", "--no-gateway")
        yield cluster


class Knowledge:
    """All that a gateway knows."""

    def __init__(self, cluster: LocalCluster, watch: PositionWatch, reader: CatalogReader) -> None:
        self.cluster, self.watch, self.reader = cluster, watch, reader
        self.view = ComputesView()
        self.heard: list[tuple[float, ComputesView]] = []
        self.catalogs: dict[str, Catalog] = {}

    def changed(self, view: ComputesView) -> None:
        """As the gateway does: everybody hears of it."""
        self.view = view
        self.heard.append((time.monotonic(), view))
        self.watch.follow(view)
        self.reader.follow(view)

    async def until(self, look: Callable[[], object]) -> None:
        """Wait for what is going to be known."""
        end_s = time.monotonic() + 60
        while not look():
            assert time.monotonic() < end_s, self.cluster.words()
            await asyncio.sleep(0.005)

    async def complete(self) -> None:
        """Wait until there is a primary and a replica."""
        await self.until(lambda: self.view.primary is not None and self.view.replicas)

    async def connect(self, name: str) -> asyncpg.Connection:
        """A superuser's connection to a compute."""
        port = load(self.cluster.layout).computes[name]
        password = password_in(self.cluster.layout.postgres_password)
        return await asyncpg.connect(
            host="127.0.0.1", port=port, user="postgres", password=password, database="postgres"
        )

    @property
    def primary(self) -> str:
        """Its name."""
        assert self.view.primary is not None
        return self.view.primary.name


@contextlib.asynccontextmanager
async def knowledge(cluster: LocalCluster) -> AsyncIterator[Knowledge]:
    layout, file = cluster.layout, load(cluster.layout)
    password = password_in(layout.gateway_password)
    catalogs: dict[str, Catalog] = {}
    watch = PositionWatch(password=password, tls=None)
    reader = CatalogReader(password=password, tls=None, on_catalog=catalogs.__setitem__)
    known = Knowledge(cluster, watch, reader)
    known.catalogs = catalogs
    async with Nodes(layout, file).log() as client:
        primary = progress_of(await client.computes(file.branch)).primary
        assert primary is not None
        await make_gateway_role(layout, primary)
        await make_gateway_role(layout, primary)  # harmless to repeat
        topology = TopologyWatch(
            client, file.branch, log_addresses(file), rng=random.Random(1), on_change=known.changed
        )
        following = asyncio.create_task(topology.run())
        try:
            await known.complete()
            yield known
        finally:
            following.cancel()
            await asyncio.wait([following])
            await watch.close()
            await reader.close()


def with_knowledge(
    cluster: LocalCluster, check: Callable[[Knowledge], Coroutine[None, None, None]]
) -> None:
    async def run() -> None:
        async with asyncio.timeout(120), knowledge(cluster) as known:
            await check(known)

    asyncio.run(run())


def accepts(verifier: ScramVerifier | None, password: str) -> bool:
    """Whether a client with a password is let in."""
    assert verifier is not None
    client = ScramClient(password, ("SCRAM-SHA-256",), random_bytes=random.randbytes)
    server = ScramServer(verifier, random_bytes=random.randbytes)
    challenge = server.start(client.mechanism, client.first())
    try:
        client.finish(server.finish(client.final(challenge)))
    except ScramError:
        return False
    return True


def test_a_replica_that_has_the_position_has_the_row(cluster: LocalCluster) -> None:
    async def check(known: Knowledge) -> None:
        writer, reader = (
            await known.connect(known.primary),
            await known.connect(known.view.replicas[0].name),
        )
        replica = known.view.replicas[0].name
        await writer.execute("drop table if exists pairs; create table pairs (n int)")
        stale, late = 0, 0
        for n in range(PAIRS):
            await writer.execute("insert into pairs values ($1)", n)
            floor = await known.watch.primary_position()
            if not await known.watch.replica_has(replica, floor, wait_ms=2000):
                late += 1
                continue
            assert known.watch.positions.choose([replica], {}, now_s=0.0, floor=floor) == replica
            stale += await reader.fetchval("select max(n) from pairs") != n
        assert stale == 0
        assert late <= PAIRS // 20
        await writer.close()
        await reader.close()

    with_knowledge(cluster, check)


def test_a_replica_that_stands_still_is_not_taken_for_one_that_is_far_enough(
    cluster: LocalCluster,
) -> None:
    async def check(known: Knowledge) -> None:
        replica = known.view.replicas[0].name
        writer, looker = await known.connect(known.primary), await known.connect(replica)
        await writer.execute("create table if not exists paused (n int)")
        # Stopped, not paused: a replica that was paused is made anew.
        startup = "select pid from pg_stat_activity where backend_type = 'startup'"
        pid = await looker.fetchval(startup)
        os.kill(pid, signal.SIGSTOP)
        try:
            await writer.execute("insert into paused values (1)")
            floor = await known.watch.primary_position()
            assert not await known.watch.replica_has(replica, floor, wait_ms=200)
            known.watch.use_lag()
            await asyncio.sleep(1.5)
            now_s = asyncio.get_running_loop().time()
            lag_ms = known.watch.positions.lag_ms(replica, now_s)
            assert lag_ms is None or lag_ms >= 800
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await known.watch.replica_has(replica, floor, wait_ms=5000)
        await asyncio.sleep(0.5)
        lag_ms = known.watch.positions.lag_ms(replica, asyncio.get_running_loop().time())
        assert lag_ms is not None
        assert lag_ms < 500
        await writer.close()
        await looker.close()

    with_knowledge(cluster, check)


def test_users_are_read_and_read_again_when_their_password_was_wrong(
    cluster: LocalCluster,
) -> None:
    cluster.sql(
        "drop role if exists ann; create role ann login password 'old' connection limit 7"
        " valid until '2100-01-01'; alter role ann set seawall.read = 'auto';"
        " alter role ann in database postgres set seawall.read = 'replica(1s)';"
        " drop role if exists nologin; create role nologin"
    )

    async def check(known: Knowledge) -> None:
        user = await known.reader.user("ann")
        assert user is not None
        assert (user.can_login, user.connection_limit) == (True, 7)
        assert user.valid_until_s == pytest.approx(4_102_444_800, abs=86_400)
        assert user.settings_of("postgres") == {"seawall.read": "replica(1s)"}
        assert user.settings_of("other") == {"seawall.read": "auto"}
        assert accepts(user.verifier, "old")
        assert not accepts(user.verifier, "new")
        nologin = await known.reader.user("nologin")
        assert nologin is not None
        assert (nologin.can_login, nologin.verifier) == (False, None)
        assert await known.reader.user("nobody'; drop role ann; --") is None
        assert not can_be_a_name("x" * 64)
        assert await known.reader.user("x" * 64) is None

        await asyncio.to_thread(cluster.sql, "alter role ann password 'new'")
        changed = await known.reader.user("ann")
        assert changed is not None
        assert accepts(changed.verifier, "new")

    with_knowledge(cluster, check)


def test_the_role_reads_who_may_log_in_and_nothing_else(cluster: LocalCluster) -> None:
    async def check(known: Knowledge) -> None:
        assert known.view.primary is not None
        sql = "drop table if exists private; create table private as select 1 n"
        await asyncio.to_thread(cluster.sql, sql)
        with psycopg.connect(
            host="127.0.0.1", port=known.view.primary.port, dbname="postgres", user=GATEWAY_ROLE,
            password=password_in(cluster.layout.gateway_password), autocommit=True,
        ) as connection:  # fmt: skip
            for allowed in (
                "select rolname, rolpassword from pg_authid where rolpassword is not null",
                "select wait_event from pg_stat_activity",
                "select pg_current_wal_insert_lsn()",
                "select pg_last_wal_replay_lsn()",
            ):
                connection.execute(allowed)
            for refused in (
                "select * from private",
                "select rolsuper from pg_authid",
                "update pg_authid set rolpassword = 'x'",
                "create role another",
                "set role postgres",
                "create database another",
                "select pg_read_file('/etc/passwd')",
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(refused)
        await known.complete()

    with_knowledge(cluster, check)


def test_functions_of_a_database_are_read_and_heard_of(cluster: LocalCluster) -> None:
    async def check(known: Knowledge) -> None:
        reader = known.reader
        assert reader.use("postgres") == Catalog.EMPTY
        await known.until(lambda: "postgres" in known.catalogs)
        assert reader.catalog("postgres") == known.catalogs["postgres"] != Catalog.EMPTY
        assert reader.catalog("template1") == Catalog.EMPTY
        reader.leave("postgres")
        assert reader.use("no such database") == Catalog.EMPTY
        await asyncio.sleep(0.3)
        assert reader.catalog("no such database") == Catalog.EMPTY
        reader.leave("no such database")

    with_knowledge(cluster, check)


def test_a_failover_is_heard_of_and_users_stay_known_meanwhile(cluster: LocalCluster) -> None:
    # What is behind a commit that returned cannot be lost; what is inserted and no more, can.
    kept = Lsn.parse(cluster.sql("select pg_current_wal_insert_lsn()"))
    cluster.sql("drop role if exists eve; create role eve login password 'e'")

    async def check(known: Knowledge) -> None:
        epoch = known.view.epoch
        old, before = known.primary, await known.reader.user("eve")
        assert before is not None
        assert await known.watch.primary_position() > kept
        began_s, heard = time.monotonic(), len(known.heard)
        cluster.kill(old)
        lost: list[BaseException] = []
        while known.view.primary is None or known.view.primary.name == old:
            assert (await known.reader.user("eve")) is not None
            try:
                await known.watch.primary_position()
            except PositionError as error:
                lost.append(error)
            await asyncio.sleep(0.01)
        assert lost, "who asked the old primary was told, and did not hang"
        assert time.monotonic() - began_s < 30
        views = [view for _, view in known.heard[heard:]]
        assert views[-1].epoch > epoch
        assert all(one.epoch <= two.epoch for one, two in itertools.pairwise(views))

        later = None
        while later is None:
            assert time.monotonic() < began_s + 60
            await asyncio.sleep(0.02)
            with contextlib.suppress(PositionError):
                later = await known.watch.primary_position()
        assert later > kept
        after = await known.reader.user("eve")
        assert after is not None
        assert accepts(after.verifier, "e")
        await known.complete()

    with_knowledge(cluster, check)
