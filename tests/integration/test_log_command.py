"""`seawall log` against real log nodes, and against none.

In scope: what it prints, its exit status, its sentences. Out of scope: what members and transfers
do to a log, see test_log_node.py; rows for odd answers, see tests/unit/seawall/test_log_report.py.
"""

import functools
import json
import subprocess
from pathlib import Path

import pytest
from fixtures.command import run_seawall
from fixtures.waiting import eventually
from integration.log_node_world import FOURTH, START, THREE, Nodes, holder

from fabric.ids import BranchName
from log_service.disk_settings import DiskSettings
from log_service.group_log import GroupLog
from log_service.log_state import LogStart
from log_service.record import Kind, make_record

NOBODY = "127.0.0.1:1"

seawall = functools.partial(run_seawall, "log")


def rpc(nodes: Nodes, name: str) -> str:
    return nodes.by_name[name].spec.rpc_address


def rows(nodes: Nodes, branch: str) -> list[dict[str, object]]:
    done = seawall("status", "--node", rpc(nodes, "log-1"), "--branch", branch, "--json")
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


# --- Status ---------------------------------------------------------------------------------------


def test_one_node_is_enough_to_see_all_of_a_branch(nodes: Nodes, branch: BranchName) -> None:
    nodes.run(lambda client: client.grant_epoch(branch, holder("p")))
    found = eventually(lambda: with_roles(nodes, branch, "follower", "follower", "leader"))
    assert [row["node"] for row in found] == list(THREE)
    leader = next(row for row in found if row["role"] == "leader")
    wanted = {"epoch": 1, "holder": "p", "tli": 1, "end": str(START), "lag_bytes": 0}
    assert {name: leader[name] for name in wanted} == wanted
    assert leader["complaints"]


def with_roles(nodes: Nodes, branch: str, *roles: str) -> list[dict[str, object]] | None:
    found = rows(nodes, branch)
    is_so = sorted(str(row["role"]) for row in found) == sorted(roles)
    return found if is_so and all(row["epoch"] == 1 for row in found) else None


def test_table_has_a_line_for_every_replica(nodes: Nodes, branch: BranchName) -> None:
    done = seawall(
        "status", "--branch", branch, environ={"SEAWALL_LOG_ADDRESSES": rpc(nodes, "log-2")}
    )
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split()[:4] == ["BRANCH", "NODE", "ROLE", "TERM"]
    assert [line.split()[:2] for line in lines] == [[branch, name] for name in THREE]


def test_node_that_does_not_answer_is_listed_as_such(nodes: Nodes, branch: BranchName) -> None:
    nodes.by_name["log-3"].kill()
    nodes.run(lambda client: client.topology(branch))
    done = seawall("status", "--node", rpc(nodes, "log-1"), "--branch", branch)
    (line,) = [line for line in done.stdout.splitlines() if "log-3" in line]
    assert line.split()[:3] == [branch, "log-3", "unreachable"]
    assert done.returncode == 0


def test_branch_that_nobody_leads_is_a_failure(nodes: Nodes, branch: BranchName) -> None:
    for name in THREE:
        nodes.by_name[name].kill()
    nodes.by_name["log-2"].start()
    done = seawall("status", "--node", rpc(nodes, "log-2"), "--branch", branch)
    assert done.returncode == 1
    assert done.stderr == f"seawall: nobody leads {branch}\n"


def test_unknown_branch_and_silent_log_are_failures(nodes: Nodes) -> None:
    done = seawall("status", "--node", rpc(nodes, "log-1"), "--branch", "unknown")
    assert (done.returncode, done.stderr) == (
        1,
        "seawall: no node that answers has branch unknown\n",
    )
    done = seawall("status", "--node", NOBODY)
    assert (done.returncode, done.stderr) == (1, "seawall: no log node answers\n")
    assert "unreachable" in done.stdout


# --- Members and transfers ------------------------------------------------------------------------


