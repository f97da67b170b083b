"""A commit that is cancelled while it waits for the log is never taken for safe.

PostgreSQL calls such a commit done, with a warning: it is on the primary's disk, which is no more
than a cache here. In scope: cancel requests through the gateway while the log has no quorum.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import Address, GatewayCluster

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

SOON_S = 0.3  # behind the statement: it waits by then; and long before the primary's lease ends


@contextlib.contextmanager
def without_quorum(cluster: GatewayCluster) -> Iterator[None]:
    """Stop the followers of the log."""
    status = cluster.local.status()
    followers = [one["pid"] for one in status["log"] if one["role"] == "follower"]
    assert len(followers) == 2
    for pid in followers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in followers:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def cancelled_soon(client: psycopg.Connection[Any]) -> Iterator[None]:
    timer = threading.Timer(SOON_S, client.cancel)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.fixture
def client(gateway: Address, gateway_cluster: GatewayCluster) -> Iterator[psycopg.Connection[Any]]:
    gateway_cluster.healthy()
    with gateway.connect() as connection:
        connection.execute("create table if not exists cancelled (n int)")
        yield connection
    gateway_cluster.healthy()


def test_a_cancelled_statement_that_waits_for_the_log_is_not_acknowledged(
    client: psycopg.Connection[Any], gateway_cluster: GatewayCluster
) -> None:
    with (
        without_quorum(gateway_cluster),
        cancelled_soon(client),
        pytest.raises(psycopg.Error) as refusal,
    ):
        client.execute("insert into cancelled values (1)")
    assert refusal.value.sqlstate == "08007"
    assert client.execute("select 1").fetchone() == (1,), "and the session goes on"


def test_a_commit_is_not_cancelled_but_waits_for_the_log(
    client: psycopg.Connection[Any], gateway_cluster: GatewayCluster
) -> None:
    client.execute("begin")
    client.execute("insert into cancelled values (2)")
    with contextlib.ExitStack() as stopped:
        stopped.enter_context(without_quorum(gateway_cluster))
        threading.Timer(2 * SOON_S, stopped.close).start()
        with cancelled_soon(client):
            client.execute("commit")
    assert client.execute("select n from cancelled where n = 2").fetchone() == (2,)
