"""Leaders and primaries change by order, often and under load: one history comes out of it.

In scope: transfers every second, promotion beside a primary that lives, standbys through it all.
Out of scope: crashes, networks, disks; see the other test_log_faults_*.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest
from fixtures.log_cluster import NODES

if TYPE_CHECKING:
    from fixtures.log_cluster import LogWorld


pytestmark = [pytest.mark.postgres, pytest.mark.faults]

TRANSFERS = 20
SECOND = 1.0


def test_standby_follows_through_a_change_of_leader_every_second(log_world: LogWorld) -> None:
    standby = log_world.standby("s")
    with log_world.writing() as writers:
        for _, to in zip(range(TRANSFERS), itertools.cycle(NODES), strict=False):
            second_ends_s = time.monotonic() + SECOND
            log_world.transfer(to)
            writers.wait_for_more(50)
            # Time is the load here: a transfer a second, however fast the rows are.
            while time.monotonic() < second_ends_s:
                writers.wait_for_more(1)
    journal = writers.journal()
    assert not journal.failed
    assert not journal.warned
    log_world.assert_equal(log_world.primary, standby)
    log_world.judge(journal)


def test_old_primary_that_lives_never_acknowledges_again(log_world: LogWorld) -> None:
    """Fencing: its commits wait for ever, whatever it believes."""
    standby = log_world.standby("s")
    with log_world.writing() as on_old:
        on_old.wait_for_more(300)
        log_world.promote(standby, holder="s")
        before = on_old.acknowledged_count()
        with log_world.writing(server=standby) as on_new:
            on_new.wait_for_more(300)
            log_world.wait_until_commits_wait(2)
        assert on_old.acknowledged_count() == before
        log_world.primary.kill_blocking()
    assert not on_old.journal().warned
    log_world.judge(on_old.journal(), on_new.journal())


def test_several_promotions_leave_one_history(log_world: LogWorld) -> None:
    names = ("s1", "s2")
    standbys = {name: log_world.standby(name) for name in names}
    with log_world.writing() as writers:
        writers.wait_for_more(200)
        log_world.primary.kill_blocking()
        for name in names:
            log_world.promote(standbys[name], holder=name)
            writers.direct(standbys[name].conninfo())
            writers.wait_for_more(200)
            if name != names[-1]:
                standbys[name].kill_blocking()
    log_world.judge(writers.journal())
