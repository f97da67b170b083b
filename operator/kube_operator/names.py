"""Names, labels, ports and paths: what manifests, plans and people call things."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fabric.ids import BranchName

from .kube_port import CLUSTER_LABEL
from .spec import GROUP

BRANCH: Final = BranchName("main")

COMPONENT_LABEL: Final = f"{GROUP}/component"
NODE_LABEL: Final = f"{GROUP}/node"
ROLE_LABEL: Final = f"{GROUP}/role"
"""Of computes alone: what the log's leader says they are. Services select by it."""

SERVING_LABEL: Final = f"{GROUP}/serving"
"""Of gateways alone: whether one answers. Kubernetes takes 50 s to see that a node has gone."""

REVISION: Final = f"{GROUP}/revision"
"""Annotation of a pod: a digest of all that it was made of. Another one: it is to be replaced."""
EXPIRES: Final = f"{GROUP}/expires"
"""Annotation of a Secret with a certificate: when it is to be renewed, in RFC 3339."""
SIGNED_BY: Final = f"{GROUP}/signed-by"
"""Annotation of a Secret with a certificate: the authority that signed it."""
SINCE: Final = f"{GROUP}/since"
"""Annotation of the authority's Secret: when its last step was, in RFC 3339; plan_rotation.py."""
IDENTITY: Final = f"{GROUP}/system-identifier"
"""Annotation of a claim: the database whose data is in the volume."""
DATA_VERSION: Final = f"{GROUP}/postgres-version"
"""Annotation of a claim: the major version of PostgreSQL whose data is, or will be, in it."""
KEEPER: Final = f"{GROUP}/keep-data"
"""Finalizer of a cluster whose data outlives it; plan_ownership.py."""

SWITCHOVER: Final = f"{GROUP}/switchover"
"""Annotation of a cluster: which compute is to become the primary, or ANY; plan_switchover.py."""
SWITCHOVER_RESULT: Final = f"{GROUP}/switchover-result"
"""Annotation of a cluster: what has become of the last request; REFUSED, if it was not done."""
ROTATE: Final = f"{GROUP}/rotate-certificates"
"""Annotation of a cluster: it is to have another authority; plan_rotation.py."""
ROTATE_RESULT: Final = f"{GROUP}/rotate-certificates-result"
"""Annotation of a cluster: what has become of the last request; REFUSED, if it was not done."""
ANY: Final = "any"
REFUSED: Final = "Refused: "

CONFIG_DIR: Final = "/etc/seawall/config"
CONFIG_FILE: Final = f"{CONFIG_DIR}/node.toml"
TLS_DIR: Final = "/etc/seawall/tls"
SECRETS_DIR: Final = "/etc/seawall/secrets"
SERVER_TLS_DIR: Final = "/etc/seawall/server-tls"
CLIENT_CA_DIR: Final = "/etc/seawall/client-ca"
DATA_DIR: Final = "/var/lib/seawall"
RUN_DIR: Final = "/run/seawall"
NODE_PROGRAM: Final = "/opt/seawall/bin/seawall-node"

RPC_PORT: Final = 7400
WAL_PORT: Final = 7401
POSTGRES_PORT: Final = 5432
METRICS_PORT: Final = 9464


class Component(StrEnum):
    """A kind of pod."""

    LOG = "log"
    STORAGE = "storage"
    COMPUTE = "compute"
    GATEWAY = "gateway"


PRIMARY: Final = "primary"
REPLICA: Final = "replica"
SERVING: Final = "true"
SILENT: Final = "false"


@dataclass(frozen=True, slots=True)
class Names:
    """What belongs to one cluster is called."""

    cluster: str
    namespace: str

    def of(self, component: Component) -> str:
        """Return the name of what all nodes of a kind share: Service, ConfigMap, policy."""
        return f"{self.cluster}-{component}"

    def node(self, component: Component, number: int) -> str:
        """Return the name of a node: of its pod, its volume and in its certificate."""
        return f"{self.cluster}-{component}-{number}"

    def number(self, component: Component, node: str) -> int | None:
        """Return the number in a node's name; None: it is no such name."""
        head, _, tail = node.rpartition("-")
        return int(tail) if head == self.of(component) and tail.isdigit() else None

    def host(self, component: Component, node: str) -> str:
        """Return the name by which a node is reached, whatever its address is at the moment."""
        return f"{node}.{self.of(component)}.{self.namespace}.svc"

    def tls_secret(self, node: str) -> str:
        """Return the Secret with a node's certificate."""
        return f"{node}-tls"

    @property
    def authority_secret(self) -> str:
        """The CA's certificate and key; the operator alone reads it."""
        return f"{self.cluster}-ca"

    @property
    def superuser_secret(self) -> str:
        """What applications connect with at first."""
        return f"{self.cluster}-superuser"

    @property
    def internal_secret(self) -> str:
        """What nodes need to trust each other besides certificates."""
        return f"{self.cluster}-internal"

    @property
    def gateway_service(self) -> str:
        """The one address for reads and writes."""
        return self.cluster

    @property
    def primary_service(self) -> str:
        """The primary, without a hop."""
        return f"{self.cluster}-primary"

    @property
    def replicas_service(self) -> str:
        """The replicas, without a hop."""
        return f"{self.cluster}-replicas"

    def labels(self, component: Component | None = None, node: str | None = None) -> dict[str, str]:
        """Return the labels of an object."""
        labels = {
            CLUSTER_LABEL: self.cluster,
            "app.kubernetes.io/name": "seawall",
            "app.kubernetes.io/instance": self.cluster,
            "app.kubernetes.io/managed-by": "seawall-operator",
        }
        if component is not None:
            labels |= {COMPONENT_LABEL: component, "app.kubernetes.io/component": component}
        if node is not None:
            labels[NODE_LABEL] = node
        return labels

    def selector(self, component: Component) -> dict[str, str]:
        """Return the labels that all pods of a kind have, and no others."""
        return {CLUSTER_LABEL: self.cluster, COMPONENT_LABEL: component}
