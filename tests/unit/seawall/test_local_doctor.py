"""What `seawall doctor` and `seawall status` say of a cluster, from snapshots made by hand.

In scope: every finding, alone; the JSON's names. Out of scope: how snapshots come about; see
tests/integration/test_local_cluster.py.
"""

import json

import pytest
from msgspec.structs import replace
from unit.seawall.test_local_files import CLUSTER as BASE

from fabric.lsn import Lsn
from seawall.local.cluster_file import ClusterFile, LogPorts
from seawall.local.doctor import Machine, findings
from seawall.local.snapshot import (
    NO_ANSWER,
    NOT_RUNNING,
    ComputeStatus,
    CutStatus,
    GatewayStatus,
    LogStatus,
    Snapshot,
    StorageStatus,
)
from seawall.local.status_report import headline, json_text, table
from seawall.local.urls import Urls

END = Lsn(0x2000_0000)
CLUSTER: ClusterFile = replace(
    BASE, log={f"log-{n}": LogPorts(17000 + 2 * n, 17001 + 2 * n) for n in (1, 2, 3)}
)
MACHINE = Machine(
    disk_free_bytes=50 << 30,
    disk_total_bytes=100 << 30,
    certificate_days={"log-1": 700},
    last_words={"log-2": "disk full"},
)


def log_node(name: str, role: str = "follower") -> LogStatus:
    return LogStatus(name=name, role=role, term=3, commit_lsn=END, pid=11, port=17000)


def compute(name: str, role: str) -> ComputeStatus:
    return ComputeStatus(
        name=name, role=role, state=role, pid=21, agent_pid=20, host="127.0.0.1", port=5432,
        replay_lsn=END, received_lsn=END,
    )  # fmt: skip


HEALTHY = Snapshot(
    cluster="blue",
    branch="main",
    directory="/d",
    supervisor_pid=9,
    epoch=4,
    primary="compute-1",
    is_streaming=True,
    computes=(compute("compute-1", "primary"), compute("compute-2", "replica")),
    log=(log_node("log-1", "leader"), log_node("log-2"), log_node("log-3")),
    storage=(
        StorageStatus(
            name="storage-1", state="waiting", pid=31, port=17004,
            newest_cut=CutStatus(7, Lsn(0x1F00_0000)), lag_bytes=2048,
        ),
    ),
    gateways=(),
    urls=Urls(primary="postgresql://p", replicas="postgresql://r"),
)  # fmt: skip


def said(snapshot: Snapshot, machine: Machine = MACHINE) -> list[str]:
    return [str(finding) for finding in findings(snapshot, CLUSTER, machine)]


def test_nothing_is_wrong_with_a_healthy_cluster() -> None:
    assert said(HEALTHY) == []


def test_a_gateway_that_does_not_run_or_answer_is_found() -> None:
    gateway = GatewayStatus(name="gateway-1", state="ready", pid=41, port=6432)
    with_one = replace(HEALTHY, gateways=(gateway,))
    assert said(with_one) == []
    gone = replace(gateway, state=NOT_RUNNING, pid=None)
    assert said(replace(HEALTHY, gateways=(gone,))) == [
        "gateway-1 does not run: `seawall up` starts it again"
    ]
    mute = replace(gateway, state=NO_ANSWER, complaint="it did not answer within 1500 ms")
    assert said(replace(HEALTHY, gateways=(mute,))) == [
        "gateway-1 runs but does not answer (it did not answer within 1500 ms): "
        "try `seawall restart gateway-1`"
    ]


def test_the_table_and_the_json_have_the_gateway() -> None:
    gateway = GatewayStatus(name="gateway-1", state="ready", pid=41, port=6432)
    urls = Urls(primary="postgresql://p", replicas="postgresql://r", gateway="postgresql://g")
    snapshot = replace(HEALTHY, gateways=(gateway,), urls=urls)
    lines = table(snapshot).splitlines()
    assert any(line.split() == ["gateway-1", "ready", "6432", "41"] for line in lines)
    assert "gateway:  postgresql://g" in lines
    assert "gateway:" not in table(HEALTHY)
    found = json.loads(json_text(snapshot))
    assert found["gateways"] == [
        {"name": "gateway-1", "state": "ready", "pid": 41, "port": 6432, "complaint": ""}
    ]
    assert found["urls"]["gateway"] == "postgresql://g"


