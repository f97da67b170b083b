"""Storage nodes as processes: what a storage node is told (see bench.node_process)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias

from bench.node_process import HOST, NodeProcess, toml_text


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec:
    """All that a storage node is told."""

    what: ClassVar[str] = "storage node"
    module: ClassVar[str] = "storage"
    ready_event: ClassVar[str] = "storage node ready"

    name: str
    cluster: str
    directory: Path  # configuration and log; the data directory is below it
    rpc_port: int
    log_nodes: Sequence[str]
    pg_bin: Path
    object_store: str | None = None
    data_dir: Path | None = None  # None: `data` in the directory
    run_dir: Path | None = None  # None: `run` in the directory; a short path
    settings: Mapping[str, object] = field(default_factory=dict)  # more of node.toml

    @property
    def rpc_address(self) -> str:
        """Where the node takes calls."""
        return f"tcp://{HOST}:{self.rpc_port}"

    @property
    def data_path(self) -> Path:
        """Where the node keeps its pages."""
        return self.data_dir or self.directory / "data"

    @property
    def run_path(self) -> Path:
        """Where its redo engines are."""
        return self.run_dir or self.directory / "run"

    def config_text(self) -> str:
        """Return the text of its configuration file."""
        values: dict[str, object] = {
            "name": self.name,
            "cluster": self.cluster,
            "data_dir": str(self.data_path),
            "run_dir": str(self.run_path),
            "rpc_listen": self.rpc_address,
            "log_nodes": list(self.log_nodes),
            "pg_bin": str(self.pg_bin),
        }
        if self.object_store is not None:
            values["object_store"] = self.object_store
        return toml_text(values | dict(self.settings))


StorageProcess: TypeAlias = NodeProcess[StorageSpec]
