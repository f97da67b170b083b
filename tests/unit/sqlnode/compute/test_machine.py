"""The compute's state machine, as stories: what happens, and what it does then.

In scope: when it starts, promotes, fences, drains and rebuilds. Out of scope: what must hold in any
order of events, see test_machine_model.
"""

from __future__ import annotations

import pytest

from fabric.ids import Epoch, NodeName
from fabric.lsn import Lsn, Tli
from log_service.compute_methods import ComputeState, Orders
from log_service.record_bodies import Holder
from sqlnode.compute.machine import (
    Action,
    Discarded,
    Ended,
    EndLife,
    Event,
    Exit,
    Machine,
    MachineSettings,
    OrdersHeard,
    Positioned,
    Promote,
    Promoted,
    Ready,
    ReportNow,
    ShutDown,
    ShutDownDone,
    StartLife,
    StopRequested,
    Tick,
)

ME, INSTANCE = NodeName("c1"), 7
LEASE_MS = 1_800
START = Lsn(1_000)
REPORT = ReportNow()


class Story:
    """A machine, a clock, and orders as a leader gives them."""

    def __init__(self) -> None:
        self.machine = Machine(ME, INSTANCE)
        self.now_ms = 50_000
        self.epoch, self.start, self.tli = 1, START, 1

    def __call__(self, event: Event, *, after_ms: int = 0) -> list[Action]:
        """What it does about an event."""
        self.now_ms += after_ms
        return list(self.machine.take(event, self.now_ms))

    def orders(
        self, *, holder: str | None = None, instance: int = INSTANCE, drain: bool = False,
        sent_ms_ago: int = 0, after_ms: int = 0,
    ) -> list[Action]:  # fmt: skip
        """What the leader answers just now."""
        who = None if holder is None else Holder(NodeName(holder), "unix:///x", instance=instance)
        orders = Orders(
            node=NodeName("log-1"),
            term=1,
            epoch=Epoch(self.epoch),
            holder=who,
            epoch_start=self.start,
            tli=Tli(self.tli),
            lease_ms=LEASE_MS,
            drain=drain,
        )
        self.now_ms += after_ms
        return self(OrdersHeard(self.now_ms - sent_ms_ago, orders))

    def position(self, received: int, *, tli: int = 1) -> list[Action]:
        """What the server says of itself."""
        lsn = Lsn(received)
        return self(Positioned(self.machine.life, lsn, lsn, Tli(tli)))

    def state(self) -> ComputeState:
        """What it reports."""
        return self.machine.state


def replica() -> Story:
    """One that has all WAL, in an epoch without a holder."""
    story = Story()
    assert story(Tick()) == [REPORT, StartLife(1)]
    assert story.state() is ComputeState.STARTING
    assert story(Ready(1), after_ms=300) == [REPORT]
    story.orders()
    story.position(START)
    assert story.state() is ComputeState.REPLICA
    return story


def primary() -> Story:
    """One that was promoted in epoch 2."""
    story = replica()
    story.epoch = 2
    assert story.orders(holder=ME) == [REPORT, Promote(1, Epoch(2))]
    assert story.state() is ComputeState.PROMOTING
    assert story(Promoted(1)) == [REPORT]
    assert story.state() is ComputeState.PRIMARY
    assert story.machine.epoch == 2
    return story


def test_compute_starts_as_a_replica_and_is_promoted_when_it_holds_the_epoch() -> None:
    primary()


def test_epoch_of_somebody_else_promotes_nobody() -> None:
    story = replica()
    story.epoch = 2
    assert story.orders(holder="c2") == []
    assert story.state() is ComputeState.REPLICA


def test_epoch_of_another_life_of_the_agent_promotes_nobody() -> None:
    story = replica()
    story.epoch = 2
    assert story.orders(holder=ME, instance=INSTANCE + 1) == []
    assert story.state() is ComputeState.REPLICA


def test_promotion_waits_for_all_wal_up_to_the_epoch() -> None:
    story = replica()
    story.epoch, story.start = 2, Lsn(START + 500)
    assert story.orders(holder=ME) == [REPORT]
    assert (story.state(), story.machine.epoch) == (ComputeState.PROMOTING, 2)
    assert story.position(START + 499) == []
    assert story.position(START + 500) == [Promote(1, Epoch(2))]


def test_promotion_waits_for_the_branchs_timeline() -> None:
    story = replica()
    story.epoch, story.tli = 2, 3
    story.orders(holder=ME)
    assert story.position(START + 500, tli=2) == []
    assert story.position(START, tli=3) == [Promote(1, Epoch(2))]


