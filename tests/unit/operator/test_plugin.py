"""`kubectl seawall`: what it prints of what Kubernetes says, and what it runs kubectl with.

The kubectl of these tests is a script that writes down its arguments and answers from files, so
that what the plugin asks for can be seen, and that no secret is in it. Not here: the operator's
side of a switchover, which is in test_plan.py, and a real Kubernetes.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from kube_operator.plugin.cli import run
from kube_operator.plugin.kubectl import complaint, run_attached
from kube_operator.plugin.report import age, json_text, summaries, text

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 27, 20, 0, tzinfo=UTC)
PASSWORD = "pässword-of-the-superuser"  # noqa: S105  # of no server

# As kubectl gave them, without what nobody here reads.
CLUSTER: dict[str, Any] = {
    "apiVersion": "seawall.dev/v1alpha1",
    "kind": "PostgresCluster",
    "metadata": {"name": "pg", "namespace": "db", "annotations": {}},
    "spec": {"version": 15, "logNodes": {"count": 2}, "storageNodes": {"count": 1}},
    "status": {
        "conditions": [
            {
                "lastTransitionTime": "2026-11-27T19:25:17Z", "message": "SQL is answered.",
                "reason": "Serving", "status": "True", "type": "Ready",
            },
            {
                "lastTransitionTime": "2026-11-27T19:59:18Z",
                "message": "1 of 2 computes answer SQL.",
                "reason": "PartsMissing", "status": "True", "type": "Degraded",
            },
            {
                "lastTransitionTime": "2026-11-27T19:21:26Z",
                "message": "spec.objectStore is not set.",
                "reason": "NoObjectStore", "status": "False", "type": "ContinuousArchiving",
            },
        ],
        "epoch": 5, "logLeader": "pg-log-1", "phase": "Degraded", "primary": "pg-compute-2",
    },
}  # fmt: skip


def pod(
    name: str, component: str, *, ready: bool = True, labels: dict[str, str] | None = None
) -> dict[str, Any]:
    state = {"running": {}} if ready else {"waiting": {"reason": "ImagePullBackOff"}}
    return {
        "metadata": {
            "name": name, "namespace": "db", "creationTimestamp": "2026-11-27T18:26:12Z",
            "labels": {
                "seawall.dev/cluster": "pg", "seawall.dev/component": component, **(labels or {})
            },
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running" if ready else "Pending",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"restartCount": 1, "state": state}],
        },
    }  # fmt: skip


PODS = [
    pod("pg-compute-1", "compute", ready=False),
    pod("pg-compute-2", "compute", labels={"seawall.dev/role": "primary"}),
    pod("pg-gateway-684d-847sz", "gateway", labels={"seawall.dev/serving": "false"}),
    pod("pg-log-1", "log"),
    pod("pg-storage-1", "storage"),
]


# --- Printing -------------------------------------------------------------------------------------


def test_status_is_a_line_for_each_node_and_what_is_not_as_it_should_be() -> None:
    assert text(summaries([CLUSTER], PODS, NOW)).splitlines() == [
        "cluster db/pg, PostgreSQL 15: Degraded; primary pg-compute-2 (epoch 5)",
        "",
        "NODE                   ROLE       STATE             ON      AGE    RESTARTS",
        "pg-compute-1           -          ImagePullBackOff  node-1  1h33m  1",
        "pg-compute-2           primary    ready             node-1  1h33m  1",
        "pg-log-1               leader     ready             node-1  1h33m  1",
        "pg-log-2               -          missing           -       -      -",
        "pg-storage-1           -          ready             node-1  1h33m  1",
        "pg-gateway-684d-847sz  passed by  ready             node-1  1h33m  1",
        "",
        "degraded for 42s: 1 of 2 computes answer SQL.",
    ]


def test_a_cluster_that_nobody_has_looked_at_is_not_ready() -> None:
    new = {key: value for key, value in CLUSTER.items() if key != "status"}
    (found,) = summaries([new], [], NOW)
    assert not found.is_ready
    assert text([found]).startswith(
        "cluster db/pg, PostgreSQL 15: not looked at yet; NO PRIMARY (epoch 0)"
    )


def test_pods_of_another_cluster_or_namespace_are_not_shown() -> None:
    other = pod("x-log-9", "log")
    other["metadata"]["namespace"] = "elsewhere"
    (found,) = summaries([CLUSTER], [*PODS, other], NOW)
    assert "x-log-9" not in {node.name for node in found.nodes}


def test_status_for_programs_has_all_of_it() -> None:
    (found,) = summaries([CLUSTER], PODS, NOW)
    read = json.loads(json_text(found))
    assert read["primary"] == "pg-compute-2"
    assert [one["type"] for one in read["remarks"]] == ["Degraded"]
    assert read["nodes"][0] == {
        "name": "pg-compute-1", "component": "compute", "role": "-", "state": "ImagePullBackOff",
        "is_ready": False, "kubernetes_node": "node-1", "age_s": 5628, "restarts": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3_725, "1h2m"), (200_000, "2d7h"), (None, "-")],
)
def test_ages_have_two_parts_at_most(seconds: int | None, shown: str) -> None:
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        (
            b'Error from server (NotFound): postgresclusters.seawall.dev "x" not found\n',
            'postgresclusters.seawall.dev "x" not found',
        ),
        (
            b'error: the server doesn\'t have a resource type "postgresclusters"',
            "this Kubernetes has no PostgresClusters: install the chart of Seawall's operator",
        ),
        (
            b'E1127 memcache.go:265] "Unhandled Error"\nThe connection to the server was refused',
            "The connection to the server was refused",
        ),
        (b"", "kubectl failed and did not say why"),
    ],
)
def test_an_error_is_the_last_sentence_of_kubectl(stderr: bytes, sentence: str) -> None:
    assert complaint(stderr) == sentence


# --- With a kubectl -------------------------------------------------------------------------------

KUBECTL = """#!{python}
import json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([pathlib.Path(sys.argv[0]).name, *arguments]) + "\\n")
words = [one for one in arguments if not one.startswith("-")]
def read(name): return json.loads((here / name).read_text())
if words[0] == "get":
    kind, names = words[1].split(".")[0], words[2:]
    if not (here / f"{{kind}}.json").exists():
        sys.exit(f'Error from server (Forbidden): you may not read "{{kind}}"')
    items = read(f"{{kind}}.json")
    found = [one for one in items if one["metadata"]["name"] in names]
    if names and not found:
        sys.exit(f'Error from server (NotFound): {{words[1]}} "{{names[0]}}" not found')
    print(json.dumps(found[0] if names else {{"items": items}}))
