"""What targets write for programs, and how they see processes and answers, without any server.

Out of scope: the programs themselves (tests/integration/bench/test_targets.py).
"""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.waiting import eventually

from bench.targets import even
from bench.targets.catalog import NAMES, start
from bench.targets.haproxy import Backend, Checks, haproxy_text
from bench.targets.patroni import what_is_missing
from bench.targets.patroni_settings import (
    DEFAULT,
    TIGHTEST,
    MemberPlace,
    Pace,
    dynamic_settings,
    member_text,
)
from bench.targets.programs import (
    Stopped,
    end_all_in,
    find_program,
    kill_alone,
    kill_trees,
    roots_of,
)
from bench.targets.proxies import pgpool_text
from bench.targets.target import TargetError, TargetSettings

SETTINGS = TargetSettings(shared_buffers="96MB", max_connections=77)
FIRST, SECOND = "one that nobody guesses", "another"


@pytest.fixture
def family(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell and its child, which work in a directory of their own."""
    with subprocess.Popen(
        ["/bin/sh", "-c", "sleep 600 & echo started; wait"], cwd=tmp_path, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"started\n"
        yield shell
        kill_trees([shell.pid])


def state_of(pid: int) -> str:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(") ")[2][:1]


def states_of(*pids: int) -> set[str]:
    return {state_of(pid) for pid in pids}


def child_of(shell: subprocess.Popen[bytes]) -> int:
    (pid,) = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()
    return int(pid)


# Processes.


def test_a_tree_is_killed_with_its_children(family: subprocess.Popen[bytes]) -> None:
    child = child_of(family)
    kill_trees([family.pid])
    assert family.wait() == -9
    assert not Path(f"/proc/{child}").exists() or state_of(child) in "ZX"


def test_one_that_is_killed_alone_leaves_its_child(family: subprocess.Popen[bytes]) -> None:
    child = child_of(family)
    with pytest.raises(TargetError, match="is no postgres"):
        kill_alone(family.pid, "postgres")
    assert family.poll() is None
    kill_alone(family.pid, "sleep 600")
    assert family.wait() == -9
    assert state_of(child) not in "ZX"
    with pytest.raises(TargetError, match="there is no"):
        kill_alone(family.pid, "sh")
    kill_trees([child])


def test_what_works_in_a_directory_is_ended(
    family: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    end_all_in([tmp_path / "below"])
    assert family.poll() is None
    child = child_of(family)
    end_all_in([tmp_path])
    assert family.wait() == -9
    assert not Path(f"/proc/{child}").exists() or state_of(child) in "ZX"


def test_a_tree_that_is_stopped_goes_on(family: subprocess.Popen[bytes]) -> None:
    child = child_of(family)
    stopped = Stopped()
    stopped.stop_trees([family.pid])
    eventually(lambda: states_of(family.pid, child) == {"T"}, what="a stop")
    stopped.go_on()
    eventually(lambda: "T" not in states_of(family.pid, child), what="the end of a stop")
    stopped.go_on()


def test_roots_are_those_that_are_below_nobody(family: subprocess.Popen[bytes]) -> None:
    assert roots_of([child_of(family), family.pid, family.pid]) == [family.pid]
    assert roots_of([child_of(family)]) == [child_of(family)]


def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match=r"no no-such-thing .*: apt-get install a-package"):
        find_program("no-such-thing", "a-package")
    (tmp_path / "no-such-thing").touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("no-such-thing", "a-package") == tmp_path / "no-such-thing"


# Names and settings.


def test_a_target_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    place: Any = None  # nothing is started
    with pytest.raises(TargetError, match=r"no target stok: choose one of seawall-ha.*stock,.*dsn"):
        start("stok", place, SETTINGS)
    assert len(NAMES) == 9


def test_all_stock_servers_have_what_a_comparison_says() -> None:
    values = even.even_settings(SETTINGS)
    assert values["shared_buffers"] == "96MB"
    assert values["max_connections"] == "77"
    assert values["autovacuum"] == "off"
    assert "fsync" not in values


def test_a_password_is_shown_by_nothing() -> None:
    address = even.address(1, "hidden")
    assert "hidden" not in f"{address!r} {address} {address.conninfo()}"


# Patroni.


@pytest.mark.parametrize("pace", [DEFAULT, TIGHTEST])
def test_a_pace_keeps_the_rule_of_patroni(pace: Pace) -> None:
    assert pace.loop_wait + 2 * pace.retry_timeout <= pace.ttl


def test_the_tightest_is_tighter_in_everything() -> None:
    for name in ("ttl", "loop_wait", "retry_timeout", "primary_start_timeout"):
        assert getattr(TIGHTEST, name) < getattr(DEFAULT, name)
    assert dataclasses.replace(DEFAULT, checks=TIGHTEST.checks).checks.fall < DEFAULT.checks.fall


@pytest.mark.parametrize("pace", [DEFAULT, TIGHTEST])
def test_members_lose_no_commit_and_have_the_settings_of_all(pace: Pace) -> None:
    at = MemberPlace(name="p1", directory=Path("/d/p1"), port=1111, rest_port=2222)
    dynamic = dynamic_settings(pace, even.even_settings(SETTINGS))
    text = member_text(
        at,
        etcd_hosts=["127.0.0.1:3333"],
        bin_dir=Path("/bin"),
        dynamic=dynamic,
        password=FIRST,
        replication_password=SECOND,
    )
    found = json.loads(text)
    shared = found["bootstrap"]["dcs"]
    assert shared["synchronous_mode"] is True
    assert shared["synchronous_mode_strict"] is True
    assert (shared["ttl"], shared["loop_wait"]) == (pace.ttl, pace.loop_wait)
    parameters = shared["postgresql"]["parameters"]
    assert parameters["shared_buffers"] == "96MB"
    assert parameters["wal_retrieve_retry_interval"] == ("5s" if pace is DEFAULT else "100ms")
    assert found["postgresql"]["authentication"]["superuser"]["password"] == FIRST
    assert found["postgresql"]["authentication"]["replication"]["password"] == SECOND
    assert "trust" not in text
    assert found["etcd3"] == {"hosts": ["127.0.0.1:3333"]}


def members(**changes: dict[str, object]) -> dict[str, Any]:
    roles = {"p1": "leader", "p2": "sync_standby", "p3": "replica"}
    return {
        "members": [
            {"name": name, "role": role, "state": "running", "timeline": 2} | changes.get(name, {})
            for name, role in roles.items()
        ]
    }


@pytest.mark.parametrize(
    ("cluster", "missing"),
    [
        (members(), ""),
        (members(p2={"state": "streaming"}), ""),
        (None, "does not answer"),
        ({}, "0 of 3 members"),
        ({"members": members()["members"][:2]}, "2 of 3 members"),
        (members(p2={"role": "leader"}), "2 members lead"),
        (members(p1={"role": "replica"}), "0 members lead"),
        (members(p3={"state": "start failed"}), "p3 is start failed"),
        (members(p3={"timeline": 1}), "2 timelines"),
        (members(p2={"role": "replica"}), "no standby is synchronous"),
    ],
)
def test_what_patroni_lacks_is_said(cluster: dict[str, Any] | None, missing: str) -> None:
    found = what_is_missing(cluster)
    assert missing in found
    assert bool(found) == bool(missing)


# Proxies.


def test_haproxy_asks_each_member_whether_it_is_the_primary() -> None:
    backends = [Backend("p1", 11, 12), Backend("p2", 21, 22)]
    text = haproxy_text(backends, port=5, checks=Checks(inter="7s", fall=8), connections=9)
    assert "bind 127.0.0.1:5\n" in text
    assert "option httpchk OPTIONS /primary\n" in text
    assert "server p1 127.0.0.1:11 check port 12\n" in text
    assert "server p2 127.0.0.1:21 check port 22\n" in text
    assert "maxconn 9 inter 7s fall 8 rise 2 on-marked-down shutdown-sessions" in text


@pytest.mark.parametrize("standbys", [0, 2])
def test_pgpool_balances_where_there_are_standbys(standbys: int) -> None:
    readers = [even.address(20 + number, "hidden") for number in range(standbys)]
    text = pgpool_text(
        even.address(10, "hidden"), readers, port=1, pcp_port=2, directory="/d", clients=33
    )
    lines = text.splitlines()
    assert "num_init_children = 33" in lines
    assert "backend_port0 = 10" in lines
    assert ("backend_port2 = 21" in lines) == bool(standbys)
    assert f"load_balance_mode = '{'on' if standbys else 'off'}'" in lines
    assert "hidden" not in text
