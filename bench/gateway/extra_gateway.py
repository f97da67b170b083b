"""A gateway of the benchmark's own beside that of the cluster, with some settings changed."""

import contextlib
import random
import tomllib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from bench.node_process import HOST, NodeProcess, free_ports, toml_text

from .ways import GATEWAY, Way
from .world import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    """All that it is told."""

    what: ClassVar[str] = "gateway"
    module: ClassVar[str] = "gateway"
    ready_event: ClassVar[str] = "gateway ready"

    name: str
    directory: Path
    values: Mapping[str, object]

    def config_text(self) -> str:
        """Return the text of its configuration file."""
        return toml_text(self.values)


def changed(
    values: Mapping[str, object], *, run_dir: Path, port: int, **changes: object
) -> dict[str, object]:
    """Return settings of a gateway beside the one that has these values. Tables are merged."""
    merged = {
        name: {**before, **change}
        if isinstance(change, Mapping) and isinstance(before := values.get(name), Mapping)
        else change
        for name, change in changes.items()
    }
    return {**values, **merged, "run_dir": str(run_dir), "listen": f"tcp://{HOST}:{port}"}


@contextlib.asynccontextmanager
async def with_own_gateway(stage: Stage, **changes: object) -> AsyncIterator[Stage]:
    """The same stage with such a gateway in the place of the cluster's."""
    values = tomllib.loads(stage.config_of_gateway().read_text(encoding="utf-8"))
    directory = stage.place.new_directory("gateway")
    run_dir = stage.place.new_directory("g")
    (port,) = free_ports(1, random.Random())  # noqa: S311  # not a secret
    spec = GatewaySpec(
        name=str(values["name"]),
        directory=directory,
        values=changed(values, run_dir=run_dir, port=port, **changes),
    )
    node = NodeProcess(spec)
    node.start()
    try:
        yield replace(stage, gateway=Way(GATEWAY, port, node.pid))
    finally:
        with contextlib.ExitStack() as ends:
            ends.callback(node.kill)
            if node.running:
                node.stop()