elif words[0] == "annotate":
    clusters = read("postgresclusters.json")
    clusters[0]["metadata"]["annotations"] = read("answer.json")
    (here / "postgresclusters.json").write_text(json.dumps(clusters))
elif words[0] == "port-forward":
    print("Forwarding from 127.0.0.1:40123 -> 5432", flush=True)
    (here / "forward.pid").write_text(str(os.getpid()))
    time.sleep(60)
"""
PSQL = """#!{python}
import json, os, sys, time
variables = {{name: value for name, value in os.environ.items() if name.startswith("PG")}}
print(json.dumps([sys.argv[1:], variables]), flush=True)
if "--wait" in sys.argv:
    time.sleep(60)
sys.exit(2)
"""


class World:
    """A directory that is the whole search path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {"PATH": str(directory), "TERM": "xterm"}
        self._program("kubectl", KUBECTL)
        self.answer("postgresclusters", [CLUSTER])
        self.answer("pods", PODS)

    def _program(self, name: str, code: str) -> None:
        path = self.directory / name
        path.write_text(code.format(python=sys.executable))
        path.chmod(0o755)

    def with_psql(self) -> None:
        """Have a psql, and a Secret with the password."""
        self._program("psql", PSQL)
        data = {"password": base64.b64encode(PASSWORD.encode()).decode()}
        self.answer("secret", [{"metadata": {"name": "pg-superuser"}, "data": data}])

    def answer(self, name: str, value: Any) -> None:
        """Have kubectl answer so."""
        (self.directory / f"{name}.json").write_text(json.dumps(value))

    def run(self, *arguments: str) -> int:
        """Run a command; its exit status."""
        return run(list(arguments), self.environment)

    def process(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """For commands that become another program."""
        with self.start(*arguments, **more) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start the plugin as a process."""
        command = [sys.executable, "-P", "-m", "kube_operator.plugin", *arguments]
        paths = os.pathsep.join(one for one in sys.path if one)
        environment = {**self.environment, "PYTHONPATH": paths, **more}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def calls(self) -> list[list[str]]:
        """Return what kubectl was called with."""
        lines = (self.directory / "calls").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_status_asks_in_the_namespace_and_context_that_were_given(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-n", "db", "--context", "c", "--kubeconfig", "f")
    assert world.run("status", "pg", *options) == 0
    assert "primary pg-compute-2" in capsys.readouterr().out
    common = ["kubectl", "--namespace=db", "--kubeconfig=f", "--context=c", "get"]
    assert world.calls() == [
        [*common, "postgresclusters.seawall.dev", "pg", "--output=json"],
        [*common, "pods", "--selector=seawall.dev/cluster=pg", "--output=json"],
    ]


def test_status_of_all_is_3_if_one_is_not_ready(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    new = {"metadata": {"name": "new", "namespace": "db"}, "spec": {"version": 18}}
    world.answer("postgresclusters", [CLUSTER, new])
    assert world.run("status", "-o", "json") == 3
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["pg", "new"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("status", "nope"), 'postgresclusters.seawall.dev "nope" not found'),
        (("status", "--", "--all-namespaces"), "no name of a cluster or compute"),
        (("switchover", "pg", "--to", "a=b"), "no name of a cluster or compute"),
        (("psql", "pg", "--gateway"), "there is no psql on the search path"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    world: World, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert world.run(*arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("kubectl seawall: ")
    assert sentence in said
    assert said.count("\n") == 1


def test_without_kubectl_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"], {"PATH": "/nowhere"}) == 1
    assert "there is no kubectl" in capsys.readouterr().err


def test_switchover_asks_for_any_replica_and_tells_the_answer(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answer("answer", {"seawall.dev/switchover-result": "pg-compute-1 is the primary."})
    assert world.run("switchover") == 0
    assert capsys.readouterr().out.startswith("pg-compute-1 is the primary after ")
    asked = next(call for call in world.calls() if "annotate" in call)
    assert asked == [
        "kubectl", "annotate", "--overwrite", "postgresclusters.seawall.dev", "pg",
        "seawall.dev/switchover=any", "seawall.dev/switchover-result-",
    ]  # fmt: skip


def test_switchover_that_is_refused_says_why(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = "Refused: there is no compute 'pg-compute-9'."
    world.answer("answer", {"seawall.dev/switchover-result": answer})
    assert world.run("switchover", "pg", "--to", "pg-compute-9") == 1
    said = capsys.readouterr().err
    assert said == "kubectl seawall: no switchover: there is no compute 'pg-compute-9'\n"


def test_switchover_need_not_be_waited_for_and_is_not_asked_for_twice(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answer("answer", {"seawall.dev/switchover": "any"})
    assert world.run("switchover", "pg", "--no-wait") == 0
    assert world.run("switchover", "pg") == 1
    assert "is asked for already" in capsys.readouterr().err
    assert len([call for call in world.calls() if "annotate" in call]) == 1


def test_switchover_of_several_clusters_wants_a_name(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"metadata": {"name": "orders", "namespace": "db"}, "spec": {"version": 18}}
    world.answer("postgresclusters", [other, CLUSTER])
    assert world.run("switchover") == 1
    assert "name one of orders, pg" in capsys.readouterr().err


def test_logs_become_kubectl_logs_of_all_pods_of_a_kind(world: World) -> None:
    assert world.process("logs", "pg", "-f", "--component", "log", "--tail", "7").returncode == 0
    assert world.calls()[-1] == [
        "kubectl", "logs", "--selector=seawall.dev/cluster=pg,seawall.dev/component=log",
        "--prefix", "--tail=7", "--max-log-requests=220", "--follow",
    ]  # fmt: skip


def test_psql_runs_in_the_pod_of_the_primary_without_a_password(world: World) -> None:
    world.answer("pods", [PODS[1]])
    world.with_psql()
    assert world.process("psql", "pg", "-n", "db", "--", "-c", "select 1").returncode == 0
    assert world.calls()[-2][-2].endswith(",seawall.dev/component=compute,seawall.dev/role=primary")
    assert world.calls()[-1] == [
        "kubectl", "--namespace=db", "exec", "--stdin", "pg-compute-2", "--container=compute",
        "--", "env", "PGHOST=/run/seawall/node", "PGUSER=postgres", "PGDATABASE=postgres",
        "PGCLIENTENCODING=UTF8", "PSQL_HISTORY=/dev/null", "TERM=xterm", "psql", "-c", "select 1",
    ]  # fmt: skip
    assert not [call for call in world.calls() if "secret" in call], "nobody needs it"


def test_psql_without_a_primary_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answer("pods", [])
    assert world.run("psql", "pg") == 1
    assert "pg has no primary at the moment" in capsys.readouterr().err


def test_psql_by_a_gateway_has_the_password_in_its_environment_alone(world: World) -> None:
    world.with_psql()
    done = world.process("psql", "pg", "--gateway", "--", "-l", PGHOSTADDR="192.0.2.1")
    assert done.returncode == 2, "psql's own"
    arguments, variables = json.loads(done.stdout)
    assert arguments == ["-l"]
    assert variables == {
        "PGHOST": "127.0.0.1", "PGPORT": "40123", "PGUSER": "postgres", "PGDATABASE": "postgres",
        "PGPASSWORD": PASSWORD, "PGSSLMODE": "prefer",
    }  # fmt: skip
    forward = ["kubectl", "port-forward", "--address=127.0.0.1", "service/pg", ":5432"]
    assert world.calls()[-1] == forward
    said = str(world.calls()) + done.stderr
    assert PASSWORD not in said
    assert base64.b64encode(PASSWORD.encode()).decode() not in said
    assert_is_closed(world)


def assert_is_closed(world: World) -> None:
    pid = int((world.directory / "forward.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_leaves_no_port_open(world: World, number: signal.Signals) -> None:
    world.with_psql()
    with world.start("psql", "pg", "--gateway", "--", "--wait") as process:
        assert process.stdout is not None
        process.stdout.readline()  # psql runs
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert_is_closed(world)


def test_psql_by_a_gateway_that_may_not_read_the_secret_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.with_psql()
    (world.directory / "secret.json").unlink()
    assert world.run("psql", "pg", "--gateway") == 1
    assert 'you may not read "secret"' in capsys.readouterr().err


def test_a_psql_that_a_signal_ends_has_the_status_that_shells_give_it() -> None:
    assert run_attached(["/bin/sh", "-c", "kill -TERM $$"], {}) == 143
