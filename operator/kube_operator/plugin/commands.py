"""The commands behind their arguments: what they print, and their exit status."""

import base64
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NoReturn

from kube_operator.kube_port import CLUSTER_LABEL, Json
from kube_operator.names import (
    ANY,
    COMPONENT_LABEL,
    POSTGRES_PORT,
    PRIMARY,
    REFUSED,
    ROLE_LABEL,
    RUN_DIR,
    SWITCHOVER,
    SWITCHOVER_RESULT,
    Component,
    Names,
)
from kube_operator.spec import COMPUTES_MAX, GATEWAYS_MAX, LOG_NODES_MAX, STORAGE_NODES_MAX

from .kubectl import CLUSTERS, Kubectl, PluginError, program_of, run_attached, verified_name
from .report import json_text, summaries, text

NOT_READY: Final = 3
POLL_S: Final = 0.3
SUPERUSER: Final = "postgres"
DATABASE: Final = "postgres"
# Of libpq: they would lead elsewhere than to the forwarded port.
MISLEADING: Final = frozenset({
    "PGHOSTADDR", "PGREQUIREAUTH", "PGSERVICE", "PGSERVICEFILE", "PGTARGETSESSIONATTRS",
})  # fmt: skip
# Of each of `kubectl logs -f`, twice what a cluster can have: old and new pods side by side.
STREAMS_MAX: Final = 2 * (COMPUTES_MAX + GATEWAYS_MAX + LOG_NODES_MAX + STORAGE_NODES_MAX)


def status(kubectl: Kubectl, name: str | None, *, as_json: bool) -> int:
    """Print how a cluster is, or all of a namespace."""
    if name is None:
        clusters = kubectl.get(CLUSTERS)["items"]
        pods = kubectl.get("pods", f"--selector={CLUSTER_LABEL}")["items"]
    else:
        clusters = [kubectl.cluster(verified_name(name))]
        pods = kubectl.get("pods", f"--selector={CLUSTER_LABEL}={name}")["items"]
    found = summaries(clusters, pods, datetime.now(UTC))
    if as_json:
        print(json_text(found if name is None else found[0]))
    elif found:
        print(text(found))
    else:
        print("there are no clusters in this namespace", file=sys.stderr)
    return 0 if all(one.is_ready for one in found) else NOT_READY


def switchover(
    kubectl: Kubectl, name: str | None, to: str | None, *, waits: bool, wait_s_max: int
) -> int:
    """Ask for another primary, and wait until the operator has answered."""
    name = _only_one(kubectl) if name is None else verified_name(name)
    wanted = ANY if to is None else verified_name(to)
    began_s = time.monotonic()
    if SWITCHOVER in _annotations(kubectl.cluster(name)):
        raise PluginError(
            f"a switchover of {name} is asked for already; to withdraw it: "
            f"kubectl annotate {CLUSTERS} {name} {SWITCHOVER}-"
        )
    kubectl.annotate(name, {SWITCHOVER: wanted, SWITCHOVER_RESULT: None})
    if not waits:
        print(f"a switchover of {name} is asked for")
        return 0
    result = _answer(kubectl, name, began_s + wait_s_max)
    if result.startswith(REFUSED):
        raise PluginError(f"no switchover: {result.removeprefix(REFUSED).removesuffix('.')}")
    print(f"{result.removesuffix('.')} after {time.monotonic() - began_s:.1f} s")
    return 0


def _only_one(kubectl: Kubectl) -> str:
    names = [str(one["metadata"]["name"]) for one in kubectl.get(CLUSTERS)["items"]]
    if not names:
        raise PluginError("there are no clusters in this namespace")
    if len(names) > 1:
        raise PluginError(f"there are several clusters: name one of {', '.join(sorted(names))}")
    return names[0]


def _answer(kubectl: Kubectl, name: str, end_s: float) -> str:
    """Return what the operator says of a request, when it is over."""
    while True:
        annotations = _annotations(kubectl.cluster(name))
        if SWITCHOVER not in annotations:
            if SWITCHOVER_RESULT not in annotations:
                raise PluginError("somebody has withdrawn the request for a switchover")
            return annotations[SWITCHOVER_RESULT]
        if time.monotonic() > end_s:
            raise PluginError(
                "the switchover is not done yet: does the operator run, and has the log a leader? "
                f"To withdraw the request: kubectl annotate {CLUSTERS} {name} {SWITCHOVER}-"
            )
        time.sleep(POLL_S)


def _annotations(cluster: Json) -> Mapping[str, str]:
    return cluster["metadata"].get("annotations") or {}


def logs(
    kubectl: Kubectl, name: str, component: Component | None, *, follows: bool, lines: int
) -> NoReturn:
    """Become `kubectl logs` of all pods of a cluster, or of one kind."""
    kubectl.cluster(verified_name(name))  # for a better sentence than "No resources found"
    selector = f"{CLUSTER_LABEL}={name}"
    if component is not None:
        selector += f",{COMPONENT_LABEL}={component}"
    options = ["--prefix", f"--tail={lines}", f"--max-log-requests={STREAMS_MAX}"]
    kubectl.become("logs", f"--selector={selector}", *options, *(["--follow"] * follows))


def psql(
    kubectl: Kubectl, name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> NoReturn:
    """Become psql in the primary's pod, over its socket, which takes no password."""
    kubectl.cluster(verified_name(name))
    selector = (
        f"{CLUSTER_LABEL}={name},{COMPONENT_LABEL}={Component.COMPUTE},{ROLE_LABEL}={PRIMARY}"
    )
    pods = [
        str(pod["metadata"]["name"])
        for pod in kubectl.get("pods", f"--selector={selector}")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    if not pods:
        raise PluginError(f"{name} has no primary at the moment: see `kubectl seawall status`")
    variables = {
        "PGHOST": f"{RUN_DIR}/node",
        "PGUSER": SUPERUSER,
        "PGDATABASE": DATABASE,
        "PGCLIENTENCODING": "UTF8",  # the pod has no locale to tell it by
        "PSQL_HISTORY": "/dev/null",  # its file system is read-only
        "TERM": environment.get("TERM", "dumb"),
    }
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    settings = [f"{variable}={value}" for variable, value in variables.items()]
    command = ["env", *settings, "psql", *arguments]
    container = f"--container={Component.COMPUTE}"
    kubectl.become("exec", "--stdin", *terminal, pods[0], container, "--", *command)


def psql_by_gateway(
    kubectl: Kubectl, name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> int:
    """Run the psql of this machine, through a gateway, as the superuser of the Secret."""
    program = program_of("psql", environment, "leave --gateway out, and the primary's is run")
    names = Names(verified_name(name), "")
    data = kubectl.get("secret", names.superuser_secret).get("data") or {}
    if "password" not in data:
        raise PluginError(f"the Secret {names.superuser_secret} has no password")
    with kubectl.forward(f"service/{names.gateway_service}", POSTGRES_PORT) as port:
        login = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": SUPERUSER,
            "PGDATABASE": DATABASE,
            "PGPASSWORD": base64.b64decode(data["password"]).decode(),
            # No certificate is for 127.0.0.1; the way to the gateway's own host is the API's TLS.
            "PGSSLMODE": "prefer",
        }
        kept = {name: value for name, value in environment.items() if name not in MISLEADING}
        return run_attached([program, *arguments], {**kept, **login})
