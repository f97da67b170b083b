"""The settings of the operator, as its environment gives them: SEAWALL_OPERATOR_*."""

from dataclasses import dataclass, field

from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings

from .manifests.pods import Images
from .runtime import RuntimeSettings
from .spec import ClusterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """Everything that the operator has to know before it starts."""

    identity: str
    """Of this process: the name of its pod."""

    image_seawall: str
    """Of log nodes and gateways, for clusters that name none."""

    image_compute: dict[str, str] = field(default_factory=dict)
    """Of computes and storage nodes, by PostgreSQL's major, as {"17": "seawall/compute:1-pg17"}."""

    kubeconfig: str | None = None
    """How to reach the API from outside of a cluster; None: as a pod does, or KUBECONFIG."""

    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    logs: LogSettings = field(default_factory=LogSettings)

    def images_for(self, spec: ClusterSpec) -> Images:
        """Return what a cluster runs; ValueError if nobody says."""
        compute = spec.images.compute or self.image_compute.get(str(spec.version))
        if compute is None:
            known = ", ".join(sorted(self.image_compute)) or "none"
            raise ValueError(
                f"spec.version {spec.version} has no image here (there are {known}): set "
                "spec.images.compute"
            )
        return Images(seawall=spec.images.seawall or self.image_seawall, compute=compute)
