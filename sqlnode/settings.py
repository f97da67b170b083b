"""The settings of the broker process, read from one TOML file and the environment."""

from dataclasses import dataclass, field
from pathlib import Path

from fabric.logs import LogSettings
from fabric.metrics import MetricsSettings

from .pagefault.block_map import Waits


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """What `python -m sqlnode` needs to serve one run directory."""

    run_dir: Path
    source_dir: Path  # the directory that pages come from, until storage nodes give them
    server_version: str  # of the postgres that will run here, as `postgres --version` says it
    system_identifier: int | None = None  # of the cluster, where it is known; another is refused
    tracks_changes: bool = False  # somebody harvests: remember what was removed
    verify_checksums: bool = True  # False only for clusters without data checksums
    fill: bool = False  # fetch everything in the background: for offline tools
    waits: Waits = field(default_factory=Waits)
    logs: LogSettings = field(default_factory=LogSettings)
    metrics: MetricsSettings | None = None  # None: no endpoint
