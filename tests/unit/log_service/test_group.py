"""One branch's log over several replicas: what is committed, and what happens to what is not."""

import asyncio

import pytest
from unit.log_service.group_world import (
    HOLDER,
    START,
    World,
    append_of,
    info_of,
    records_of,
    replayed,
    story,
    timeline_after,
)

from fabric.ids import Epoch
from fabric.lsn import Tli
from log_service.branch import FenceError, encode_branch
from log_service.record_bodies import MEMBERS_MAX, EpochBody, Pin, Timeline, Trim
from raft.errors import BusyError, ConfigRefusedError, NotLeaderError
from raft.types import Role

# --- Committing ---------------------------------------------------------------------------------


@story()
async def test_wal_is_committed_with_one_replica_cut_off(world: World) -> None:
    world.cut_off = {3}
    leader = world.group(1)
    await world.write(leader, 1000, 2000)
    assert leader.committed.end == START + 3000
    assert world.group(2).committed.end == START + 3000
    assert world.group(3).committed.end == START


@story()
async def test_nothing_is_committed_without_a_majority(world: World) -> None:
    world.cut_off = {2, 3}
    leader = world.group(1)
    await world.write(leader, 1000)
    assert leader.tail is not None
    assert (leader.tail.end, leader.committed.end) == (START + 1000, START)
    world.cut_off = set()
    await world.beat(6)
    assert leader.committed.end == START + 1000


@story()
async def test_a_held_disk_of_the_leader_does_not_count_as_one_of_the_majority(
    world: World,
) -> None:
    world.cut_off = {3}
    world.replicas[2].writer.is_held = True
    leader = world.group(1)
    await world.write(leader, 1000)
    assert leader.committed.end == START
    world.replicas[1].writer.is_held = True
    world.replicas[2].writer.let_go()
    await world.settle()
    assert leader.committed.end == START + 1000  # its own write was before the hold
    await world.write(leader, 500)
    assert leader.committed.end == START + 1000
    world.replicas[1].writer.let_go()
    await world.settle()
    assert leader.committed.end == START + 1500


@story()
async def test_a_majority_of_followers_commits_while_the_leaders_disk_is_slow(
    world: World,
) -> None:
    world.replicas[1].writer.is_held = True
    leader = world.group(1)
    await world.write(leader, 1000)
    assert leader.committed.end == START + 1000
    assert leader.disk.wal_end == (0, 0)


@story()
async def test_every_replica_comes_to_the_state_of_the_log(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 1000, 100_000, 20)
    await world.finish(leader.propose(Pin("backup", START + 500)))
    history = leader.committed.history
    await world.finish(leader.propose(timeline_after(history, 2, leader.committed.end)))
    await world.finish(leader.propose(EpochBody(Epoch(2), HOLDER)))
    await world.write(leader, 700)
    world.assert_agreed()
    founders = [info_of(member) for member in (1, 2, 3)]
    applied = leader.applied_index
    for member in (1, 2, 3):
        records = records_of(world.group(member).disk, applied)
        assert encode_branch(replayed(founders, records)) == encode_branch(leader.committed)


@story(1)
async def test_one_replica_is_a_group(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 1000)
    assert leader.committed.end == START + 1000
    again = (await world.crash(1)).group
    again.raft.campaign()
    again.flush()
    await world.settle()
    assert again.is_leading
    assert again.committed.end == START + 1000


# --- Fencing ------------------------------------------------------------------------------------


@story()
async def test_wal_of_a_superseded_epoch_is_refused_and_changes_nothing(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 1000)
    proposal = asyncio.ensure_future(leader.propose(EpochBody(Epoch(2), HOLDER)))
    await asyncio.sleep(0)  # proposed, and not committed yet
    last_index = leader.raft.last_index
    with pytest.raises(FenceError, match="epoch 1 was superseded by epoch 2"):
        leader.propose_wal(Epoch(1), Tli(1), START + 1000, b"old")
    assert leader.raft.last_index == last_index
    await world.finish(proposal)
    assert leader.committed.end == START + 1000


