"""A node: containerd, kubelet and kube-proxy on a machine of its own, and what can befall it."""

import json
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path

from . import network
from .api import Api, ApiError, JsonObject
from .commands import run
from .control_plane import FILES, SERVER, proxy_configuration, start_proxy
from .errors import RigError
from .images import PAUSE_IMAGE
from .layout import (
    ADDRESSES,
    CGROUP,
    CLUSTER_DOMAIN,
    CONTROL,
    POD_NETWORKS,
    ZONES,
)
from .machine import Machine
from .pki import Authority
from .records import wait_until

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CONTAINERD_TIMEOUT_S = 30.0
CONTAINERD_SERVES = b'msg="Start streaming server"'  # the last step of its start, in its log
IMPORT_TIMEOUT_S = 300.0  # an image with PostgreSQL takes 8 s
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_TIMEOUT_S = 20.0
CNI_PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins

CONTAINERD_CONFIGURATION = f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]  # it would make a directory on the host

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true  # where we may not lower it, nothing else would start
disable_apparmor = true  # it would load a profile into the host's kernel

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "/run/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


class Node:
    """One node by its machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @property
    def name(self) -> str:
        """The node's name, for Kubernetes and for us."""
        return self.machine.name

    @property
    def address(self) -> str:
        """The node's address."""
        return ADDRESSES[self.name]

    def write_files(self, authority: Authority) -> None:
        """Write the node's identity, and the configurations of its three programs."""
        write = self.machine.write
        user = f"system:node:{self.name}"
        serving = authority.sign(user, groups=["system:nodes"], names=[self.name, self.address])
        write(f"{FILES}/authority.crt", authority.identity.certificate)
        write(f"{FILES}/kubelet.crt", serving.certificate)
        write(f"{FILES}/kubelet.key", serving.key, mode=0o600)
        for name, who, groups in (
            ("kubelet", user, ["system:nodes"]),
            ("proxy", "system:kube-proxy", []),
        ):
            content = authority.kubeconfig(SERVER, who, groups=groups)
            write(f"{FILES}/{name}.kubeconfig", content, mode=0o600)
        write(f"{FILES}/kubelet.json", json.dumps(_kubelet_configuration(self.name)))
        write(f"{FILES}/proxy.json", json.dumps(proxy_configuration(self.name)))
        write(f"{FILES}/containerd.toml", CONTAINERD_CONFIGURATION)

    def start_runtime(self) -> None:
        """Give the node its network and its first process, and start containerd."""
        network.plug(self.name)
        _make_cgroups(self.name)
        self.machine.prepare()
        # /run is empty after every boot, so this is written here and not with the other files.
        self.machine.write("/run/cni/10-pods.conflist", json.dumps(_pod_network(self.name)))
        self.machine.boot()
        before = self._runtime_starts()
        self.machine.start(
            "containerd", ["/usr/bin/containerd", f"--config={FILES}/containerd.toml"]
        )
        self._wait_for_runtime(before)

    def _wait_for_runtime(self, before: int) -> None:
        """Wait until containerd serves kubelet: not only listens, but knows its containers again.

        kubelet ends when it is told that the server is not initialized yet.
        """
        containerd = self.machine.process("containerd")
        wait_until(
            lambda: self._runtime_starts() > before or not containerd.alive(),
            CONTAINERD_TIMEOUT_S,
        )
        if self._runtime_starts() == before:
            log = self.machine.log_tail("containerd")
            raise RigError(f"containerd of {self.name} did not start: {log}")

    def _runtime_starts(self) -> int:
        """How often containerd has said that it serves."""
        log = self.machine.log("containerd")
        return log.read_bytes().count(CONTAINERD_SERVES) if log.exists() else 0

    def start_kubelet(self) -> None:
        """Start kubelet, which registers the node, and kube-proxy."""
        command = ["/run/bin/kubelet", f"--config={FILES}/kubelet.json"]
        command += [f"--kubeconfig={FILES}/kubelet.kubeconfig", f"--hostname-override={self.name}"]
        command += [f"--node-ip={self.address}", "--runtime-cgroups=/"]
        command += [f"--node-labels=topology.kubernetes.io/zone={ZONES[self.name]}"]
        self.machine.start("kubelet", command)
        start_proxy(self.machine)

    def import_archive(self, archive: Path) -> None:
        """Load an image from an archive of docker's or OCI's format."""
        command = ["ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io"]
        # Through standard input, since a machine has its own /run and /var/lib.
        words = self.machine.enter([*command, "images", "import", "-"])
        run(words, given=archive, timeout_s=IMPORT_TIMEOUT_S)

    def ready(self, api: Api) -> bool:
        """Whether the API server counts the node as ready."""
        try:
            node = api.request("GET", f"/api/v1/nodes/{self.name}")
        except (ApiError, OSError):
            return False
        conditions = node["status"].get("conditions", [])
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in conditions
        )

    def lose(self) -> None:
        """Pull the node's power cord: all of its processes and its network are gone at once.

        Nobody is told: whoever was connected hears nothing more. Its disk stays, with volumes and
        images.
        """
        network.cut(self.name)  # first, so that no dying process says good-bye
        self.machine.power_off()
        network.unplug(self.name)
        remove_cgroups(self.name)

    def return_(self) -> None:
        """Switch a lost node on again."""
        self.start_runtime()
        self.start_kubelet()

    def cut(self) -> None:
        """Cut the node off from everybody, while everything on it goes on."""
        network.cut(self.name)

    def mend(self) -> None:
        """Connect a node again that was cut off."""
        network.mend(self.name)

    def pause_kubelet(self) -> None:
        """Stop kubelet where it is: containers go on, nobody looks after them."""
        self.machine.process("kubelet").signal(signal.SIGSTOP)

    def resume_kubelet(self) -> None:
        """Let a paused kubelet go on."""
        self.machine.process("kubelet").signal(signal.SIGCONT)


