"""What Prometheus and probes see of log nodes: positions, a leader, and a node that is left alone.

In scope: the endpoint of real nodes. Out of scope: what each figure is made of, see
tests/unit/log_service/test_node_metrics.py.
"""

import random
import secrets
from collections.abc import Iterator

import pytest
from fixtures.probes import http, metrics
from fixtures.waiting import eventually
from integration.log_node_world import GENESIS, START, THREE, Nodes, nodes_world

from bench.node_process import free_ports
from fabric.ids import BranchName

BRANCH = BranchName("main")
FIRST_WAL = bytes(1000)


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return dict(zip(THREE, free_ports(3, random.Random(secrets.randbits(64))), strict=True))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[Nodes]:
    settings = {name: {"metrics": {"port": port}} for name, port in ports.items()}
    with nodes_world(tmp_path_factory.mktemp("nodes"), THREE, settings=settings) as nodes:
        addresses = [nodes.address(name) for name in THREE]
        nodes.run(lambda client: client.create_branch(BRANCH, GENESIS, addresses, FIRST_WAL))
        yield nodes


def of_branch(port: int, name: str) -> float | None:
    return metrics(port).get(f'seawall_log_{name}{{branch="{BRANCH}"}}')


def leader_of(ports: dict[str, int]) -> str | None:
    leading = [name for name, port in ports.items() if of_branch(port, "is_leader")]
    return leading[0] if len(leading) == 1 else None


def test_all_nodes_say_how_far_they_are_and_one_leads(nodes: Nodes, ports: dict[str, int]) -> None:
    nodes.start_all()
    end = START + len(FIRST_WAL)
    leader = eventually(lambda: leader_of(ports), what="a leader")
    for name, port in ports.items():
        for figure in ("committed_position_bytes", "flushed_position_bytes"):
            eventually(lambda p=port, f=figure: of_branch(p, f) == end, what=figure)  # type: ignore[misc]  # mypy does not infer a lambda with a default
        assert of_branch(port, "voters") == 3
        assert http(port, "/healthz") == http(port, "/readyz") == (200, "ok\n")
        lags = [one for one in metrics(port) if one.startswith("seawall_log_follower_lag_bytes")]
        assert len(lags) == (2 if name == leader else 0)


def test_node_that_is_left_alone_is_healthy_and_ready(nodes: Nodes, ports: dict[str, int]) -> None:
    """A probe that killed it would make a partition worse."""
    nodes.start_all()
    leader = eventually(lambda: leader_of(ports), what="a leader")
    alone, *others = sorted(THREE, key=lambda name: name == leader)  # a follower
    for name in others:
        nodes.by_name[name].kill()
    # A leader would not notice while its branch rests.
    eventually(lambda: of_branch(ports[alone], "has_leader") == 0, what="noticing it")
    assert http(ports[alone], "/healthz") == http(ports[alone], "/readyz") == (200, "ok\n")
