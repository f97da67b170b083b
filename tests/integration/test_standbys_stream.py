"""Stock standbys and pg_receivewal stream from the replication server, of every server to test.

Out of scope: where committed WAL comes from in a log node; clients that misbehave, which are in
tests/unit/log_service/test_replication_peers.py; TLS, in test_standbys_tls.py.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.servers import Fleet
from integration.standby_world import (
    DEADLINE_S,
    Branch,
    digest,
    execute,
    flushed,
    insert,
    insert_and_wait,
    kill_at_end_of_wal,
    position,
    running_branch,
    value,
    wait_for_replay,
    wait_until,
)
from unit.log_service.replication_world import GROUP

from fabric.lsn import Tli, history_file_name
from log_service.replication_source import Gate

pytestmark = pytest.mark.postgres


@pytest.fixture
def branch(fleet: Fleet) -> Iterator[Branch]:
    with running_branch(fleet) as branch:
        yield branch


@pytest.mark.parametrize("is_slow", [False, True], ids=["at-hand", "fetched"])
def test_standby_streams_and_equals_the_primary(branch: Branch, is_slow: bool) -> None:
    branch.node.source.is_slow = is_slow
    standby = branch.standby("s1")
    insert_and_wait(branch, branch.primary, 30_000, standby)
    for _ in range(20):
        insert(branch.primary, 1)
        wait_for_replay(standby, branch.node.commit_all(branch.primary))
    assert digest(standby) == digest(branch.primary)
    status = branch.node.standbys()["s1"]
    assert status.sent == branch.node.source.committed
    assert (status.group, status.tli, status.peer) == (GROUP, 1, "unix")


def test_only_what_is_committed_arrives(branch: Branch) -> None:
    standby = branch.standby("s1")
    insert_and_wait(branch, branch.primary, 10, standby)
    held = branch.node.source.committed
    insert(branch.primary, 10)
    # Another reader, which comes later and gets everything there is, has no more either.
    later = branch.standby("s2")
    wait_for_replay(later, held)
    for server in (standby, later):
        assert position(server, "pg_last_wal_receive_lsn") == held
        assert value(server, "select count(*) from t") == 10
    assert flushed(branch.primary) > held


def test_two_standbys_follow_two_promotions_and_old_primaries_come_back(branch: Branch) -> None:
    node, first = branch.node, branch.primary
    second, third = branch.standby("s1"), branch.standby("s2")
    insert_and_wait(branch, first, 100, second, third)
    session = node.standbys()["s2"].session

    kill_at_end_of_wal(branch, first)
    wait_for_replay(second, node.source.committed)
    second.promote_blocking()
    insert(second, 100)
    node.promoted(second)
    insert_and_wait(branch, second, 100, third)
    assert node.standbys()["s2"].session == session, "it had to connect again"
    assert node.standbys()["s2"].tli == 2

    returned = branch.standby("p2", data_dir=first.data_dir)
    insert_and_wait(branch, second, 100, third, returned)

    kill_at_end_of_wal(branch, second)
    wait_for_replay(third, node.source.committed)
    third.promote_blocking()
    node.promoted(third)
    insert_and_wait(branch, third, 100, returned)
    # From the first timeline to the third in one go.
    newcomer = branch.standby("s3")
    insert_and_wait(branch, third, 100, returned, newcomer)
    assert {name: status.tli for name, status in node.standbys().items()} == {"p2": 3, "s3": 3}


def test_gate_holds_exactly_and_restartpoints_work_behind_it(branch: Branch) -> None:
    node, primary = branch.node, branch.primary
    insert(primary, 1000)
    execute(primary, "checkpoint")
    gate = node.gates["redo"] = Gate(flushed(primary))
    redo = value(primary, "select redo_lsn from pg_control_checkpoint()")
    insert(primary, 1000)
    node.commit_all(primary)

    engine = branch.standby("redo", wal_receiver_timeout="1s")
    assert gate.limit is not None
    wait_for_replay(engine, gate.limit)
    session = node.standbys()["redo"].session
    since = value(engine, "select now()")
    # Twice the time after which a standby gives up on a server that does not answer.
    alive = (
        f"select last_msg_receipt_time > '{since}'::timestamptz + '2 s' from pg_stat_wal_receiver"
    )
    wait_until(lambda: value(engine, alive) is True)
    assert position(engine, "pg_last_wal_receive_lsn") == gate.limit
    assert position(engine, "pg_last_wal_replay_lsn") == gate.limit
    execute(engine, "checkpoint")
    assert value(engine, "select redo_lsn from pg_control_checkpoint()") == redo
    assert value(engine, "select count(*) from t") == 1000

    node.call(gate.move, None)
    wait_for_replay(engine, node.source.committed)
    assert digest(engine) == digest(primary)
    assert node.standbys()["redo"].session == session


def test_gate_that_cuts_a_record_holds_across_a_promotion(branch: Branch) -> None:
    node, primary = branch.node, branch.primary
    heir = branch.standby("s1")
    insert_and_wait(branch, primary, 100, heir)
    # A commit record has at least 34 bytes; the last of them may be padding, which is no loss.
    gate = node.gates["redo"] = Gate(node.source.committed - 20)
    assert gate.limit is not None
    engine = branch.standby("redo")
    wait_until(lambda: position(engine, "pg_last_wal_receive_lsn") == gate.limit)
    kill_at_end_of_wal(branch, primary)
    wait_for_replay(heir, node.source.committed)
    heir.promote_blocking()
    node.promoted(heir)
    insert(heir, 100)
    node.commit_all(heir)
    assert node.standbys()["redo"].tli == 1

    node.restart()  # a reader asks again from the start of the segment, and stops there again
    wait_until(lambda: "redo" in node.standbys())
    wait_until(lambda: node.standbys()["redo"].flush == gate.limit)
    fork = node.source.history.start
    node.call(gate.move, fork)
    wait_until(lambda: [status.tli for status in node.standbys().values()] == [2])
    wait_until(lambda: node.standbys()["redo"].flush == fork)
    assert position(engine, "pg_last_wal_replay_lsn") == fork
    node.call(gate.move, None)
    wait_for_replay(engine, node.source.committed)
    assert digest(engine) == digest(heir)


def test_standby_comes_back_after_the_node_has(branch: Branch) -> None:
    standby = branch.standby("s1")
    insert_and_wait(branch, branch.primary, 100, standby)
    log = standby.log_path.read_text()
    branch.node.restart()
    insert_and_wait(branch, branch.primary, 100, standby)
    said = standby.log_path.read_text().removeprefix(log)
    assert "replication terminated by primary server" in said
    assert len(re.findall(r"started streaming WAL from primary at \S+000000 on", said)) == 1


def receive_wal(branch: Branch, directory: Path, *options: str) -> str:
    """Run pg_receivewal until it has what is committed; return what it said."""
    source = branch.node.source
    # It goes on until it has got more than it was asked for.
    argv = [
        "-D",
        str(directory),
        "-d",
        branch.node.conninfo("tool"),
        f"--endpos={source.committed - 1}",
    ]
    done = subprocess.run(
        [str(branch.fleet.binaries.bin_dir / "pg_receivewal"), *argv, "--no-loop", "-v", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=branch.fleet.directory,
        env={},
        **branch.fleet.identity.subprocess_options(),
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_pg_receivewal_writes_the_same_files_over_two_timelines(branch: Branch) -> None:
    node, primary = branch.node, branch.primary
    heir = branch.standby("s1")
    directory = branch.fleet.directory / "received"
    branch.fleet.identity.make_directory(directory)
    receive_wal(branch, directory, "--slot=anything", "--create-slot")
    receive_wal(branch, directory, "--slot=anything")
    for _ in range(2):
        insert(primary, 1000)
        execute(primary, "select pg_switch_wal()")
    insert_and_wait(branch, primary, 1000, heir)
    receive_wal(branch, directory)

    kill_at_end_of_wal(branch, primary)
    wait_for_replay(heir, node.source.committed)
    heir.promote_blocking()
    node.promoted(heir)
    insert(heir, 1000)
    execute(heir, "select pg_switch_wal()")
    insert(heir, 10)
    node.commit_all(heir)
    assert "switched to timeline 2" in receive_wal(branch, directory)

    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    whole = [name for name in files if len(name) == len("000000010000000000000001")]
    assert len(whole) == 3
    for name in whole:
        origin = primary if name.startswith("00000001") else heir
        assert files[name] == (origin.data_dir / "pg_wal" / name).read_bytes()
    history = history_file_name(Tli(2))
    assert files[history] == node.source.history_files[Tli(2)]
