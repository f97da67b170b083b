"""What is planned for the archive is what is committed: all of it, in order, of the right timeline.

Every plan is compared with a list that was made in another way (archive_world.py). Out of scope:
how it is stored and found again (test_archive.py).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.log_service.archive_world import ROOT, SEGMENT, START, Branch

from fabric.ids import BranchName, ClusterName
from fabric.lsn import Lsn, Tli
from log_service.archive_plan import (
    ITEMS_MAX,
    ArchiveItem,
    ArchiveLayout,
    ArchiveState,
    HistoryItem,
    SegmentItem,
    WalRange,
    first_state,
    plan_archive,
)

# Commits by the byte and by the segment, so that forks fall on, before and behind boundaries.
sizes = st.one_of(
    st.integers(0, 3 * SEGMENT),
    st.sampled_from([0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT]),
)


def grown(first_tli: int, commits: list[int]) -> Branch:
    """A branch with a promotion between one commit and the next."""
    branch = Branch(Tli(first_tli))
    for index, size_bytes in enumerate(commits):
        if index:
            branch.promote()
        branch.commit(size_bytes)
    return branch


branches = st.builds(
    grown,
    st.integers(1, 3),
    st.lists(sizes, min_size=1, max_size=6),
)


def plan(branch: Branch, state: ArchiveState) -> tuple[ArchiveItem, ...]:
    return plan_archive(
        branch.layout,
        state,
        history=branch.history,
        history_files=branch.files,
        committed=branch.committed,
    )


def start_of(branch: Branch) -> ArchiveState:
    return first_state(branch.layout, branch.history, START)


@given(branches)
def test_all_that_is_committed_and_nothing_else_is_planned(branch: Branch) -> None:
    items = plan(branch, start_of(branch))
    assert {item.name for item in items} == set(branch.expected())
    assert len({item.name for item in items}) == len(items)
    assert {item.name: item.content for item in items if isinstance(item, HistoryItem)} == {
        f"{ROOT}{tli:08X}/{tli:08X}.history": content for tli, content in branch.files.items()
    }


@given(branches)
def test_each_byte_comes_from_the_timeline_that_wrote_it(branch: Branch) -> None:
    expected = branch.expected()
    for item in plan(branch, start_of(branch)):
        if isinstance(item, SegmentItem):
            content = b"".join(branch.bytes_of(r.tli, r.start, r.end) for r in item.ranges)
            assert content == expected[item.name]
            assert item.size_bytes == len(content)
            for wal in item.ranges:
                assert branch.owner(wal.tli, wal.start) == wal.tli
                assert branch.owner(wal.tli, wal.end - 1) == wal.tli
            for wal, following in zip(item.ranges, item.ranges[1:], strict=False):
                assert wal.end == following.start


@given(branches)
def test_timelines_ascend_with_the_history_first_and_then_the_segments(branch: Branch) -> None:
    places = [item.name.removeprefix(ROOT) for item in plan(branch, start_of(branch))]
    # Sorted as objects are: a history's name is less than that of any segment beside it.
    assert places == sorted(places)


@given(branches, st.data())
def test_the_state_after_an_item_leads_to_the_items_behind_it(
    branch: Branch, data: st.DataObject
) -> None:
    items = plan(branch, start_of(branch))
    for index, item in enumerate(items):
        assert plan(branch, item.then) == items[index + 1 :]
        assert item.then.upto == item.then.upto.segment_start(SEGMENT)
    if items:
        state = data.draw(st.sampled_from(items)).then
        branch.commit(data.draw(sizes))
        if data.draw(st.booleans()):
            branch.promote()
        assert plan(branch, state) == tuple(
            item for item in plan(branch, start_of(branch)) if item.name not in before(items, state)
        )


def before(items: tuple[ArchiveItem, ...], state: ArchiveState) -> set[str]:
    count = [item.then for item in items].index(state) + 1
    return {item.name for item in items[:count]}


@given(branches)
def test_nothing_that_remains_to_be_archived_is_before_what_may_be_trimmed(branch: Branch) -> None:
    items = plan(branch, start_of(branch))
    for item in items:
        remaining = [i for i in plan(branch, item.then) if isinstance(i, SegmentItem)]
        for segment in remaining:
            assert segment.ranges[0].start >= item.then.upto


def test_a_fork_within_a_segment_is_archived_on_both_timelines() -> None:
    branch = grown(1, [SEGMENT + 100, SEGMENT])
    items = plan(branch, start_of(branch))
    assert [item.name.removeprefix(ROOT) for item in items] == [
        "00000001/000000010000000000000003",
        "00000001/000000010000000000000004.partial",
        "00000002/00000002.history",
        "00000002/000000020000000000000004",
    ]
    fork, boundary = START + SEGMENT + 100, START + SEGMENT
    assert isinstance(items[3], SegmentItem)
    assert items[3].ranges == (
        WalRange(Tli(1), boundary, fork),
        WalRange(Tli(2), fork, boundary + SEGMENT),
    )
    assert items[3].then == ArchiveState(tli=Tli(2), upto=boundary + SEGMENT, has_history=True)


def test_a_plan_is_bounded_and_the_next_one_continues_it() -> None:
    layout, state = Branch().layout, ArchiveState(tli=Tli(1), upto=START)
    names: list[str] = []
    while True:
        items = plan_archive(
            layout,
            state,
            history=Branch().history,
            history_files={},
            committed=START + 200 * SEGMENT + 7,
        )
        if not items:
            break
        assert len(items) <= ITEMS_MAX
        names += [item.name for item in items]
        state = items[-1].then
    assert names == [layout.segment(Tli(1), START + number * SEGMENT) for number in range(200)]


def test_a_history_is_not_planned_again_and_again() -> None:
    branch = grown(1, [10, 10])
    state = plan(branch, start_of(branch))[-1].then
    assert (state.tli, state.has_history) == (2, True)
    assert plan(branch, state) == ()


def test_a_state_of_another_history_is_refused() -> None:
    branch = grown(1, [10, 10])
    with pytest.raises(ValueError, match="timeline 7 is no ancestor of timeline 2"):
        plan(branch, ArchiveState(tli=Tli(7), upto=START))
    branch.committed = START
    with pytest.raises(ValueError, match="before timeline 2 began"):
        plan(branch, start_of(branch))


def test_names_are_those_of_postgresql() -> None:
    layout = ArchiveLayout(
        cluster=ClusterName("blue"),
        branch=BranchName("main"),
        segment_bytes=16 << 20,
        first_tli=Tli(1),
    )
    lsn = Lsn.parse("1/123ABCD")
    assert layout.segment(Tli(31), lsn) == "blue/main/wal/0000001F/0000001F0000000100000001"
    assert layout.partial(Tli(31), lsn) == layout.segment(Tli(31), lsn) + ".partial"
    assert layout.history(Tli(31)) == "blue/main/wal/0000001F/0000001F.history"
    with pytest.raises(ValueError, match="power of two"):
        ArchiveLayout(
            cluster=layout.cluster, branch=layout.branch, segment_bytes=5, first_tli=Tli(1)
        )