@story()
async def test_what_breaks_a_rule_does_not_get_into_the_log(world: World) -> None:
    leader = world.group(1)
    before, last_index = encode_branch(leader.committed), leader.raft.last_index
    for body in (EpochBody(Epoch(5), HOLDER), Trim(START + 1), Timeline(Tli(2), b"nonsense")):
        with pytest.raises(FenceError):
            await world.finish(leader.propose(body))
    with pytest.raises(FenceError, match="does not continue"):
        leader.propose_wal(Epoch(1), Tli(1), START + 1, b"a gap")
    with pytest.raises(FenceError, match="does not continue"):
        leader.propose_wal(Epoch(1), Tli(2), START, b"another timeline")
    assert leader.tail is not None
    assert (encode_branch(leader.tail), leader.raft.last_index) == (before, last_index)


@story()
async def test_a_body_that_no_record_holds_is_refused(world: World) -> None:
    leader = world.group(1)
    history = timeline_after(leader.committed.history, 2, START)
    padding = b"# " + b"x" * (128 * 1024 - len(history.history) - 3) + b"\n"
    with pytest.raises(FenceError, match="bytes at most"):
        await world.finish(leader.propose(Timeline(Tli(2), history.history + padding)))
    assert leader.committed.tli == 1


# --- Losing the lead ----------------------------------------------------------------------------


@story()
async def test_uncommitted_entries_of_a_deposed_leader_are_cut_with_all_that_came_of_them(
    world: World,
) -> None:
    old = world.group(1)
    await world.write(old, 1000)
    world.cut_off = {1}
    lost = asyncio.ensure_future(old.propose(EpochBody(Epoch(2), HOLDER)))
    await asyncio.sleep(0)
    world.propose_wal(old, 400)
    lost_members = asyncio.ensure_future(
        old.propose_members((*old.members, info_of(4, is_voter=False)))
    )
    await world.settle()
    assert old.member_info(4) is not None
    new = await world.elect(2)
    await world.write(new, 70)
    world.cut_off = set()
    await world.beat(6)
    with pytest.raises(NotLeaderError):
        await lost
    with pytest.raises(NotLeaderError):
        await lost_members
    world.assert_agreed()
    assert 4 not in {info.member for info in old.members}
    assert (old.committed.epoch, old.committed.end) == (1, START + 1070)
    assert old.recent.wal_end == (1, START + 1070)
    assert old.disk.wal_end == (1, START + 1070)
    assert not old.is_leading


@story()
async def test_a_lost_proposal_is_not_taken_for_what_is_committed_in_its_place(
    world: World,
) -> None:
    old = world.group(1)
    world.cut_off = {1}
    lost = asyncio.ensure_future(old.propose(EpochBody(Epoch(2), HOLDER)))
    await world.settle()
    new = await world.elect(2)
    await world.write(new, 70)
    # All that the new leader has to say arrives at once: the cut, and a commit index beyond.
    committed = new.applied_index
    assert committed > old.raft.commit_index + 1
    world.cut_off = set()
    await world.beat(6)
    assert old.applied_index == committed
    with pytest.raises(NotLeaderError):
        await lost
    assert old.committed.epoch == 1


@story()
async def test_the_cut_and_the_commit_in_one_message_do_not_confirm_a_lost_proposal(
    world: World,
) -> None:
    old = world.group(1)
    world.cut_off = {1}
    lost = asyncio.ensure_future(old.propose(EpochBody(Epoch(2), HOLDER)))
    await world.settle()
    new = await world.elect(2)
    await world.write(new, 70)
    before = old.raft.commit_index
    old.step(append_of(new, before))
    await asyncio.sleep(0)
    assert old.applied_index == new.applied_index
    await world.settle()
    with pytest.raises(NotLeaderError):
        await lost


@story()
async def test_proposals_of_a_deposed_leader_are_refused(world: World) -> None:
    old = world.group(1)
    await world.elect(2)
    with pytest.raises(NotLeaderError) as refused:
        old.propose_wal(Epoch(1), Tli(1), START, b"late")
    assert refused.value.leader == 2
    with pytest.raises(NotLeaderError):
        await old.propose(Pin("backup", START))
    with pytest.raises(NotLeaderError):
        await old.confirm_lead()
    assert old.leader_info == info_of(2)


@story()
async def test_a_leader_that_is_cut_off_cannot_confirm_its_lead(world: World) -> None:
    leader = world.group(1)
    await world.finish(leader.confirm_lead())
    world.cut_off = {1}
    question = asyncio.ensure_future(leader.confirm_lead())
    await world.settle()
    assert not question.done()
    await world.elect(2)
    world.cut_off = set()
    await world.beat(6)
    with pytest.raises(NotLeaderError):
        await question