def test_holder_that_cannot_promote_says_why_and_goes_on_trying() -> None:
    story = replica()
    story.epoch, story.start = 2, Lsn(START + 500)
    for _ in range(20):
        assert story.machine.complaint == ""
        story.orders(holder=ME, after_ms=100)
    story.orders(holder=ME, after_ms=100)
    assert "it has WAL up to 0/3E8" in story.machine.complaint
    assert story.position(START + 500) == [Promote(1, Epoch(2))]


def test_grant_that_goes_elsewhere_before_the_promotion_leaves_a_replica() -> None:
    story = replica()
    story.epoch, story.start = 2, Lsn(START + 500)
    story.orders(holder=ME)
    story.epoch = 3
    assert story.orders(holder="c2") == [REPORT]
    assert (story.state(), story.machine.epoch) == (ComputeState.REPLICA, 0)


def test_lease_counts_from_when_the_report_was_sent() -> None:
    story = primary()
    story.orders(holder=ME, sent_ms_ago=300, after_ms=1_000)
    assert story.machine.deadline_ms() == story.now_ms - 300 + LEASE_MS
    assert story(Tick(), after_ms=LEASE_MS - 301) == []
    reason = "it is cut off from the log's leader: its lease has ended"
    assert story(Tick(), after_ms=1) == [REPORT, EndLife(1, reason)]
    assert story.state() is ComputeState.DOWN


def test_answer_to_an_older_report_shortens_no_lease() -> None:
    story = primary()
    story.orders(holder=ME, after_ms=500)
    deadline_ms = story.machine.deadline_ms()
    story.orders(holder=ME, sent_ms_ago=400)
    assert story.machine.deadline_ms() == deadline_ms


def test_leader_that_was_deposed_prolongs_no_lease() -> None:
    story = primary()
    deadline_ms = story.machine.deadline_ms()
    story.epoch = 1
    assert story.orders(holder=ME, after_ms=500) == []
    assert story.machine.deadline_ms() == deadline_ms


def test_primary_that_hears_of_another_epoch_is_killed_and_built_anew() -> None:
    story = primary()
    story.epoch = 3
    (report, end) = story.orders(holder="c2")
    assert report == REPORT
    assert isinstance(end, EndLife)
    assert story(Discarded(1)) == [REPORT, StartLife(2)]
    assert story(Ready(2)) == [REPORT]
    assert story.state() is ComputeState.REPLICA


def test_primary_whose_epoch_was_granted_to_it_again_is_built_anew() -> None:
    story = primary()
    story.epoch = 3
    assert isinstance(story.orders(holder=ME)[1], EndLife)
    story(Discarded(1))
    story(Ready(2))
    assert story.state() is ComputeState.PROMOTING
    assert story.position(START) == [Promote(2, Epoch(3))]


def test_server_that_ends_is_reported_at_once_and_built_anew() -> None:
    story = primary()
    assert story(Ended(1, "killed"), after_ms=10) == [REPORT, EndLife(1, "killed")]
    assert (story.state(), story.machine.epoch) == (ComputeState.DOWN, 0)
    assert story(Discarded(1)) == [REPORT, StartLife(2)]


def test_epoch_is_promoted_under_only_once() -> None:
    story = primary()
    story(Ended(1, "killed"))
    story(Discarded(1))
    story(Ready(2))
    story.position(START)
    assert story.orders(holder=ME) == []
    assert story.state() is ComputeState.REPLICA
    story.epoch = 3
    assert story.orders(holder=ME) == [REPORT, Promote(2, Epoch(3))]


def test_lives_that_fail_one_after_the_other_pause_longer_and_longer() -> None:
    story = Story()
    story(Tick())
    pauses = []
    for life in range(1, 9):
        story(Ended(life, "no storage node"))
        assert story.machine.complaint == "no storage node"
        actions = story(Discarded(life))
        due_ms = story.machine.deadline_ms()
        if StartLife(life + 1) in actions:
            pauses.append(0)
            continue
        assert due_ms is not None
        pauses.append(due_ms - story.now_ms)
        assert story(Tick(), after_ms=pauses[-1] - 1) == []
        assert story(Tick(), after_ms=1) == [REPORT, StartLife(life + 1)]
    assert pauses == [0, 200, 400, 800, 1600, 3200, 5000, 5000]


@pytest.mark.parametrize(("ready_ms", "follows"), [(2_999, False), (3_000, True)])
def test_life_that_lasted_is_followed_at_once(ready_ms: int, *, follows: bool) -> None:
    story = Story()
    story(Tick())
    for life in (1, 2, 3):
        story(Ended(life, "broken"))
        story(Discarded(life))
        story(Tick(), after_ms=60_000)
    story(Ready(4))
    story(Ended(4, "killed"), after_ms=ready_ms)
    assert (StartLife(5) in story(Discarded(4))) is follows


