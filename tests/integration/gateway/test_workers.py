"""A gateway of several processes: figures and cancels of all, and processes that are killed.

In scope: the operator's tables and Prometheus, with two workers; cancel requests that come to the
other worker; SIGKILL to a worker, to all of the gateway, to the one that looks after the others.
Out of scope: servers that are killed; see test_failover.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
import threading
import tomllib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures.gateway_alone import (
    GatewaysAlone,
    admin_of,
    backends_of,
    gateways_alone,
    metrics_of,
    no_backends,
)
from fixtures.waiting import eventually

from bench.node_process import HOST, free_ports
from pgwire.startup import CancelRequest, encode_startup
from sqlnode.processes import children_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Gateway
    from fixtures.servers import Fleet

    from sqlnode.postgres import Postgres

pytestmark = pytest.mark.postgres

CLIENTS_MIN = 6
CANCELLED = 16  # each request comes to the wrong worker every other time: none is one in 65,536
DEADLINE_S = 30.0
OURS = "usename = 'postgres'"  # connections of clients, not of the gateway itself


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaysAlone]:
    with gateways_alone(shared_fleet, tmp_path_factory.mktemp("gateways")) as world:
        yield world


@pytest.fixture(scope="module")
def server(world: GatewaysAlone) -> Postgres:
    server = world.server("primary")
    world.log.has_primary(server)
    return server


@pytest.fixture
def metrics_port() -> int:
    (port,) = free_ports(1, random.Random(secrets.randbits(64)))
    return port


@contextlib.contextmanager
def clients_of(
    gateway: Gateway, count_min: int = CLIENTS_MIN
) -> Iterator[list[psycopg.Connection[Any]]]:
    """Some clients, at least one of them at each of two workers: the kernel spreads them."""
    with contextlib.ExitStack() as leaving:
        clients: list[psycopg.Connection[Any]] = []
        while len(clients) < count_min or len({worker_of(client) for client in clients}) < 2:
            clients.append(leaving.enter_context(gateway.address.connect()))
        yield clients


def worker_of(connection: psycopg.Connection[Any]) -> int:
    """Which worker a client is at: its number is in the key for cancel requests."""
    return connection.info.backend_pid >> 24


def worker_pids(gateway: Gateway) -> dict[int, int]:
    """The process of each worker that answers."""
    with admin_of(gateway) as admin:
        rows = admin.execute("show stats").fetchall()
    return {int(worker): int(value) for worker, figure, value in rows if figure == "pid"}


def whole(gateway: Gateway) -> dict[int, int]:
    """The processes of two workers, once both of them answer."""

    def look() -> dict[int, int] | None:
        with contextlib.suppress(psycopg.OperationalError):
            found = worker_pids(gateway)
            return found if len(found) == 2 else None
        return None

    return eventually(look, what="two workers that answer")


def all_are_up(port: int) -> bool:
    """Whether the metrics say so; there are none until the first worker serves them again."""
    with contextlib.suppress(OSError):
        found = metrics_of(port)
        return all(found[f'seawall_gateway_worker_up{{worker="{n}"}}'] == 1 for n in (0, 1))
    return False


def no_more_than(server: Postgres, count: int) -> None:
    """Wait until a server has ended all connections of clients but so many."""
    eventually(lambda: len(backends_of(server, OURS)) == count, what=f"only {count} connections")


def ends(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("select 1")
    except psycopg.OperationalError:
        return True
    return False


# --- What is going on ----------------------------------------------------------------------------


def test_the_operator_sees_all_workers_from_each_of_them(
    world: GatewaysAlone, server: Postgres
) -> None:
    with world.gateway(workers=2) as gateway, clients_of(gateway) as clients:
        for client in clients:
            client.execute("select 1")
        for _ in range(8):  # some of these come to the one worker, some to the other
            with admin_of(gateway) as admin:
                rows = admin.execute("show clients").fetchall()
                pids = [int(pid) for _, user, _, _, pid, *_ in rows if user == "postgres"]
                assert sorted(pids) == sorted(client.info.backend_pid for client in clients)
                assert {int(row[0]) for row in rows} == {0, 1}
                busy = admin.execute("show pools").fetchall()
                assert sum(int(row[5]) for row in busy) == len(clients)
                assert len(admin.execute("show servers").fetchall()) == len(
                    backends_of(server, OURS)
                )
                assert len(admin.execute("show version").fetchall()) == 1
                assert len(admin.execute("show topology").fetchall()) == 2


def test_a_worker_that_hangs_is_missed_and_named(world: GatewaysAlone, server: Postgres) -> None:
    del server
    with world.gateway(workers=2) as gateway:
        pids = whole(gateway)
        heard: list[str] = []
        with admin_of(gateway) as admin:
            admin.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
            other = 1 - int(admin.execute("show version").fetchall()[0][0])
            os.kill(pids[other], signal.SIGSTOP)
            try:
                rows = admin.execute("show stats").fetchall()
            finally:
                os.kill(pids[other], signal.SIGCONT)
            assert {int(row[0]) for row in rows} == {1 - other}
            assert heard == [f"worker {other} has not answered"]


def test_prometheus_finds_the_figures_of_all_workers_at_one_endpoint(
    world: GatewaysAlone, server: Postgres, metrics_port: int
) -> None:
    del server
    metrics = {"port": metrics_port}
    with world.gateway(workers=2, metrics=metrics) as gateway, clients_of(gateway) as clients:
        at = [sum(worker_of(one) == worker for one in clients) for worker in (0, 1)]

        def complete() -> dict[str, float] | None:
            found = metrics_of(metrics_port)
            name = 'seawall_gateway_logins_total{{worker="{}"}}'
            logins = [found.get(name.format(worker)) for worker in (0, 1)]
            return found if logins == at else None

        found = eventually(complete, what="the logins of both workers")
        for worker in (0, 1):
            assert found[f'seawall_gateway_worker_up{{worker="{worker}"}}'] == 1
            assert found[f'seawall_gateway_clients{{worker="{worker}"}}'] == at[worker]
            assert found[f'seawall_gateway_clients_refused_total{{worker="{worker}"}}'] == 0
        assert found["seawall_gateway_has_primary"] == 1
        links = {name: value for name, value in found.items() if "gateway_links{" in name}
        assert all('database="postgres"' in name for name in links)
        assert sum(links.values()) > 0
        assert not [name for name in found if "seawall_admin" in name]


def test_one_process_has_the_same_figures(
    world: GatewaysAlone, server: Postgres, metrics_port: int
) -> None:
    del server
    limits = {"clients": 2}
    with world.gateway(metrics={"port": metrics_port}, limits=limits) as gateway:
        with gateway.address.connect() as first, gateway.address.connect():
            first.execute("begin")
            with pytest.raises(psycopg.OperationalError, match="too many clients"):
                gateway.address.connect()
            found = metrics_of(metrics_port)
        assert found['seawall_gateway_clients{worker="0"}'] == 2
        assert found['seawall_gateway_clients_refused_total{worker="0"}'] == 1
        active = 'database="postgres",server="primary",state="active",worker="0"'
        assert found[f"seawall_gateway_links{{{active}}}"] == 1
        waiting = 'database="postgres",server="primary",worker="0"'
        assert found[f"seawall_gateway_waiting{{{waiting}}}"] == 0


# --- Cancel requests ------------------------------------------------------------------------------


def all_are_cancelled(server: Postgres, clients: list[psycopg.Connection[Any]]) -> None:
    """Have every client begin something that takes long, and end it by a request."""
    states: dict[int, str | None] = {}

    def sleep(number: int, client: psycopg.Connection[Any]) -> None:
        try:
            client.execute("select pg_sleep(60)")
        except psycopg.Error as error:
            states[number] = error.sqlstate

    threads = [threading.Thread(target=sleep, args=pair) for pair in enumerate(clients)]
    for thread in threads:
        thread.start()
    sleeping = f"{OURS} and state = 'active' and query like '%pg_sleep%'"
    eventually(lambda: len(backends_of(server, sleeping)) == len(clients), what="sleep")
    for client in clients:
        client.pgconn.get_cancel().cancel()  # over a connection of its own
    for thread in threads:
        thread.join(DEADLINE_S)
    assert states == dict.fromkeys(range(len(clients)), "57014")


def test_every_query_is_cancelled_whichever_worker_the_request_comes_to(
    world: GatewaysAlone, server: Postgres
) -> None:
    with world.gateway(workers=2) as gateway, clients_of(gateway, CANCELLED) as clients:
        all_are_cancelled(server, clients)
        for client in clients:
            assert client.execute("select 1").fetchone() == (1,)


def test_a_guessed_key_cancels_nothing_at_any_worker(
    world: GatewaysAlone, server: Postgres
) -> None:
    with world.gateway(workers=2) as gateway, clients_of(gateway) as clients:
        victim = clients[0]
        done: list[Any] = []
        thread = threading.Thread(
            target=lambda: done.append(victim.execute("select 1 from pg_sleep(1)").fetchone())
        )
        thread.start()
        eventually(lambda: backends_of(server, f"{OURS} and query like '%pg_sleep%'"))
        for pid in (victim.info.backend_pid, 7 << 24 | 1, 0, (1 << 31) - 1):
            for _ in range(8):
                request = encode_startup(CancelRequest(pid, secrets.token_bytes(4)))
                with socket.create_connection((HOST, gateway.address.port)) as connection:
                    connection.sendall(request)
                    assert connection.recv(1) == b""
        thread.join(DEADLINE_S)
        assert done == [(1,)]


# --- Death ----------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_started_again_and_the_other_goes_on(
    world: GatewaysAlone, server: Postgres, metrics_port: int
) -> None:
    with world.gateway(workers=2, metrics={"port": metrics_port}) as gateway:
        with clients_of(gateway) as clients:
            for number, client in enumerate(clients):
                client.execute("select pg_advisory_lock(%s)", (number,))
                client.execute("begin")
            left, before = clients, whole(gateway)
            for killed in (1, 0):
                os.kill(before[killed], signal.SIGKILL)
                hit = [client for client in left if worker_of(client) == killed]
                left = [client for client in left if client not in hit]
                assert all(ends(client) for client in hit)
                for client in left:
                    assert client.execute("select 1").fetchone() == (1,)
                # What the kernel has closed the servers have ended, and let go.
                no_more_than(server, len(left))
                after = whole(gateway)
                assert after[1 - killed] == before[1 - killed]
                assert after[killed] != before[killed]
                before = after
            assert not left
        eventually(lambda: all_are_up(metrics_port), what="metrics of both workers")
        with clients_of(gateway) as clients:
            for number, client in enumerate(clients):
                row = client.execute("select pg_try_advisory_lock(%s)", (number,)).fetchone()
                assert row == (True,)
    no_backends(server)


def test_a_gateway_that_is_killed_leaves_nothing_that_hinders_the_next(
    world: GatewaysAlone, server: Postgres
) -> None:
    with world.gateway(workers=2) as gateway:
        with clients_of(gateway) as clients:
            for number, client in enumerate(clients):
                client.execute("select pg_advisory_lock(%s)", (number,))
                client.execute("create temporary table mine (n int)")
                client.execute("begin")
            for pid in gateway.pids():
                os.kill(pid, signal.SIGKILL)
            assert all(ends(client) for client in clients)
        no_backends(server)
        eventually(lambda: not gateway.process.running)
        gateway.process.start()
        assert len(whole(gateway)) == 2
        with clients_of(gateway) as clients:
            for number, client in enumerate(clients):
                row = client.execute("select pg_try_advisory_lock(%s)", (number,)).fetchone()
                assert row == (True,)


def test_workers_end_with_the_one_that_looks_after_them_and_the_next_need_not_wait(
    world: GatewaysAlone, server: Postgres
) -> None:
    with world.gateway(workers=2) as gateway:
        with clients_of(gateway) as clients:
            clients[0].execute("begin")  # its worker waits for this one, while others start
            left = {pid: os.pidfd_open(pid) for pid in children_of(gateway.process.pid)}
            try:
                gateway.process.kill()
                gateway.process.start()
                pids = whole(gateway)
                assert not set(pids.values()) & set(left)
                assert clients[0].execute("select 1").fetchone() == (1,)
                clients[0].execute("commit")
                eventually(lambda: not [pid for pid in left if os.path.exists(f"/proc/{pid}")])
            finally:
                for descriptor in left.values():
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    os.close(descriptor)
        assert whole(gateway) == pids  # the old ones have taken nothing of theirs away
        with clients_of(gateway, CANCELLED) as clients:
            all_are_cancelled(server, clients)
    no_backends(server)


def test_a_gateway_is_stopped_while_a_worker_is_about_to_be_started_again(
    world: GatewaysAlone, server: Postgres
) -> None:
    del server
    with world.gateway(workers=2) as gateway:
        pids = whole(gateway)
        os.kill(pids[0], signal.SIGKILL)
        ended = "a worker has ended"
        eventually(lambda: ended in gateway.process.log_of_this_start(), what=ended)
        assert gateway.process.stop() == 0
        assert not [pid for pid in pids.values() if os.path.exists(f"/proc/{pid}")]


def test_a_worker_that_is_started_again_has_the_settings_of_now(
    world: GatewaysAlone, server: Postgres
) -> None:
    del server
    with world.gateway(workers=2) as gateway:
        pids = whole(gateway)
        config = gateway.process.spec.directory / "node.toml"
        assert tomllib.loads(config.read_text())["workers"] == 2
        config.write_text(config.read_text() + "\n[limits]\nqueue_ms = 12345\n")
        os.kill(gateway.process.pid, signal.SIGHUP)

        def all_know(value: str) -> bool:
            """Ask until both workers have been asked."""
            found: dict[str, str] = {}
            while len(found) < 2:
                with admin_of(gateway) as admin:
                    rows = admin.execute("show limits").fetchall()
                found |= {worker: limit for worker, name, limit in rows if name == "queue_ms"}
            return set(found.values()) == {value}

        eventually(lambda: all_know("12345"))
        os.kill(pids[1], signal.SIGKILL)
        eventually(lambda: whole(gateway)[1] != pids[1])
        assert all_know("12345")


def test_a_gateway_whose_workers_cannot_listen_does_not_run(
    world: GatewaysAlone, server: Postgres
) -> None:
    del server
    with world.gateway(is_started=False, workers=2) as gateway, socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, gateway.address.port))
        taken.listen()
        said = gateway.process.start_refused()
        assert "a worker cannot start" in said
        assert "Traceback" not in said
        assert gateway.process.exit_status == 1
