"""Log nodes as processes: what a log node is told (see bench.node_process)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias

from bench.node_process import HOST, NodeError, NodeProcess, free_ports, toml_text

__all__ = ["HOST", "LogNode", "NodeError", "NodeSpec", "free_ports"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """All that a node is told."""

    what: ClassVar[str] = "log node"
    module: ClassVar[str] = "log_service"
    ready_event: ClassVar[str] = "log node ready"

    name: str
    cluster: str
    directory: Path  # configuration and log; the data directory is below it
    rpc_port: int
    pg_port: int
    object_store: str | None = None
    data_dir: Path | None = None  # None: `data` in the directory
    peer_addresses: Mapping[str, str] = field(default_factory=dict)  # where it finds other nodes
    settings: Mapping[str, object] = field(default_factory=dict)  # more of node.toml

    @property
    def rpc_address(self) -> str:
        """Where the node takes calls."""
        return f"tcp://{HOST}:{self.rpc_port}"

    @property
    def pg_address(self) -> str:
        """Where the node serves WAL."""
        return f"tcp://{HOST}:{self.pg_port}"

    @property
    def data_path(self) -> Path:
        """Where the node keeps its groups."""
        return self.data_dir or self.directory / "data"

    def config_text(self) -> str:
        """Return the text of its configuration file."""
        values: dict[str, object] = {
            "name": self.name,
            "cluster": self.cluster,
            "data_dir": str(self.data_path),
            "rpc_listen": self.rpc_address,
            "pg_listen": self.pg_address,
        }
        if self.object_store is not None:
            values["object_store"] = self.object_store
        if self.peer_addresses:
            values["peer_addresses"] = self.peer_addresses
        return toml_text(values | dict(self.settings))


LogNode: TypeAlias = NodeProcess[NodeSpec]