def test_drain_shuts_the_primary_down_and_tells_where_its_wal_ends() -> None:
    story = primary()
    assert story.orders(holder=ME, drain=True) == [ShutDown(1)]
    assert story.state() is ComputeState.PRIMARY
    assert story.orders(holder=ME, drain=True) == []
    done = story(ShutDownDone(1, Lsn(5_000)))
    assert done == [REPORT, EndLife(1, "it has shut down in order")]
    assert (story.state(), story.machine.epoch) == (ComputeState.DRAINED, 2)
    assert story.machine.received == 5_000


def test_drained_compute_waits_until_the_epoch_is_somebody_elses() -> None:
    story = primary()
    story.orders(holder=ME, drain=True)
    story(ShutDownDone(1, Lsn(5_000)))
    assert story(Discarded(1)) == []
    assert story.orders(holder=ME, after_ms=500) == []
    assert story.state() is ComputeState.DRAINED
    story.epoch = 3
    assert story.orders(holder="c2") == [REPORT, StartLife(2)]


def test_drained_compute_that_nobody_relieves_becomes_a_replica_again() -> None:
    story = primary()
    story.orders(holder=ME, drain=True)
    story(ShutDownDone(1, Lsn(5_000)))
    story(Discarded(1))
    assert story.machine.deadline_ms() == story.now_ms + 3_000
    assert story(Tick(), after_ms=3_000) == [REPORT, StartLife(2)]


def test_server_that_breaks_while_it_drains_is_down_and_not_drained() -> None:
    story = primary()
    story.orders(holder=ME, drain=True)
    story(Ended(1, "exited with status 1"))
    assert (story.state(), story.machine.epoch) == (ComputeState.DOWN, 0)


def test_drain_ends_with_the_lease() -> None:
    story = primary()
    story.orders(holder=ME, drain=True)
    assert isinstance(story(Tick(), after_ms=LEASE_MS)[-1], EndLife)


def test_primary_stops_in_order_and_reports_it_before_the_agent_ends() -> None:
    story = primary()
    assert story(StopRequested()) == [ShutDown(1)]
    story(ShutDownDone(1, Lsn(5_000)))
    assert story.state() is ComputeState.DRAINED
    assert story(Discarded(1)) == [Exit()]
    assert story.state() is ComputeState.DRAINED


def test_replica_stops_in_order() -> None:
    story = replica()
    assert story(StopRequested()) == [REPORT, ShutDown(1)]
    assert isinstance(story(ShutDownDone(1, Lsn(0)))[-1], EndLife)
    assert story(Discarded(1)) == [Exit()]


def test_replica_that_does_not_stop_is_killed() -> None:
    story = replica()
    story(StopRequested())
    due_ms = story.machine.deadline_ms()
    assert due_ms is not None
    assert isinstance(story(Tick(), after_ms=due_ms - story.now_ms)[-1], EndLife)


def test_replica_has_the_time_that_statements_get_besides() -> None:
    story = replica()
    story.machine = Machine(ME, INSTANCE, MachineSettings(drain_ms=500_000))
    story(Tick())
    story(Ready(1))
    story(StopRequested())
    due_ms = story.machine.deadline_ms()
    assert due_ms == story.now_ms + 500_000 + MachineSettings().shutdown_ms_max
    assert story(Tick(), after_ms=due_ms - story.now_ms - 1) == []
    assert isinstance(story(Tick(), after_ms=1)[-1], EndLife)


def test_agent_that_has_no_server_ends_at_once() -> None:
    story = Story()
    story(Tick())
    story(Ended(1, "x"))
    assert story(StopRequested()) == []
    assert story(Discarded(1)) == [Exit()]


def test_agent_that_is_building_gives_up_and_ends() -> None:
    story = Story()
    story(Tick())
    assert isinstance(story(StopRequested())[-1], EndLife)
    assert story(Discarded(1)) == [Exit()]


def test_what_an_earlier_life_says_late_changes_nothing() -> None:
    story = primary()
    story(Ended(1, "killed"))
    story(Discarded(1))
    for late in (Ready(1), Promoted(1), Ended(1, "x"), Discarded(1), ShutDownDone(1, Lsn(9))):
        assert story(late) == []
    assert story.state() is ComputeState.STARTING


def test_holder_whose_lease_ends_before_it_could_promote_is_a_replica_again() -> None:
    story = replica()
    story.epoch, story.start = 2, Lsn(START + 500)
    story.orders(holder=ME)
    assert story.machine.deadline_ms() == story.now_ms + LEASE_MS
    assert story(Tick(), after_ms=LEASE_MS) == [REPORT]
    assert story.state() is ComputeState.REPLICA
    assert story.position(START + 500) == []
    assert story.orders(holder=ME) == [REPORT, Promote(1, Epoch(2))]
