"""Our side of the comparison: a compute's primary and the log, on this machine."""

import contextlib
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.pagefault.workspace import Workspace

from .cluster import SYNCHRONOUS, Cluster
from .control import log_control
from .nodes import LogNode, NodeSpec, free_ports
from .sides import Side, new_server, synchronous

NODES: Final = ("log-1", "log-2", "log-3")
CLUSTER: Final = "bench"
BRANCH: Final = "main"


@contextlib.contextmanager
def our_side(place: Workspace, origin: Path) -> Iterator[tuple[Side, Cluster]]:
    """A primary with the settings of a compute, whose commits wait for three log nodes."""
    nodes = _nodes(place.new_directory("log"))
    primary = new_server(place, place.copy_cluster(origin, "ours"), is_stock=False)
    with contextlib.ExitStack() as ends:
        ends.callback(primary.kill_blocking)
        control = ends.enter_context(log_control(nodes, branch=BRANCH))
        cluster = Cluster(nodes, control)
        ends.callback(cluster.stop)
        for node in nodes.values():
            node.start()
        control.create_group(primary.data_dir, str(place.binaries.version))
        primary.start_blocking()
        control.grant_epoch(holder="primary", server=primary)
        synchronous(primary, SYNCHRONOUS, streams=1)
        yield Side("ours", primary, (), tuple(nodes.values())), cluster


def _nodes(directory: Path) -> dict[str, LogNode]:
    rng = random.Random(secrets.randbits(32))  # noqa: S311  # ports need not be secret
    ports = iter(free_ports(2 * len(NODES), rng))
    return {
        name: LogNode(
            NodeSpec(
                name=name,
                cluster=CLUSTER,
                directory=directory / name,
                rpc_port=next(ports),
                pg_port=next(ports),
            )
        )
        for name in NODES
    }