@story()
async def test_a_leader_that_no_majority_follows_steps_down_and_says_so(world: World) -> None:
    leader = world.group(1)
    world.cut_off = {2, 3}
    lost = asyncio.ensure_future(leader.propose(Pin("backup", START)))
    await world.settle()
    roles: list[Role] = []
    leader.watch_role(lambda: roles.append(leader.raft.role))
    for _ in range(12):
        if leader.raft.role is Role.LEADER:
            leader.tick()
            await world.settle()
    assert roles == [Role.FOLLOWER]
    assert not leader.is_leading
    with pytest.raises(NotLeaderError):
        await lost


@story()
async def test_a_new_leader_goes_on_where_the_log_ends(world: World) -> None:
    await world.write(world.group(1), 1000)
    world.propose_wal(world.group(1), 500)  # not committed, but on the way
    await world.settle()
    new = await world.elect(3)
    assert new.tail is not None
    assert new.tail.end == START + 1500
    await world.write(new, 10)
    world.assert_agreed()
    assert new.committed.end == START + 1510


@story()
async def test_who_waits_for_a_commit_may_be_cancelled(world: World) -> None:
    leader = world.group(1)
    told: list[int] = []
    leader.on_commit.add(lambda: told.append(leader.applied_index))
    waiting = asyncio.ensure_future(leader.propose(Pin("backup", START)))
    await asyncio.sleep(0)
    waiting.cancel()
    await world.settle()
    assert leader.committed.pins == {"backup": START}
    assert told == [leader.applied_index]


@story()
async def test_the_lead_is_handed_over_with_all_that_is_in_the_log(world: World) -> None:
    leader = world.group(1)
    world.propose_wal(leader, 1000)
    leader.transfer(leader.best_successor())
    with pytest.raises(BusyError):
        leader.propose_wal(Epoch(1), Tli(1), START + 1000, b"too late")
    await world.settle()
    assert not leader.is_leading
    assert leader.leader_info is not None
    new = world.group(leader.leader_info.member)
    await world.beat()
    assert new.is_leading
    assert new.committed.end == START + 1000


# --- Members ------------------------------------------------------------------------------------


@story()
async def test_a_new_member_gets_the_log_and_votes(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 1000)
    world.found(4, leader.members)  # it must know whom to answer
    learner = (*leader.members, info_of(4, is_voter=False))
    await world.finish(leader.propose_members(learner))
    await world.beat(6)
    assert world.group(4).committed.end == START + 1000
    await world.finish(leader.propose_members((*learner[:-1], info_of(4))))
    await world.finish(leader.propose_members(tuple(map(info_of, (1, 2, 4)))))
    await world.beat(4)
    world.cut_off = {1, 3}
    new = await world.elect(4)
    await world.write(new, 10)
    assert new.committed.end == START + 1010


@story()
async def test_more_members_than_an_entry_may_name_are_refused(world: World) -> None:
    leader = world.group(1)
    too_many = tuple(info_of(member) for member in range(1, MEMBERS_MAX + 2))
    with pytest.raises(ConfigRefusedError, match="members at most"):
        await leader.propose_members(too_many)
    with pytest.raises(ConfigRefusedError):
        await leader.propose_members(too_many[:5])  # two at once
    assert leader.tail is not None
    assert len(leader.tail.members) == len(leader.members) == 3
    await world.finish(leader.propose_members(too_many[:4]))
    assert len(leader.committed.members) == 4


# --- Rest ---------------------------------------------------------------------------------------


@story()
async def test_an_idle_group_goes_to_rest_and_wakes_for_a_proposal(world: World) -> None:
    leader = world.group(1)
    await world.write(leader, 100)
    assert not leader.rest_if_idle(is_needed=False)
    await world.beat(4)
    assert not leader.rest_if_idle(is_needed=True)
    assert leader.rest_if_idle(is_needed=False)
    await world.settle()
    woken = world.replicas[1].woken
    await world.write(leader, 100)
    assert world.replicas[1].woken > woken
    world.assert_agreed()
    assert not leader.rest_if_idle(is_needed=False)


@story()
async def test_a_group_does_not_rest_while_somebody_lags(world: World) -> None:
    world.cut_off = {3}
    leader = world.group(1)
    await world.write(leader, 100)
    await world.beat(4)
    assert not leader.rest_if_idle(is_needed=False)
