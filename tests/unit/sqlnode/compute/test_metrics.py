"""The figures of a compute: what Prometheus is told, and when an agent is healthy and ready.

In scope: the text of figures that are made up; an agent whose machine hears of events. Out of
scope: servers, see tests/integration/test_primary_sql.py.
"""

import asyncio
import dataclasses
import random
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry, generate_latest

from fabric.ids import ClusterName, Epoch, NodeName
from fabric.lsn import Lsn
from log_service.client import LogClient
from log_service.compute_methods import ComputeState
from sqlnode.compute.agent import Agent
from sqlnode.compute.machine import Ended, Phase, Ready, Tick
from sqlnode.compute.metrics import ComputeCollector, ComputeFigures, figures_of
from sqlnode.compute.server import Context
from sqlnode.compute.settings import AgentSettings
from storage.client import StorageClient

NOBODY = "tcp://127.0.0.1:1"
PRIMARY = ComputeFigures(
    state=ComputeState.PRIMARY,
    is_ready=True,
    epoch=Epoch(3),
    lives=2,
    lease_ms=1500,
    log_unreachable=False,
    storage_unreachable=True,
    received=Lsn(500),
    replayed=Lsn(400),
    cut=Lsn(100),
    cache_bytes=8192,
    cache_bytes_max=16384,
    broker=None,
)


def text_of(figures: ComputeFigures) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ComputeCollector(lambda: figures))
    return generate_latest(registry).decode()


def test_compute_says_what_it_is_and_how_far() -> None:
    lines = text_of(PRIMARY).splitlines()
    for line in (
        'seawall_compute_state{state="primary"} 1.0',
        'seawall_compute_state{state="replica"} 0.0',
        "seawall_compute_ready 1.0",
        "seawall_compute_epoch 3.0",
        "seawall_compute_lives_total 2.0",
        "seawall_compute_log_unreachable 0.0",
        "seawall_compute_storage_unreachable 1.0",
        "seawall_compute_lease_remaining_seconds 1.5",
        "seawall_compute_received_position_bytes 500.0",
        "seawall_compute_replayed_position_bytes 400.0",
        "seawall_compute_replay_lag_bytes 100.0",
        "seawall_compute_cut_position_bytes 100.0",
        "seawall_compute_cache_bytes 8192.0",
        "seawall_compute_cache_max_bytes 16384.0",
    ):
        assert line in lines
    states = [line for line in lines if line.startswith("seawall_compute_state{")]
    assert len(states) == len(ComputeState)
    assert sum(line.endswith(" 1.0") for line in states) == 1


def test_what_is_not_known_is_left_out() -> None:
    unknown = dataclasses.replace(
        PRIMARY, lease_ms=None, received=None, replayed=None, cut=None, cache_bytes=None,
        cache_bytes_max=None,
    )  # fmt: skip
    text = text_of(unknown)
    for name in ("lease", "received", "replay", "cut", "cache"):
        assert f"seawall_compute_{name}" not in text
    assert "seawall_compute_ready 1.0" in text


def test_replica_that_received_its_timeline_anew_has_no_negative_lag() -> None:
    behind = dataclasses.replace(PRIMARY, received=Lsn(300), replayed=Lsn(400))
    assert "seawall_compute_replay_lag_bytes 0.0" in text_of(behind)


def test_agent_is_ready_while_its_server_is_and_healthy_all_the_time(tmp_path: Path) -> None:
    async def main() -> None:
        rng = random.Random(1)
        async with LogClient([NOBODY], rng=rng) as log, StorageClient([NOBODY], rng=rng) as storage:
            settings = AgentSettings(
                name=NodeName("c1"),
                cluster=ClusterName("demo"),
                run_dir=str(tmp_path),
                pg_listen="tcp://127.0.0.1:5432",
                log_nodes=(NOBODY,),
                wal_servers=("127.0.0.1:1",),
                storage_nodes=(NOBODY,),
            )
            no_server = cast("Any", None)  # none is started
            agent = Agent(
                Context(
                    settings=settings,
                    binaries=no_server,
                    identity=no_server,
                    log_client=log,
                    storage_client=storage,
                )
            )
            machine = agent.machine
            assert agent.unreadiness() == "it is waiting: not for long"
            machine.take(Tick(), 1_000)
            assert machine.phase is Phase.STARTING
            assert agent.unreadiness() == "it is starting: not for long"
            machine.take(Ready(machine.life), 1_100)
            assert (agent.problem(), agent.unreadiness()) == (None, None)
            found = figures_of(agent)
            assert (found.state, found.lives, found.is_ready) == (ComputeState.REPLICA, 1, True)
            assert (found.lease_ms, found.received, found.broker) == (None, None, None)
            machine.take(Ended(machine.life, "postgres was killed"), 9_000)
            assert agent.unreadiness() == "it is ending: postgres was killed"
            assert agent.problem() is None, "an agent starts another server by itself"
            agent.reporter.failure = "nobody is there"
            assert figures_of(agent).log_unreachable
            assert agent.problem() is None, "it may come back"

    asyncio.run(main())
