"""A pod in which a client of a cluster runs, as applications have one: restricted, and with no more
than the cluster's Secret.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from e2e.operator_world import image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.operator_world import Cluster, Json

USER_ID = 10001


@contextmanager
def client_pod(cluster: Cluster, name: str, script: str) -> Iterator[str]:
    """Run a shell script once, with psql, pgbench and `$URI`, until the block ends."""
    cluster.kubectl("apply", "-f", "-", given=json.dumps(_manifest(cluster, name, script)))
    try:
        yield name
    finally:
        cluster.kubectl("delete", "pod", name, "--now")


def _manifest(cluster: Cluster, name: str, script: str) -> Json:
    uri = {"secretKeyRef": {"name": f"{cluster.name}-superuser", "key": "uri"}}
    container = {
        "name": "client", "image": image("compute"), "command": ["sh", "-c", script],
        "env": [{"name": "URI", "valueFrom": uri}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    context = {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "securityContext": context, "containers": [container]},
    }  # fmt: skip
