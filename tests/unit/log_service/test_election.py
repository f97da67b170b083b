"""Who becomes the primary: each rule as a story. Random worlds are in test_election_worlds.py."""

from dataclasses import dataclass, field

import pytest

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn
from log_service.compute_methods import ComputeReport, ComputeState
from log_service.election import (
    AWAY_MS,
    COMPUTES_MAX,
    FORGET_MS,
    SHORT_REIGN_MS,
    SWITCHOVER_MS,
    Election,
    Standing,
    SwitchoverError,
)
from log_service.group_settings import LEASE_MARGIN_MS, GroupSettings
from log_service.record_bodies import Holder

SETTINGS = GroupSettings()
TICK_MS = 30
REPORT_MS = 200

REPLICA, PROMOTING, PRIMARY = ComputeState.REPLICA, ComputeState.PROMOTING, ComputeState.PRIMARY
STARTING, DRAINED, DOWN = ComputeState.STARTING, ComputeState.DRAINED, ComputeState.DOWN


def report(
    name: str,
    state: ComputeState,
    *,
    epoch: int = 0,
    received: int = 100,
    replayed: int = 100,
    instance: int = 1,
    can_lead: bool = True,
) -> ComputeReport:
    return ComputeReport(
        branch=BranchName("main"),
        name=NodeName(name),
        instance=instance,
        state=state,
        address="tcp://127.0.0.1:1",
        epoch=Epoch(epoch),
        received=Lsn(received),
        replayed=Lsn(replayed),
        can_lead=can_lead,
    )


@dataclass
class Story:
    """An election, and who says what every REPORT_MS while time passes. Grants are carried out."""

    standing: Standing = field(default_factory=Standing)
    now_ms: int = 1_000_000
    saying: dict[str, ComputeReport] = field(default_factory=dict)
    granted: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.election = Election(SETTINGS, self.standing, self.now_ms)

    def new_leader(self) -> None:
        """Somebody else leads, and knows what the log says."""
        self.election = Election(SETTINGS, self.standing, self.now_ms)

    def say(self, *reports: ComputeReport) -> str | None:
        """Let computes report now, and go on doing so; return who is granted the epoch."""
        for each in reports:
            self.saying[each.name] = each
            self.election.heard(each, self.now_ms)
        return self.decide()

    def silence(self, name: str) -> None:
        """Let a compute report no more."""
        del self.saying[name]

    def decide(self) -> str | None:
        """Carry out what is decided now."""
        chosen = self.election.decide(self.now_ms)
        if chosen is None:
            return None
        holder = Holder(chosen.name, chosen.address, chosen.user, chosen.instance)
        self.become(Standing(self.standing.epoch.next(), holder))
        self.granted.append(chosen.name)
        return chosen.name

    def become(self, standing: Standing) -> None:
        """Have something committed."""
        self.standing = standing
        self.election.follow(standing, self.now_ms)

    def begin_wal(self) -> None:
        """WAL of the epoch comes in."""
        self.become(Standing(self.standing.epoch, self.standing.holder, has_begun=True))

    def wait(self, ms: int) -> list[str]:
        """Let time pass, with ticks and reports; return who was granted epochs."""
        before, end_ms = len(self.granted), self.now_ms + ms
        while self.now_ms < end_ms:
            self.now_ms = min(self.now_ms + TICK_MS, end_ms)
            if self.now_ms % REPORT_MS < TICK_MS:
                for each in self.saying.values():
                    self.election.heard(each, self.now_ms)
            self.decide()
        return self.granted[before:]


def with_primary(name: str = "a", epoch: int = 1) -> Story:
    """A leader that has just begun, and a primary that reports and has replicas b and c."""
    story = Story(Standing(Epoch(epoch), Holder(NodeName(name), "x", "u", 1), has_begun=True))
    assert story.say(report(name, PRIMARY, epoch=epoch), report("b", REPLICA)) is None
    assert story.say(report("c", REPLICA, received=90)) is None
    return story