def test_members_are_added_listed_replaced_and_removed(nodes: Nodes, branch: BranchName) -> None:
    def members(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = seawall("members", *arguments, "--branch", branch, "--node", rpc(nodes, "log-1"))
        assert (done.returncode, done.stderr) == (0, "")
        return done

    def place(name: str) -> str:
        spec = nodes.by_name[name].spec
        return f"{name}={spec.rpc_address},{spec.pg_address}"

    def listed() -> list[str]:
        lines = members("list").stdout.splitlines()[1:]
        assert sum("leader" in line for line in lines) == 1
        return [line.split()[0] for line in lines]

    assert members("add", place(FOURTH)).stdout == f"log-4 keeps {branch} and votes\n"
    assert listed() == [*THREE, FOURTH]
    members("remove", "log-2")
    assert listed() == ["log-1", "log-3", FOURTH]
    members("replace", "log-3", place("log-2"))
    assert listed() == ["log-1", "log-2", FOURTH]
    members("replace", "log-2", place("log-2"))
    assert listed() == ["log-1", "log-2", FOURTH]


def test_member_of_a_dead_node_is_removed_and_what_stays_is_said(
    nodes: Nodes, branch: BranchName
) -> None:
    nodes.by_name["log-3"].kill()
    done = seawall("members", "remove", "log-3", "--branch", branch, "--node", rpc(nodes, "log-1"))
    assert (done.returncode, done.stdout) == (0, f"log-3 keeps {branch} no longer\n")
    assert f"what log-3 has of {branch} is still there" in done.stderr


def test_member_that_is_none_is_said_not_to_be(nodes: Nodes, branch: BranchName) -> None:
    done = seawall("members", "remove", "log-9", "--branch", branch, "--node", rpc(nodes, "log-1"))
    assert done.returncode == 1
    assert done.stderr == (f"seawall: log-9 keeps no replica of {branch}: log-1, log-2, log-3 do\n")


def test_transfer_goes_where_it_is_told_and_by_itself_elsewhere(
    nodes: Nodes, branch: BranchName
) -> None:
    at = ("--branch", branch, "--node", rpc(nodes, "log-1"))
    for name in THREE:
        done = seawall("transfer", "--to", name, *at)
        assert (done.returncode, done.stdout) == (0, f"{name} leads {branch}\n")
    done = seawall("transfer", *at)
    assert done.returncode == 0
    assert done.stdout != f"log-3 leads {branch}\n"
    done = seawall("transfer", "--to", "log-9", *at)
    assert (done.returncode, done.stderr) == (
        1,
        f"seawall: log-9 has no member of {branch}\n",
    )


# --- A directory ----------------------------------------------------------------------------------


def small_log(directory: Path) -> None:
    log = GroupLog.create(directory, DiskSettings(), member=1, snapshot=LogStart(index=0, term=0))
    records = [
        make_record(
            index=n, term=1, prev_term=min(n - 1, 1), kind=Kind.WAL, tli=1, lsn=n * 100,
            body=b"%100d" % n,
        )
        for n in range(1, 50)
    ]  # fmt: skip
    log.append(records)
    log.sync()
    log.close()


def test_sound_log_is_said_to_be_sound(tmp_path: Path) -> None:
    small_log(tmp_path / "log")
    done = seawall("verify", tmp_path / "log")
    assert done.returncode == 0
    assert "sound, 49 records in 1 segments, entries 1 to 49" in done.stdout


def test_damaged_log_is_found_out_among_the_branches_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "groups").mkdir()
    for name in ("bad", "good"):
        small_log(tmp_path / "groups" / name)
    (state,) = (tmp_path / "groups" / "bad").glob("state")
    state.write_bytes(bytes(len(state.read_bytes())))
    done = seawall("verify", tmp_path)
    assert done.returncode == 1
    bad, damage, good = done.stdout.splitlines()
    assert "bad: DAMAGED" in bad
    assert "DAMAGE: " in damage
    assert "good: sound" in good


def test_directory_that_is_not_there_is_no_sound_log(tmp_path: Path) -> None:
    assert seawall("verify", tmp_path / "nothing").returncode == 1


# --- Wrong calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status"], "which log? Give --node ADDRESS, --config or SEAWALL_LOG_ADDRESSES"),
        (["status", "--node", "here"], "must look like tcp://host:port"),
        (["status", "--node", NOBODY, "--branch", "A B"], "a branch name is 1 to 63 of a-z"),
        (["transfer", "--node", "192.0.2.1:7001"], "is not loopback: give it TLS certificates"),
        (["status", "--node", NOBODY, "--tls-ca", "ca.crt"], "go together: give all three"),
        (["members", "add", "x", "--node", NOBODY], "must look like log-4=host:7001"),
        (["status", "--config", "nothing.toml"], "cannot read settings file nothing.toml"),
    ],
)
def test_wrong_call_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    done = seawall(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_tls_needs_the_cluster_and_files_that_are_there(tmp_path: Path) -> None:
    config = tmp_path / "log.toml"
    tls = '[tls]\nca_file = "a"\ncertificate_file = "b"\nkey_file = "c"\n'
    config.write_text(f'addresses = "{NOBODY}"\n{tls}')
    done = seawall("status", "--config", config)
    assert (done.returncode, done.stderr) == (
        2,
        "seawall: with TLS give --cluster, too: nodes of others are not talked to\n",
    )
    done = seawall("status", "--config", config, "--cluster", "demo")
    assert done.returncode == 2
    assert "cannot load TLS files a, b, c" in done.stderr
