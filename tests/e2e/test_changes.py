"""What is changed while clients go on: another password, replicas that go, gateways that are
replaced, another authority.

In scope: that clients of a real cluster notice no more of it than docs/kubernetes.md says. What the
operator does in which order is in tests/unit/operator/test_rotation.py and test_rollout.py.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from e2e.client_pod import client_pod
from e2e.kubernetes import forwarded
from e2e.operator_world import PORT, Cluster, connection, new_space, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

RPC_PORT = 7400
HANDSHAKE_S = 10
SSL_REQUEST = bytes([0, 0, 0, 8, 4, 210, 22, 47])  # of PostgreSQL's protocol
ROTATE = "seawall.dev/rotate-certificates"
PAUSE_S = 60.0  # between two writes, where a second is usual: other people's machines are slow
TRIES = 8  # so many reach every gateway

WHERE = "select pg_is_in_recovery()"
SLEEP = "select pg_is_in_recovery() from pg_sleep(15)"
SLEEPERS = (
    "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()"
    " and query like '%pg_sleep(15)'"
)
# Bounded runs until it is told to end: it is there before and after, however long gateways take.
PGBENCH = """
set -e
pgbench -i -q "$URI"
while [ ! -e /tmp/enough ]; do pgbench -n -C -S -c 2 -t 25 --rate 50 "$URI"; done
"""


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes) -> Iterator[Cluster]:
    with new_space(operator, "changes") as space:
        cluster = Cluster(operator, space, "pg")
        cluster.apply()
        cluster.settle()
        yield cluster


def processes(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Return every pod's uid, and how often its container began anew."""
    return {
        name: (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for name, pod in cluster.pods().items()
    }


def secret(cluster: Cluster, name: str) -> dict[str, str]:
    """Return what is in a Secret."""
    data = json.loads(cluster.kubectl("get", "secret", name, "-o", "json"))["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def certificates(cluster: Cluster) -> dict[str, str]:
    """Return the certificates of all nodes, and of the gateways, by the names of their Secrets."""
    names = cluster.kubectl("get", "secrets", "-o", "name").split()
    found = [name.removeprefix("secret/") for name in names if name.endswith("-tls")]
    return {name: secret(cluster, name)["tls.crt"] for name in found}


def shake_hands(cluster: Cluster, pod: str, port: int, authority: str) -> None:
    """Call a pod; ssl.SSLError unless it has a certificate of this authority."""
    context = ssl.create_default_context(cadata=authority)
    context.check_hostname = False  # it is called by a forwarded port
    words = ("-n", cluster.namespace, "port-forward", f"pod/{pod}", f":{port}")
    with (
        forwarded(cluster.kubernetes.command("kubectl", words)) as address,
        socket.create_connection(address, timeout=HANDSHAKE_S) as plain,
    ):
        if port == PORT:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
        context.wrap_socket(plain).close()


def test_another_password_counts_and_the_old_one_does_not_without_any_restart(
    cluster: Cluster,
) -> None:
    before, running, way = cluster.password(), processes(cluster), cluster.way()
    after = f"{before}: /?&%"
    change = json.dumps({"stringData": {"password": after}})
    statements = secret(cluster, "pg-internal")["primary.sql"]
    cluster.kubectl("patch", "secret", "pg-superuser", "-p", change)
    until(lambda: secret(cluster, "pg-internal")["primary.sql"] != statements, "the operator")
    # Kubelets bring what has changed to pods about once a minute, and when a pod changes.
    cluster.kubectl("annotate", "pods", "-l", "seawall.dev/component=compute", "looked-at=now")

    def counts() -> bool:
        with connection(way, after):
            return True

    until(counts, "the new password to be taken")
    for _ in range(TRIES):
        assert counts()
        with (
            pytest.raises(psycopg.OperationalError, match="password authentication failed"),
            connection(way, before),
        ):
            pass
    assert processes(cluster) == running
    with client_pod(cluster, "client", 'psql "$URI" -Atc "select 6*7"'):
        until(lambda: cluster.kubectl("logs", "client").strip() == "42", "the new URI to be good")


def test_replica_that_goes_lets_statements_end(cluster: Cluster) -> None:
    primary = cluster.primary()
    (replica,) = set(cluster.pods("compute")) - {primary}

    def directly() -> bool:
        with cluster.connect("-replicas") as client:
            row = client.execute(SLEEP).fetchone()
        assert row is not None
        return bool(row[0])

    def by_a_gateway() -> bool:
        with cluster.connect() as client:
            client.execute("set seawall.read = 'auto'")
            client.execute("begin read only")
            while client.execute(WHERE).fetchone() == (False,):  # who hesitates is not waited for
                client.execute("commit")
                client.execute("begin read only")
            row = client.execute(SLEEP).fetchone()
            client.execute("commit")
        assert row is not None
        return bool(row[0])

    def sleep() -> bool:
        assert not any(one.done() for one in sleepers), "one has failed, or it took too long"
        return bool(cluster.ask(SLEEPERS, "-replicas") == len(sleepers))

    with ThreadPoolExecutor() as pool:
        sleepers = [pool.submit(directly), pool.submit(by_a_gateway)]
        until(sleep, "statements to begin")
        cluster.kubectl("scale", "swpg/pg", "--replicas=1")
        until(
            lambda: "deletionTimestamp" in cluster.pods()[replica]["metadata"], "the replica to go"
        )
        assert not any(one.done() for one in sleepers)
        assert [one.result() for one in sleepers] == [True, True], "they were on a replica"
    cluster.settle()
    assert set(cluster.pods("compute")) == {primary}
    cluster.kubectl("scale", "swpg/pg", "--replicas=2")
    cluster.settle()


def test_gateways_are_replaced_under_clients_that_come_and_go(cluster: Cluster) -> None:
    before = set(cluster.pods("gateway"))
    with client_pod(cluster, "pgbench", PGBENCH) as pod:

        def runs() -> int:
            return cluster.kubectl("logs", pod).count("number of failed transactions: 0")

        until(lambda: runs() > 0, "pgbench to run")
        cluster.kubectl("rollout", "restart", "deployment/pg-gateway")
        until(lambda: not before & set(cluster.pods("gateway")), "other gateways")
        ran = runs()
        until(lambda: runs() > ran + 1, "pgbench to go on")
        cluster.kubectl("exec", pod, "--", "touch", "/tmp/enough")  # noqa: S108  # in its own pod

        def phase() -> str:
            return cluster.kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}")

        until(lambda: phase() != "Running", "pgbench to end")
        assert phase() == "Succeeded", cluster.kubectl("logs", pod)
    assert len(cluster.pods("gateway")) == 2
    cluster.settle()


def test_another_authority_signs_for_all_nodes_under_a_client_that_writes(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    old, pods = secret(cluster, "pg-ca")["tls.crt"], processes(cluster)
    signed = certificates(cluster)

    def result() -> str:
        annotations = cluster.get()["metadata"]["annotations"]
        return "" if ROTATE in annotations else str(annotations.get(f"{ROTATE}-result", ""))

    with cluster.writing() as writer:
        cluster.kubectl("annotate", "swpg/pg", f"{ROTATE}=now")
        until(lambda: result() != "", "the rotation to be over")
        at_its_end = processes(cluster)
        cluster.settle()
    assert result().startswith("Another authority signs")
    new = secret(cluster, "pg-ca")
    assert new["tls.crt"] != old
    assert not {"next.crt", "next.key", "previous.crt"} & set(new)
    now = certificates(cluster)
    assert set(now) >= set(signed)
    assert not set(now.values()) & set(signed.values())
    for name in now:
        assert secret(cluster, name)["ca.crt"].split() == new["tls.crt"].split(), name
    assert not set(pods.values()) & set(at_its_end.values())
    assert processes(cluster) == at_its_end, "whoever says that it is over means all pods"
    for component, port in (
        ("log", RPC_PORT),
        ("storage", RPC_PORT),
        ("compute", PORT),
        ("gateway", PORT),
    ):
        for pod in cluster.pods(component):
            shake_hands(cluster, pod, port, new["tls.crt"])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(cluster, "pg-log-1", RPC_PORT, old)
    assert writer.gap_s < PAUSE_S
    with capsys.disabled():
        print(  # noqa: T201  # a measure
            f"\nanother authority: at most {writer.gap_s:.2f} s between two writes, "
            f"{writer.connections} connections, {len(writer.errors)} errors"
        )