# --- No holder ------------------------------------------------------------------------------------


def test_first_replica_gets_the_first_epoch_at_once() -> None:
    story = Story()
    assert story.say(report("a", STARTING)) is None
    assert story.say(report("a", REPLICA)) == "a"
    assert story.standing.epoch == 1
    assert story.standing.holder == Holder(NodeName("a"), "tcp://127.0.0.1:1", "postgres", 1)


def test_who_cannot_lead_never_does() -> None:
    story = Story()
    assert story.say(report("a", REPLICA, can_lead=False)) is None
    assert story.wait(60_000) == []
    assert story.say(report("b", REPLICA, received=1)) == "b"


# --- The holder is well ---------------------------------------------------------------------------


def test_nothing_happens_while_the_primary_reports() -> None:
    story = with_primary()
    assert story.wait(120_000) == []


def test_new_leader_waits_for_a_primary_that_it_knows_from_the_log() -> None:
    story = with_primary()
    primary = story.saying.pop("a")
    story.new_leader()
    assert story.wait(SETTINGS.takeover_ms - 300) == []
    assert story.say(primary) is None
    assert story.wait(60_000) == []


def test_chosen_one_has_time_to_become_the_primary() -> None:
    story = Story()
    story.say(report("a", REPLICA), report("b", REPLICA, received=1))
    assert story.wait(SETTINGS.promote_ms - 500) == []
    assert story.say(report("a", PROMOTING, epoch=1)) is None
    assert story.wait(SETTINGS.promote_ms - 500) == []
    story.say(report("a", PRIMARY, epoch=1))
    assert story.wait(60_000) == []


def test_report_that_was_under_way_at_the_promotion_is_no_failure() -> None:
    """WAL of the epoch is here, and an old report says that its holder is a replica."""
    story = Story()
    story.wait(10 * SETTINGS.fresh_ms)  # it counts from the promotion on, not since we lead
    story.say(report("a", REPLICA), report("b", REPLICA))
    story.begin_wal()
    assert story.wait(SETTINGS.fresh_ms - REPORT_MS) == []


# --- The holder is gone ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        report("a", DOWN),
        report("a", STARTING),
        report("a", DRAINED, epoch=1),
        report("a", PRIMARY, epoch=1, instance=2),
        report("a", REPLICA, instance=2, received=1),
    ],
)
def test_primary_that_says_it_is_none_is_replaced_at_once(said: ComputeReport) -> None:
    story = with_primary()
    assert story.say(said) == "b"


@pytest.mark.parametrize("epoch", [1, 3])
def test_primary_of_another_epoch_is_not_the_holder_of_this_one(epoch: int) -> None:
    story = with_primary(epoch=2)
    story.new_leader()
    assert story.say(report("b", REPLICA), report("a", PRIMARY, epoch=epoch)) == "b"


def test_silent_primary_is_replaced_when_its_lease_is_over_for_certain() -> None:
    story = with_primary()
    story.wait(1_000)
    story.silence("a")
    assert story.wait(SETTINGS.takeover_ms - REPORT_MS) == []
    assert story.wait(2 * REPORT_MS) == ["b"]


def test_new_leader_replaces_a_primary_that_never_reports_to_it() -> None:
    story = with_primary()
    story.silence("a")
    story.new_leader()
    assert story.wait(SETTINGS.takeover_ms - 1) == []
    assert story.wait(TICK_MS) == ["b"]


def test_chosen_one_that_falls_silent_is_replaced() -> None:
    story = Story()
    assert story.say(report("a", REPLICA), report("b", REPLICA, received=1)) == "a"
    story.silence("a")
    assert story.wait(SETTINGS.takeover_ms + TICK_MS) == ["b"]


def test_primary_that_is_back_as_a_replica_before_anybody_saw_it_fail_gets_a_new_epoch() -> None:
    story = with_primary()
    del story.saying["b"], story.saying["c"]
    story.wait(5_000)
    assert story.say(report("a", REPLICA)) == "a"
    assert story.standing.epoch == 2


