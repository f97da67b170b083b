"""The parts of Kubernetes that make objects come true: pods run, volumes are bound.

A pod gets an address of its own out of 127.0.0.0/8, and what its node of ours would listen to there
does so: a log or storage node with the certificate of its Secret, a gateway's port for probes. Then
it is Running and Ready. A Deployment gets its pods at once.
"""

import asyncio
import base64
import os
from collections import Counter
from datetime import UTC, datetime
from typing import Final

from fabric.addresses import TcpAddress
from fabric.certificates import Pem
from fabric.ids import NodeName
from fabric.rpc_server import RpcServer

from .nodes import FakeCluster, close_all, log_server, storage_server
from .objects import Change, Json, Objects
from .server_tls import node_context

CLUSTER_LABEL: Final = "seawall.dev/cluster"
COMPONENT_LABEL: Final = "seawall.dev/component"
RPC_PORT: Final = 7400
METRICS_PORT: Final = 9464
HOSTS: Final = 50  # nodes of Kubernetes
NET_FIRST, NETS = 64, 128  # 127.64.0.0/16 and so on: one for each process that runs meanwhile
PROBES: Final = "gateway.probe"  # among the calls: somebody has connected to a gateway


class Kubelet:
    """Makes true what is in the API, from its construction on."""

    def __init__(self, objects: Objects) -> None:
        self.calls: Counter[str] = Counter()
        self._objects = objects
        self._clusters: dict[tuple[str, str], FakeCluster] = {}
        self._servers: list[RpcServer | asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods = 0
        self._net = os.getpid() % NETS
        objects.on_change.append(self._hear)
        for number in range(HOSTS):
            objects.put("nodes", _host(number))

    async def close(self) -> None:
        """Stop all nodes."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await close_all(self._servers)

    def failures(self) -> list[str]:
        """Return why pods do not run that should."""
        return [str(task.exception()) for task in self._tasks if task.done() and task.exception()]

    def _hear(self, plural: str, change: Change) -> None:
        if change.type != "ADDED":
            return
        thing = change.thing
        namespace, name = thing["metadata"].get("namespace", ""), thing["metadata"]["name"]
        if plural == "pods":
            task = asyncio.get_running_loop().create_task(self._start(thing))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        elif plural == "deployments":
            asyncio.get_running_loop().call_soon(self._deploy, thing)
        elif plural == "persistentvolumeclaims":
            bound = {"phase": "Bound", "accessModes": thing["spec"]["accessModes"]}
            status = (plural, namespace, name, bound)
            asyncio.get_running_loop().call_soon(lambda: self._objects.set_status(*status))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is None:
            self._tasks.discard(task)

    def _deploy(self, deployment: Json) -> None:
        metadata, spec = deployment["metadata"], deployment["spec"]
        for number in range(spec["replicas"]):
            template = spec["template"]
            name = f"{metadata['name']}-7d9f8b6c54-{number:05}"
            made = {**template["metadata"], "namespace": metadata["namespace"], "name": name}
            made["ownerReferences"] = [_replica_set(deployment)]
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": made, "spec": template["spec"]}
            self._objects.put("pods", pod)
        count = spec["replicas"]
        status = {"replicas": count, "readyReplicas": count, "availableReplicas": count}
        self._objects.set_status("deployments", metadata["namespace"], metadata["name"], status)

    async def _start(self, pod: Json) -> None:
        metadata = pod["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        self._pods += 1
        address = address_of_pod(self._pods, net=self._net)
        key = (namespace, metadata["labels"][CLUSTER_LABEL])
        cluster = self._clusters.setdefault(key, FakeCluster(key[1]))
        node = NodeName(name)
        match metadata["labels"][COMPONENT_LABEL]:
            case "log":
                await self._listen(log_server(cluster, node, self.calls), namespace, name, address)
            case "storage":
                server = storage_server(cluster, node, self.calls)
                await self._listen(server, namespace, name, address)
            case "gateway":
                probed = await asyncio.start_server(self._probed, address, METRICS_PORT)
                self._servers.append(probed)
            case _:
                cluster.computes.append(node)
                cluster.changed()
        there = self._objects.find("pods", namespace, name)
        if there is not None:
            spec = {**there["spec"], "nodeName": f"host-{self._pods % HOSTS}"}
            status = _running(pod, address)
            self._objects.put("pods", {**there, "spec": spec, "status": status})

    async def _listen(self, server: RpcServer, namespace: str, node: str, address: str) -> None:
        secret = self._objects.find("secrets", namespace, f"{node}-tls")
        if secret is None:
            raise LookupError(f"{node} has no certificate")
        names = ("tls.crt", "tls.key", "ca.crt")
        certificate, key, authority = (base64.b64decode(secret["data"][name]) for name in names)
        context = node_context(Pem(certificate, key), authority)
        await server.listen(TcpAddress(address, RPC_PORT), context)
        self._servers.append(server)

    def _probed(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls[PROBES] += 1
        writer.close()


def address_of_pod(number: int, *, net: int) -> str:
    """Return an address of this machine that no other pod has."""
    assert number < 1 << 16, "that many do not fit into one of our nets"
    return f"127.{NET_FIRST + net}.{number >> 8}.{number & 255}"


def _replica_set(deployment: Json) -> Json:
    """Return who owns a gateway's pod, though there is none here."""
    name = f"{deployment['metadata']['name']}-7d9f8b6c54"
    uid = f"{deployment['metadata']['uid']}-7d9f8b6c54"
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid,
            "controller": True, "blockOwnerDeletion": True}  # fmt: skip


def _host(number: int) -> Json:
    addresses = [{"type": "InternalIP", "address": f"10.0.0.{number}"}]
    capacity = {"cpu": "16", "memory": "65536Mi", "pods": "110"}
    conditions = [_condition("Ready", "True")]
    status = {"addresses": addresses, "capacity": capacity, "conditions": conditions}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"host-{number}"},
            "spec": {}, "status": status}  # fmt: skip


def _running(pod: Json, address: str) -> Json:
    kinds = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "hostIP": "10.0.0.1",
        "conditions": [_condition(kind, "True") for kind in kinds],
        "containerStatuses": [
            {
                "name": container["name"], "image": container["image"], "ready": True,
                "started": True, "restartCount": 0, "imageID": f"sha256:{'0' * 64}",
                "containerID": f"containerd://{'0' * 64}", "lastState": {},
                "state": {"running": {"startedAt": _now()}},
            }
            for container in pod["spec"]["containers"]
        ],
        "qosClass": "BestEffort",
        "startTime": _now(),
    }  # fmt: skip


def _condition(kind: str, status: str) -> Json:
    return {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
