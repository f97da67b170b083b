"""What the benchmark makes of what it saw, and that its bars can be missed."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from bench.operator_scale.api_server import Asked
from bench.operator_scale.bars import BARS
from bench.operator_scale.kubelet import address_of_pod
from bench.operator_scale.measure import Window, is_settled, outcome_of
from bench.operator_scale.operator_process import Used
from bench.pagefault.report import Report


def window(*, cpu_s: float = 2.0, memory_mb: float = 200.0, pods_patched: int = 0) -> Window:
    """100 s, sampled twice."""
    return Window(
        clusters=200,
        objects=9000,
        settling_s=60.0,
        settling_cpu_s=30.0,
        before=Used(0.0, 30.0, 150.0, 100),
        samples=(Used(50.0, 30.0 + cpu_s, memory_mb, 100), Used(100.0, 30.0 + cpu_s, 160.0, 100)),
        requests=Counter({Asked("put", "leases"): 10, Asked("patch", "pods"): pods_patched}),
        calls=Counter({"log.status": 500}),
    )


def test_shares_are_of_the_time_that_passed_and_memory_is_the_most_there_was() -> None:
    found = {one.name: one.value for one in outcome_of(window()).measurements}
    assert found["operator_200_core_percent"] == pytest.approx(2.0)
    assert found["core_percent_worst_sample"] == pytest.approx(4.0)
    assert found["operator_200_memory_mb"] == 200.0
    assert found["calls_to_nodes_a_second"] == pytest.approx(5.0)


def test_the_lease_is_no_write_of_a_reconcile() -> None:
    found = {one.name: one.value for one in outcome_of(window()).measurements}
    assert (found["operator_200_settled_writes"], found["lease_writes"]) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("seen", "passes"),
    [
        (window(), True),
        (window(cpu_s=5.1), False),
        (window(memory_mb=301), False),
        (window(pods_patched=1), False),
    ],
    ids=["all kept", "processor", "memory", "a write"],
)
def test_each_bar_can_be_missed(seen: Window, passes: bool) -> None:
    assert Report({}, BARS, [outcome_of(seen)]).is_passed is passes


def test_a_cluster_is_settled_when_nothing_is_missing_and_nothing_is_done() -> None:
    def cluster(**conditions: str) -> dict[str, object]:
        found = [{"type": kind, "status": status} for kind, status in conditions.items()]
        return {"status": {"conditions": found}}

    assert is_settled(cluster(Ready="True", Progressing="False", Degraded="False"))
    assert not is_settled(cluster(Ready="True", Progressing="True", Degraded="False"))
    assert not is_settled(cluster(Ready="True", Progressing="False", Degraded="True"))
    assert not is_settled({})


def test_pods_have_addresses_of_their_own_on_this_machine() -> None:
    found = {address_of_pod(number, net=net) for net in (0, 127) for number in range(1, 3000)}
    assert len(found) == 2 * 2999
    assert all(ip_address(address).is_loopback for address in found)
