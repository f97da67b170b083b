"""What a redo engine does next: which checkpoint is cut at, how long a failure makes it wait.

In scope: the decisions. Out of scope: engines and WAL, see integration/test_storage_faults.py.
"""

from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli
from storage.redo_plan import (
    LOOK_AHEAD_BYTES_MIN,
    PAUSE_FIRST_S,
    PAUSE_MAX_S,
    STEP_BYTES_MAX,
    Pause,
    choose_target,
    look_ahead_upto,
    replay_ahead,
)
from storage.wal_records import PAGE_BYTES
from storage.wal_scan import CheckpointFound

STEP = 1000


def found(*ends: int) -> list[CheckpointFound]:
    return [
        CheckpointFound(
            start=Lsn(end - 10), end=Lsn(end), redo=Lsn(end - 10), tli=Tli(1), is_shutdown=False
        )
        for end in ends
    ]


def chosen(ends: list[int], newest: int) -> int | None:
    target = choose_target(found(*ends), newest=Lsn(newest), step_bytes_max=STEP)
    return None if target is None else int(target.end)


def test_nothing_is_chosen_without_a_checkpoint_ahead() -> None:
    assert chosen([], 0) is None
    assert chosen([100, 200], 200) is None


def test_who_keeps_up_takes_the_one_checkpoint_there_is() -> None:
    assert chosen([100, 200, 300], 200) == 300


def test_who_is_behind_takes_the_farthest_within_a_step() -> None:
    assert chosen([300, 600, 900, 1200], 200) == 1200
    assert chosen([300, 600, 900, 1201], 200) == 900


def test_a_step_is_longer_where_checkpoints_are_farther_apart() -> None:
    assert chosen([5000, 9000], 200) == 5000


def test_no_checkpoint_is_chosen_that_the_engine_has_passed() -> None:
    def choice(replayed: int) -> int | None:
        target = choose_target(found(100, 200, 300), newest=Lsn(50), replayed=Lsn(replayed))
        return None if target is None else int(target.end)

    assert choice(301) is None
    assert choice(300) == 300, "it stands there, and there was no room for the cut"
    assert choice(0) == 300


def test_who_is_little_behind_does_not_look_ahead() -> None:
    def upto(*, received: int, committed: int) -> Lsn | None:
        (target,) = found(1000)
        return look_ahead_upto(
            target, newest=Lsn(900), received=Lsn(received), committed=Lsn(committed)
        )

    enough = 5000 + LOOK_AHEAD_BYTES_MIN
    assert upto(received=5000, committed=enough - 1) is None
    assert upto(received=5000, committed=enough) == enough
    assert upto(received=5000, committed=enough + STEP_BYTES_MAX) == 900 + STEP_BYTES_MAX


@given(
    at=st.integers(0, 10_000_000),
    pulled=st.integers(0, 10_000_000),
    more=st.integers(0, 10_000_000),
    window_bytes=st.integers(8 * PAGE_BYTES, 4_000_000),
)
def test_replay_ahead_keeps_off_the_end_and_never_lets_a_window_stay_full(
    at: int, pulled: int, more: int, window_bytes: int
) -> None:
    received = at + pulled
    upto = replay_ahead(
        at=Lsn(at),
        received=Lsn(received),
        committed=Lsn(received + more),
        window_bytes=window_bytes,
    )
    if upto is not None:
        assert at + window_bytes // 2 <= upto <= received
        assert upto <= received + more - window_bytes // 8
        assert upto % PAGE_BYTES == 0, "an engine was sent the beginning of a record"
    else:
        # Pulling stops when a quarter of a call, hence of a window, is all the room there is.
        assert pulled < window_bytes * 3 // 4


@given(
    ends=st.lists(st.integers(20, 20_000), unique=True).map(sorted),
    newest=st.integers(0, 20_000),
)
def test_steps_end_at_the_last_checkpoint_and_pass_over_none_that_is_far(
    ends: list[int], newest: int
) -> None:
    at = newest
    while (target := chosen(ends, at)) is not None:
        assert target > at
        passed_over = [end for end in ends if at < end < target]
        assert not passed_over or target - at <= STEP
        at = target
    assert at == max([newest, *(end for end in ends if end > newest)])


def test_pause_doubles_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    pause = Pause()
    waits = [pause.failed() for _ in range(40)]
    assert waits[:3] == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, 4 * PAUSE_FIRST_S]
    assert waits == sorted(waits)
    assert waits[-1] == PAUSE_MAX_S
    pause.succeeded()
    assert pause.failed() == PAUSE_FIRST_S
