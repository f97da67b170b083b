"""Where everything of a rig is: directories, names, addresses.

The names of network namespaces and of the cgroup are the same for every rig, so that `down` finds
them even when nothing was recorded. Hence a machine has one rig at a time.

The addresses are of 198.18.0.0/15, which is set aside for tests of networks: nobody's real network
has them, and no name or packet of ours can reach a stranger.
"""

from dataclasses import dataclass
from pathlib import Path

STATE_DIRECTORY = Path("/run/seawall-e2e")
# Images and volumes are large, and /run is in memory on most machines.
DATA_DIRECTORY = Path("/var/lib/seawall-e2e")

CONTROL = "control"
NODES = ("node-1", "node-2")
ZONES = {"node-1": "a", "node-2": "b"}
SWITCH = "switch"

CLUSTER_DOMAIN = "cluster.local"
CLUSTER_NETWORK = "198.18.0.0/16"  # everything below; the host routes what is not its own
HOST_ADDRESS = "198.18.0.1"
ADDRESSES = {CONTROL: "198.18.0.10", "node-1": "198.18.0.11", "node-2": "198.18.0.12"}
PREFIX_LENGTH = 24
POD_NETWORK = "198.18.128.0/17"
POD_NETWORKS = {"node-1": "198.18.129.0/24", "node-2": "198.18.130.0/24"}
SERVICE_NETWORK = "198.18.64.0/20"
API_SERVICE_ADDRESS = "198.18.64.1"  # the first of the service network, by Kubernetes' own rule
API_PORT = 6443

CGROUP = "seawall-e2e"
NAMESPACE_PREFIX = "seawall-"
HOST_LINK = "seawall-e2e"  # a link's name has 15 characters at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The directories of one rig: `state` is small and tells what runs, `data` is large."""

    state: Path
    data: Path

    @classmethod
    def at(cls, directory: Path | None) -> "Layout":
        """The layout of a rig in this directory, or in the usual two."""
        if directory is None:
            return cls(state=STATE_DIRECTORY, data=DATA_DIRECTORY)
        return cls(state=directory.absolute(), data=directory.absolute() / "data")

    @property
    def kubeconfig(self) -> Path:
        """How an administrator on the host reaches the cluster."""
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        """What the programs of the cluster print, one folder for each machine."""
        return self.state / "logs"

    def machine(self, name: str) -> Path:
        """The private files of one machine."""
        return self.data / "machines" / name


def namespace(name: str) -> str:
    """What `ip netns` calls the network namespace of a machine."""
    return NAMESPACE_PREFIX + name


def namespaces() -> list[str]:
    """Every network namespace of a rig; the switch is last, since the others' links end in it."""
    return [namespace(name) for name in (*NODES, CONTROL, SWITCH)]
