"""Log nodes and primaries die, stop and come back: nothing acknowledged is lost, and commits go on.

In scope: kill -9 and SIGSTOP of every kind of process, alone and in pairs.
Out of scope: networks, disks, changes of leadership by order; see the other test_log_faults_*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fixtures.log_cluster import LogWorld


pytestmark = [pytest.mark.postgres, pytest.mark.faults]


def test_commits_go_on_without_an_error_when_a_follower_dies(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        follower = cluster.followers()[0]
        cluster.nodes[follower].kill()
        writers.wait_for_more(500)
        cluster.nodes[follower].start()
        cluster.wait_for_catch_up(follower)
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_commits_go_on_after_each_of_three_leaders_died(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        for _ in range(3):
            writers.wait_for_more(200)
            leader = cluster.wait_for_leader()
            cluster.nodes[leader].kill()
            cluster.wait_for_leader(other_than=leader)
            writers.wait_for_more(200)
            cluster.nodes[leader].start()
            cluster.wait_for_catch_up(leader)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_rows_of_a_killed_primary_are_on_the_promoted_standby(log_world: LogWorld) -> None:
    standby = log_world.standby("s")
    with log_world.writing() as writers:
        writers.wait_for_more(500)
        log_world.primary.kill_blocking()
        log_world.promote(standby, holder="s")
        writers.direct(standby.conninfo())
        writers.wait_for_more(300)
    log_world.judge(writers.journal())


def test_leader_and_primary_may_die_at_once(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    standby = log_world.standby("s", node=cluster.followers()[0])
    with log_world.writing() as writers:
        writers.wait_for_more(500)
        leader = cluster.wait_for_leader()
        cluster.nodes[leader].kill()
        log_world.primary.kill_blocking()
        cluster.wait_for_leader(other_than=leader)
        log_world.promote(standby, holder="s")
        writers.direct(standby.conninfo())
        writers.wait_for_more(300)
    log_world.judge(writers.journal())


def test_nothing_is_acknowledged_without_a_majority(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        followers = cluster.followers()
        for follower in followers:
            cluster.nodes[follower].kill()
        log_world.wait_until_commits_wait(2)
        before = writers.acknowledged_count()
        log_world.wait_until_commits_wait(2)
        assert writers.acknowledged_count() == before
        cluster.nodes[followers[0]].start()
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.warned
    log_world.judge(journal)


def test_paused_leader_is_replaced_and_steps_down_when_it_wakes(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        cluster.nodes[leader].pause()
        cluster.wait_for_leader(other_than=leader)
        writers.wait_for_more(200)
        cluster.nodes[leader].resume()
        cluster.wait_for_catch_up(leader)
        assert cluster.wait_for_leader() != leader
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_paused_follower_holds_up_nobody(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        follower = cluster.followers()[0]
        cluster.nodes[follower].pause()
        writers.wait_for_more(1000)
        cluster.nodes[follower].resume()
        cluster.wait_for_catch_up(follower)
        assert cluster.wait_for_leader() == leader
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_all_nodes_may_die_at_once_and_come_back(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        for _ in range(3):
            writers.wait_for_more(200)
            for node in cluster.nodes.values():
                node.kill()
            for node in cluster.nodes.values():
                node.start()
            cluster.wait_for_leader()
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_shutdown_of_the_leader_hands_over_and_loses_no_commit(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        for _ in range(3):
            writers.wait_for_more(200)
            leader = cluster.wait_for_leader()
            assert cluster.nodes[leader].stop() == 0
            cluster.wait_for_leader(other_than=leader)
            writers.wait_for_more(200)
            cluster.nodes[leader].start()
            cluster.wait_for_catch_up(leader)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_judge_finds_out_a_log_that_lost_its_end(log_world: LogWorld) -> None:
    """The other tests would pass with a judge that sees nothing; this one would not."""
    with log_world.writing() as writers:
        writers.wait_for_more(1500)
    journal = writers.journal()
    log_world.cluster.stop()
    log_world.primary.kill_blocking()
    whole = log_world.logs()[0]
    assert log_world.findings_after_cut(whole, 100_000, journal) != []