def test_chosen_one_that_does_not_begin_is_replaced() -> None:
    story = Story()
    story.say(report("a", REPLICA), report("b", REPLICA, received=1))
    assert story.wait(SETTINGS.promote_ms + TICK_MS) == ["b"]


def test_promotion_that_takes_too_long_is_given_up_if_there_is_somebody_else() -> None:
    story = Story()
    story.say(report("a", REPLICA))
    story.say(report("a", PROMOTING, epoch=1))
    assert story.wait(3 * SETTINGS.promote_ms) == []
    assert story.say(report("b", REPLICA)) == "b"


# --- Who is chosen --------------------------------------------------------------------------------


def test_furthest_replica_is_chosen_then_the_one_that_replayed_most_then_by_name() -> None:
    story = with_primary()
    story.say(report("c", REPLICA, received=101, replayed=1))
    assert story.say(report("a", DOWN)) == "c"
    story = with_primary()
    story.say(report("b", REPLICA, replayed=99), report("c", REPLICA, replayed=98))
    assert story.say(report("a", DOWN)) == "b"
    story = with_primary()
    story.say(report("c", REPLICA))
    assert story.say(report("a", DOWN)) == "b"


def test_replica_that_has_not_reported_lately_is_not_chosen() -> None:
    story = with_primary()
    story.silence("b")
    story.wait(SETTINGS.fresh_ms + REPORT_MS)
    assert story.say(report("a", DOWN)) == "c"


def test_without_a_candidate_the_next_replica_gets_the_epoch() -> None:
    story = with_primary()
    del story.saying["b"], story.saying["c"]
    story.wait(2_000)
    assert story.say(report("a", DOWN)) is None
    assert story.wait(30_000) == []
    assert story.say(report("a", STARTING)) is None
    assert story.say(report("a", REPLICA)) == "a"