def test_a_cluster_that_is_down_has_one_finding() -> None:
    down = replace(
        HEALTHY,
        supervisor_pid=None,
        epoch=None,
        primary=None,
        computes=tuple(replace(one, agent_pid=None, pid=None) for one in HEALTHY.computes),
        log=tuple(replace(one, pid=None, term=None, role=NOT_RUNNING) for one in HEALTHY.log),
        storage=tuple(replace(one, pid=None, state=NOT_RUNNING) for one in HEALTHY.storage),
    )
    assert said(down) == ["the cluster is down: start it with `seawall up`"]
    assert headline(down).endswith("down")


def gone(node: LogStatus) -> LogStatus:
    return replace(node, role=NOT_RUNNING, pid=None, term=None, commit_lsn=None)


LEADER, *FOLLOWERS = HEALTHY.log
STORE = HEALTHY.storage[0]
PRIMARY, REPLICA = HEALTHY.computes


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (replace(HEALTHY, supervisor_pid=None), "no supervisor runs"),
        (replace(HEALTHY, primary=None), "there is no primary"),
        (replace(HEALTHY, epoch=None, primary=None), "the log has no leader"),
        (replace(HEALTHY, is_streaming=False), "gets no WAL from compute-1"),
        (
            replace(HEALTHY, log=(LEADER, gone(FOLLOWERS[0]), FOLLOWERS[1])),
            "log-2 does not run (its log ends: disk full): `seawall up`",
        ),
        (
            replace(HEALTHY, storage=(replace(STORE, state=NO_ANSWER, complaint="late"),)),
            "storage-1 runs but does not answer (late): try `seawall restart storage-1`",
        ),
        (replace(HEALTHY, storage=(replace(STORE, lag_bytes=1 << 30),)), "1024 MiB of WAL behind"),
        (
            replace(HEALTHY, computes=(PRIMARY, replace(REPLICA, replay_lsn=Lsn(5)))),
            "compute-2 is 511 MiB of WAL behind",
        ),
        (
            replace(HEALTHY, computes=(PRIMARY, replace(REPLICA, state="down", role="none"))),
            "PostgreSQL of compute-2 is down",
        ),
        (
            replace(HEALTHY, computes=(replace(PRIMARY, complaint="odd"), REPLICA)),
            "compute-1 complains: odd",
        ),
    ],
)
def test_each_trouble_is_one_finding_with_advice(snapshot: Snapshot, words: str) -> None:
    (finding,) = said(snapshot)
    assert words in finding
    assert ": " in finding


def test_a_log_without_a_quorum_says_how_many_are_missing() -> None:
    lost = replace(HEALTHY, epoch=None, primary=None, log=(LEADER, *map(gone, FOLLOWERS)))
    first, *others = said(lost)
    assert first.startswith("the log has no quorum: 1 of 3 nodes answer, 2 are needed")
    assert len(others) == 2
    assert "NO QUORUM" in headline(lost)


def test_the_machine_has_its_own_troubles() -> None:
    poor = Machine(
        disk_free_bytes=100 << 20,
        disk_total_bytes=100 << 30,
        certificate_days={"log-1": 12, "compute-1": -1},
        last_words={},
    )
    disk, expired, expiring = said(HEALTHY, poor)
    assert "100 MiB are free" in disk
    assert "compute-1 has expired" in expired
    assert "log-1 expires in 12 days" in expiring


def test_the_json_has_the_names_that_programs_rely_on() -> None:
    found = json.loads(json_text(HEALTHY))
    assert found["epoch"] == 4
    assert found["primary"] == "compute-1"
    assert set(found["computes"][0]) >= {
        "name", "role", "state", "pid", "agent_pid", "host", "port", "replay_lsn",
    }  # fmt: skip
    assert found["computes"][0]["replay_lsn"] == "0/20000000"
    assert set(found["log"][0]) >= {"name", "role", "term", "commit_lsn", "pid", "port"}
    assert set(found["storage"][0]) >= {"name", "state", "pid", "port", "newest_cut", "lag_bytes"}
    assert found["storage"][0]["newest_cut"] == {"seq": 7, "lsn": "0/1F000000"}
    assert found["gateways"] == []
    assert found["urls"] == {
        "primary": "postgresql://p", "replicas": "postgresql://r", "gateway": None,
    }  # fmt: skip


def test_the_table_has_a_line_for_every_node() -> None:
    text = table(HEALTHY)
    names = ("compute-1", "compute-2", "log-1", "log-2", "log-3", "storage-1")
    assert all(any(line.startswith(name) for line in text.splitlines()) for name in names)
    assert "no WAL" not in text
    assert "supervisor: none" in table(replace(HEALTHY, supervisor_pid=None))
