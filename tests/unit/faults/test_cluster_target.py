"""What the suite reads in `seawall status --json`.

In scope: the pure reading. Out of scope: the command; see tests/integration.
"""

from pathlib import Path

import msgspec
import pytest

from bench.faults.cluster_target import (
    Compute,
    Status,
    components_of,
    what_is_missing,
    with_fittings,
)
from bench.faults.plan import Action, offered
from bench.faults.target import Kind, Role

WHOLE = {
    "cluster": "c", "primary": "compute-1", "epoch": 3, "directory": "/nowhere",
    "computes": [
        {"name": "compute-1", "role": "primary", "state": "primary", "pid": 11, "agent_pid": 12},
        {"name": "compute-2", "role": "replica", "state": "replica", "pid": 13, "agent_pid": 14},
    ],
    "log": [
        {"name": "log-1", "role": "leader", "pid": 21},
        {"name": "log-2", "role": "follower", "pid": 22},
    ],
    "storage": [{"name": "storage-1", "state": "ready", "pid": 31}],
    "urls": {"primary": "postgresql://h:1,h:2/postgres"},
}  # fmt: skip


def status(**changes: object) -> Status:
    return msgspec.convert({**WHOLE, **changes}, Status)


def compute(role: str, state: str, pid: int | None = 1) -> list[dict[str, object]]:
    return [{"name": "compute-1", "role": role, "state": state, "pid": pid, "agent_pid": 2}]


def test_whole_cluster_lacks_nothing() -> None:
    assert what_is_missing(status()) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primary": None}, "no primary"),
        ({"computes": compute("none", "starting")}, "compute-1 is starting"),
        ({"computes": compute("replica", "replica", None)}, "compute-1 is replica"),
        ({"log": [{"name": "log-1", "role": "follower", "pid": 1}]}, "no leader"),
        ({"log": [{"name": "l", "role": "leader", "pid": None}]}, "l is leader"),
        ({"storage": [{"name": "s", "state": "not running", "pid": None}]}, "s is not running"),
    ],
)
def test_what_a_cluster_lacks_is_told(changes: dict[str, object], words: str) -> None:
    assert words in what_is_missing(status(**changes))


def test_each_process_can_be_hit_alone_and_a_compute_as_a_whole() -> None:
    found = {(one.kind, one.name): one for one in components_of(status())}
    assert found[Kind.POSTGRES, "compute-1"].pids == (11,)
    assert found[Kind.AGENT, "compute-2"].pids == (14,)
    assert found[Kind.COMPUTE, "compute-1"].pids == (12, 11)
    assert found[Kind.COMPUTE, "compute-1"].role is Role.LEADING
    assert found[Kind.LOG, "log-2"].role is Role.FOLLOWING
    assert found[Kind.STORAGE, "storage-1"].pids == (31,)


class Nothing:
    """A link and a disk that nobody touches."""

    def cut_there(self) -> None:
        """As Link has it."""

    def cut_back(self) -> None:
        """As Link has it."""

    def slow(self, seconds: float) -> None:
        """As Link has it."""

    def mend(self) -> None:
        """As Link has it."""

    def fill(self) -> None:
        """As Disk has it."""

    def free(self) -> None:
        """As Disk has it."""


def test_networks_and_disks_have_the_role_of_their_node() -> None:
    found = with_fittings(
        components_of(status()),
        {"log-1": Nothing(), "log-1>log-2": Nothing()},
        {"compute-1": Nothing(), "storage-1": Nothing()},
        directories={"log-2": Path("/nowhere")},
    )
    by_name = {(one.kind, one.name): one for one in found}
    assert by_name[Kind.NETWORK, "log-1"].role is Role.LEADING
    assert by_name[Kind.LINK, "log-1>log-2"].role is Role.ANY
    assert by_name[Kind.DISK, "compute-1"].role is Role.LEADING
    assert by_name[Kind.LOG, "log-2"].directory == Path("/nowhere")
    assert by_name[Kind.LOG, "log-1"].directory is None
    assert offered(found)[Kind.DISK] == (Action.FILL,)
    assert len(found) == len(components_of(status())) + 4


def test_what_is_down_cannot_be_hit() -> None:
    down = (Compute(name="compute-1", role="none", state="not running"),)
    found = components_of(msgspec.structs.replace(status(), computes=down, log=(), storage=()))
    assert found == []
