"""The network between log nodes breaks in every way it can, and nothing acknowledged is lost.

In scope: partitions both ways and one way, of one node and of one pair; delay; resets. The
connection to the primary stays: the nodes and their computes may well be cut off differently.
Out of scope: processes that die, disks; see the other test_log_faults_*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fixtures.log_cluster import LogWorld


pytestmark = [pytest.mark.postgres, pytest.mark.faults]


def test_leader_that_is_cut_off_is_replaced(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        log_world.cut_off(leader)
        cluster.wait_for_leader(other_than=leader)
        writers.wait_for_more(300)
        log_world.mend()
        cluster.wait_for_catch_up(leader)
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


@pytest.mark.parametrize("outgoing", [True, False], ids=["cannot-speak", "cannot-hear"])
def test_leader_that_is_cut_off_one_way_stops_leading_or_goes_on(
    log_world: LogWorld, *, outgoing: bool
) -> None:
    """Either somebody else leads or commits go on under the same leader: never neither."""
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        log_world.cut_off(leader, outgoing=outgoing, incoming=not outgoing)
        writers.wait_for_more(300)
        log_world.mend()
        cluster.wait_for_catch_up(leader)
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_follower_that_is_cut_off_does_not_disturb_when_it_comes_back(log_world: LogWorld) -> None:
    """Pre-vote: it has asked for votes all the time, and yet it deposes nobody."""
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        follower = cluster.followers()[0]
        for _ in range(3):
            log_world.cut_off(follower)
            writers.wait_for_more(300)
            log_world.mend()
            cluster.wait_for_catch_up(follower)
        assert cluster.wait_for_leader() == leader
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_pair_that_cannot_hear_each_other_does_not_stop_commits(log_world: LogWorld) -> None:
    """The third node sees both; leadership must not go back and forth for ever."""
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        leader = cluster.wait_for_leader()
        log_world.cut_pair(leader, cluster.followers()[0])
        writers.wait_for_more(500)
        before = cluster.wait_for_leader()
        writers.wait_for_more(500)
        assert cluster.wait_for_leader() == before
        log_world.mend()
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_followers_that_are_cut_off_stop_commits_until_mended(log_world: LogWorld) -> None:
    cluster = log_world.cluster
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        for follower in cluster.followers():
            log_world.cut_off(follower)
        log_world.wait_until_commits_wait(2)
        log_world.mend()
        writers.wait_for_more(300)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)


def test_slow_and_breaking_links_lose_nothing(log_world: LogWorld) -> None:
    links = log_world.links()
    with log_world.writing() as writers:
        for link in links:
            link.delay(0.01)
        for _ in range(3):
            writers.wait_for_more(30)
            for link in links:
                link.reset()
        log_world.mend()
        writers.wait_for_more(200)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.judge(journal)