def _kubelet_configuration(node: str) -> JsonObject:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESSES[node],
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{FILES}/authority.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{FILES}/kubelet.crt",
        "tlsPrivateKeyFile": f"{FILES}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}/{node}",
        "enforceNodeAllocatable": [],  # two nodes share the memory of one machine
        "failSwapOn": False,
        "clusterDNS": [ADDRESSES[CONTROL]],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "",  # the host's would lead out of the cluster
        "volumePluginDir": "/var/lib/volume-plugins",  # the default would be made on the host
        # A full disk of the host is not the cluster's affair; and images are never pulled again.
        "evictionHard": {
            "imagefs.available": "0%",
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
    }


def _pod_network(node: str) -> JsonObject:
    """Each pod has a veth to its node and is routed: also a pod that asks for its own service."""
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": POD_NETWORKS[node]}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni/addresses",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _hierarchies() -> list[Path]:
    """Where cgroups are: a folder for each controller of version 1, or one for all of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    # Also version 2's `unified`, which has no controllers here: runc makes its groups there too.
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroups(node: str) -> None:
    for hierarchy in _hierarchies():
        for folder in (hierarchy / CGROUP, hierarchy / CGROUP / node):
            folder.mkdir(exist_ok=True)
            for inherited in ("cpuset.cpus", "cpuset.mems"):  # empty at first, in version 1
                if hierarchy.name == "cpuset":
                    (folder / inherited).write_text((folder.parent / inherited).read_text())


def remove_cgroups(node: str = "") -> None:
    """Remove the cgroups of a node, or of the rig; their processes have ended."""
    for hierarchy in _hierarchies():
        top = hierarchy / CGROUP / node
        if not wait_until(partial(_remove_tree, top), CGROUP_TIMEOUT_S):
            raise RigError(f"the cgroup {top} cannot be removed: a process is still in it")


def _remove_tree(top: Path) -> bool:
    """Whether a cgroup and all below it are gone now; a kernel under load needs a moment."""
    for folder, _, _ in os.walk(top, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)
    return not top.exists()
