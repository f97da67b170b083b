"""The whole of the benchmark with one cluster: the operator's process as it is, and what it asks.

Out of scope: the figures, which one cluster says nothing about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unit.fabric.rpc_world import in_loop

from bench.operator_scale.api_server import Asked, writes_of
from bench.operator_scale.measure import World, measure
from bench.operator_scale.operator_process import OperatorProcess
from kube_operator.reconciler import SETTLED_S, SETTLED_SPREAD

if TYPE_CHECKING:
    from pathlib import Path

QUIET_S = 2.0
SECONDS = SETTLED_S * (1 + SETTLED_SPREAD) + 2  # more than from one glance to the next


@in_loop
async def test_an_operator_makes_a_cluster_and_then_glances_at_it(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.ask_for(1)
        async with OperatorProcess(world.api.kubeconfig, tmp_path / "log") as operator:
            window = await measure(world, operator, SECONDS, quiet_s=QUIET_S)
    (cluster,) = world.objects.of("postgresclusters")
    assert cluster["status"]["phase"] == "Running"
    assert len(world.objects.of("pods")) == 3 + 2 + 2 + 2
    assert world.api.requests[Asked("patch", "pods")] > 0
    assert writes_of(window.requests, leases=False) == 0
    assert 0 < window.calls["log.status"] == window.calls["log.computes"], "the leader alone"
    assert window.calls["storage.status"] == 0
    assert 0 < window.samples[-1].memory_mb < 300