def test_two_that_fail_do_not_pass_the_epoch_to_and_fro_beside_one_that_works() -> None:
    story = with_primary()
    story.say(report("b", REPLICA, received=300), report("d", REPLICA, received=200))
    assert story.say(report("a", DOWN)) == "b"
    story.wait(SHORT_REIGN_MS // 2)
    assert story.say(report("b", DOWN)) == "d"
    story.say(report("b", REPLICA, received=300))
    story.wait(SHORT_REIGN_MS // 2)
    assert story.say(report("d", DOWN)) == "c"


def test_who_failed_after_a_long_reign_counts_as_everybody_else() -> None:
    story = with_primary()
    assert story.say(report("a", DOWN)) == "b"
    story.say(report("b", PRIMARY, epoch=2))
    story.wait(SHORT_REIGN_MS)
    assert story.say(report("b", DOWN)) == "c"
    story.say(report("b", REPLICA, received=300))
    assert story.say(report("c", DOWN)) == "b"


# --- We were away ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_tick_first", [True, False])
def test_time_that_we_were_stopped_is_nobodys_silence(is_tick_first: bool) -> None:
    story = with_primary()
    story.wait(1_000)
    story.now_ms += 60_000 - REPORT_MS
    if not is_tick_first:  # what a replica said meanwhile is read before what the primary said
        assert story.say(report("b", REPLICA)) is None
    assert story.decide() is None
    assert story.wait(SETTINGS.takeover_ms - AWAY_MS) == []


def test_after_a_stop_silence_goes_on_to_count() -> None:
    story = with_primary()
    story.silence("a")
    story.wait(SETTINGS.takeover_ms // 2)
    story.now_ms += 20_000
    assert story.wait(SETTINGS.takeover_ms // 2 + 2 * REPORT_MS) == ["b"]


def test_candidate_that_was_fresh_before_a_stop_is_not_afterwards() -> None:
    story = Story()
    story.election.heard(report("a", REPLICA), story.now_ms)
    story.now_ms += SETTINGS.fresh_ms + 1
    assert story.decide() is None


# --- Switchover -----------------------------------------------------------------------------------


def switch(story: Story, to: str | None = None, *, by_force: bool = False) -> str:
    name = None if to is None else NodeName(to)
    return story.election.begin_switchover(name, story.now_ms, by_force=by_force)


def drains(story: Story) -> list[str]:
    return [name for name, said in story.saying.items() if story.election.must_drain(said)]


def test_drained_primary_is_replaced_at_once() -> None:
    story = with_primary()
    assert drains(story) == []
    assert switch(story, "c") == "c"
    assert drains(story) == ["a"]
    assert story.wait(500) == []
    story.say(report("c", REPLICA, received=100))  # it has the last WAL before we hear of that
    assert story.say(report("a", DRAINED, epoch=1, received=120)) == "c"
    assert drains(story) == []
    assert not story.election.is_switching


def test_switchover_goes_to_the_furthest_if_nobody_is_named() -> None:
    story = with_primary()
    assert switch(story) == "b"


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("a", "it is primary, not a replica"),
        ("d", "it does not report"),
        ("e", "never leads"),
        ("f", "it is starting, not a replica"),
    ],
)
def test_switchover_to_who_cannot_lead_is_refused(to: str, why: str) -> None:
    story = with_primary()
    story.say(report("e", REPLICA, can_lead=False), report("f", STARTING))
    with pytest.raises(SwitchoverError, match=why):
        switch(story, to)
    assert not story.election.is_switching


def test_switchover_without_any_replica_is_refused() -> None:
    story = Story(Standing(Epoch(1), Holder(NodeName("a"), "x", "u", 1)))
    story.say(report("a", PRIMARY, epoch=1))
    with pytest.raises(SwitchoverError, match="no replica"):
        switch(story)


def test_second_switchover_has_to_wait() -> None:
    story = with_primary()
    switch(story, "c")
    with pytest.raises(SwitchoverError, match="to c is under way"):
        switch(story, "b")


def test_switchover_is_given_up_and_the_primary_stays() -> None:
    story = with_primary()
    switch(story, "c")
    assert story.wait(SWITCHOVER_MS + TICK_MS) == []
    assert not story.election.is_switching
    assert drains(story) == []
    assert story.wait(10_000) == []


def test_switchover_whose_target_is_gone_ends_as_a_failover() -> None:
    story = with_primary()
    switch(story, "c")
    story.silence("c")
    story.wait(SETTINGS.fresh_ms + 2 * TICK_MS)
    assert story.say(report("a", DRAINED, epoch=1, received=120)) == "b"


def test_primary_that_dies_in_a_switchover_is_replaced_by_its_target() -> None:
    story = with_primary()
    switch(story, "c")
    assert story.say(report("a", DOWN)) == "c"


def test_new_leader_takes_a_drained_primary_for_one_that_is_gone() -> None:
    story = with_primary()
    switch(story, "c")
    story.new_leader()
    assert story.say(report("b", REPLICA), report("a", DRAINED, epoch=1, received=120)) == "b"


def test_forced_switchover_does_not_wait_for_the_primary() -> None:
    story = with_primary()
    switch(story, "c", by_force=True)
    assert drains(story) == []
    assert story.decide() == "c"


# --- Limits ---------------------------------------------------------------------------------------


def test_computes_that_are_gone_are_forgotten_and_there_is_a_limit() -> None:
    story = Story()
    story.say(report("zzz", STARTING))
    story.now_ms += 1
    for number in range(COMPUTES_MAX):
        story.election.heard(report(f"c{number}", STARTING), story.now_ms)
    names = [seen.report.name for seen in story.election.computes()]
    assert len(names) == COMPUTES_MAX
    assert "zzz" not in names
    story.now_ms += FORGET_MS
    story.decide()
    assert story.election.computes() == []


def test_settings_that_allow_two_primaries_are_refused() -> None:
    with pytest.raises(ValueError, match="two primaries"):
        GroupSettings(lease_ms=1000, takeover_ms=1000 + LEASE_MARGIN_MS - 1)
