"""How pods are given time to end: what the manifests promise, and what the programs in the pods are
told. That they keep it is tested with real processes: tests/integration/test_replica_drain.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fabric.settings import load
from gateway.settings import GatewaySettings
from kube_operator.manifests.configuration import config_map
from kube_operator.manifests.gateway import gateway_deployment
from kube_operator.manifests.pods import Images, node_pod
from kube_operator.names import SECRETS_DIR, Component, Names
from kube_operator.spec import ClusterSpec, decode_spec
from sqlnode.compute.settings import AgentSettings

if TYPE_CHECKING:
    from pathlib import Path

NAMES = Names("pg", "ns")
IMAGES = Images(seawall="s", compute="c")
MOST_S = 10  # of a replica whose statements were cut off: it has nothing to write


def settings_of(kind: type[Any], spec: ClusterSpec, component: Component, folder: Path) -> Any:
    """Return what a program reads of its ConfigMap and its Secret."""
    for name in ("standby-password", "gateway-password", "gateway-admin-password"):
        (folder / name).write_text("secret")
    text = config_map(NAMES, spec, component)["data"]["node.toml"]
    (folder / "node.toml").write_text(text.replace(SECRETS_DIR, str(folder)))
    environment = {
        "SEAWALL_NAME": "pg-1",
        "SEAWALL_INGEST_ADDRESS": "tcp://h:1",
        "SEAWALL_PG_ADVERTISE": "h:1",
    }
    known = {"SEAWALL_NAME"} if kind is GatewaySettings else environment.keys()
    return load(kind, folder / "node.toml", {name: environment[name] for name in known})


@pytest.mark.parametrize("seconds", [0, 30, 3600])
def test_a_replica_has_the_time_to_drain_and_to_shut_down(seconds: int, tmp_path: Path) -> None:
    spec = decode_spec({"version": 17, "compute": {"drainSeconds": seconds}})
    settings = settings_of(AgentSettings, spec, Component.COMPUTE, tmp_path)
    assert settings.drain_ms == seconds * 1000
    pod = node_pod(NAMES, spec, IMAGES, Component.COMPUTE, "pg-compute-1")
    assert pod["spec"]["terminationGracePeriodSeconds"] >= seconds + MOST_S


def test_a_gateway_takes_clients_until_its_service_leads_elsewhere(tmp_path: Path) -> None:
    spec = decode_spec({"version": 17})
    settings = settings_of(GatewaySettings, spec, Component.GATEWAY, tmp_path)
    deployment = gateway_deployment(NAMES, spec, IMAGES, certificate="")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    sleeps_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleeps_s > 0
    ends_s = sleeps_s + settings.limits.shutdown_ms / 1000
    assert pod["terminationGracePeriodSeconds"] > ends_s


def test_gateways_stay_below_max_connections_while_they_are_replaced() -> None:
    """The rule is the API server's (rule_cases.py); this is what it counts on."""
    spec = decode_spec({"version": 17})
    deployment = gateway_deployment(NAMES, spec, IMAGES, certificate="")
    surge = deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    assert surge == 1
    assert (spec.gateway.replicas + surge) * spec.gateway.server_connections_max <= 100 - 10
