"""What the supervisor does next: starts, pauses, the order of a stop, kills.

In scope: every decision of seawall/local/plan.py. Out of scope: carrying it out; see
tests/integration/test_local_cluster.py.
"""

import random

from seawall.local.plan import (
    RESTART_CAP_MS,
    START_FAILURES_MAX,
    STOP_MS,
    WELL_MS,
    Actions,
    Rank,
    Seen,
    given_up,
    has_ended,
    pause_ms,
    plan_running,
    plan_stopping,
)

NAMES = ("log-1", "storage-1", "compute-1", "compute-2")
RANKS = {
    "log-1": Rank.LOG,
    "storage-1": Rank.STORAGE,
    "compute-1": Rank.PRIMARY,
    "compute-2": Rank.REPLICA,
    "gateway-1": Rank.GATEWAY,
}


def alive(stop_asked_ms: float | None = None) -> Seen:
    return Seen(is_alive=True, is_ready=True, started_ms=0.0, stop_asked_ms=stop_asked_ms)


def test_all_that_is_wanted_starts_at_once() -> None:
    assert plan_running({}, wanted=NAMES, now_ms=5.0) == Actions(start=NAMES)


def test_whoever_runs_or_is_being_launched_is_left_alone() -> None:
    seen = {"log-1": alive(), "storage-1": Seen(is_launching=True)}
    assert plan_running(seen, wanted=("log-1", "storage-1"), now_ms=5.0) == Actions()


def test_whoever_ran_well_starts_again_at_once() -> None:
    node = alive()
    has_ended(node, WELL_MS)
    actions = plan_running({"log-1": node}, wanted=("log-1",), now_ms=WELL_MS)
    assert actions.start == ("log-1",)
    assert node.failures == 1


def test_whoever_keeps_ending_waits_longer_each_time() -> None:
    pauses = [pause_ms(failures) for failures in range(12)]
    assert pauses[:5] == [0, 0, 250, 500, 1000]
    assert pauses == sorted(pauses)
    assert pauses[-1] == RESTART_CAP_MS


def test_a_pause_is_waited_out() -> None:
    node = Seen()
    for _ in range(3):
        has_ended(node, 100.0)
    waiting = plan_running({"log-1": node}, wanted=("log-1",), now_ms=200.0)
    assert waiting == Actions(look_again_ms=400.0)
    assert plan_running({"log-1": node}, wanted=("log-1",), now_ms=600.0).start == ("log-1",)


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    node = alive(stop_asked_ms=1.0)
    has_ended(node, 2.0)
    assert node.failures == 0
    assert node.stop_asked_ms is None


def test_a_node_that_never_gets_ready_is_given_up_while_somebody_waits() -> None:
    node = Seen()
    for _ in range(START_FAILURES_MAX):
        assert given_up({"log-1": node}) is None
        node.is_alive, node.started_ms = True, 0.0
        has_ended(node, WELL_MS * 2)  # it ran for long, but never well
    assert given_up({"log-1": node}) == "log-1"


def test_whoever_is_not_wanted_any_more_is_stopped_and_the_others_are_not() -> None:
    seen = {"compute-1": alive(), "compute-2": alive()}
    actions = plan_running(seen, wanted=("compute-1",), now_ms=0.0)
    assert (actions.start, actions.stop) == ((), ("compute-2",))


def test_a_stop_goes_by_ranks() -> None:
    seen = {name: alive() for name in RANKS}
    order = []
    while (actions := plan_stopping(seen, ranks=RANKS, now_ms=0.0)).stop:
        order.append(actions.stop)
        # Until they have ended nobody else is asked.
        for name in actions.stop:
            seen[name].stop_asked_ms = 0.0
        assert plan_stopping(seen, ranks=RANKS, now_ms=1.0).stop == ()
        for name in actions.stop:
            has_ended(seen[name], 2.0)
    assert order == [
        ("gateway-1",), ("compute-2",), ("compute-1",), ("storage-1",), ("log-1",)
    ]  # fmt: skip


def test_whoever_does_not_stop_in_time_is_killed_once() -> None:
    seen = {"log-1": alive(stop_asked_ms=0.0)}
    early = plan_stopping(seen, ranks=RANKS, now_ms=STOP_MS - 1)
    assert (early.kill, early.look_again_ms) == ((), 1.0)
    assert plan_stopping(seen, ranks=RANKS, now_ms=STOP_MS).kill == ("log-1",)
    seen["log-1"].is_killed = True
    assert plan_stopping(seen, ranks=RANKS, now_ms=STOP_MS * 2).kill == ()


def test_any_history_ends_with_all_that_is_wanted_running() -> None:
    """Random ends and changes of mind: never two actions for one node, and in the end peace."""
    rng = random.Random(7)
    seen: dict[str, Seen] = {}
    now_ms = 0.0
    for turn in range(2_000):
        wanted = NAMES if turn > 1_900 or rng.random() < 0.9 else NAMES[:2]
        actions = plan_running(seen, wanted=wanted, now_ms=now_ms)
        assert not {*actions.start} & {*actions.stop}
        assert not {*actions.stop} & {*actions.kill}
        for name in actions.start:
            node = seen.setdefault(name, Seen())
            assert not node.is_alive, "nobody is started twice"
            node.is_alive, node.is_ready, node.started_ms = True, True, now_ms
        for name in actions.stop:
            seen[name].stop_asked_ms = now_ms
        if turn <= 1_900:
            for node in seen.values():
                if node.is_alive and (node.stop_asked_ms is not None or rng.random() < 0.1):
                    has_ended(node, now_ms)
        else:
            for node in seen.values():
                if node.is_alive and node.stop_asked_ms is not None:
                    has_ended(node, now_ms)
        now_ms += actions.look_again_ms or 50.0
    assert all(seen[name].is_alive for name in NAMES)
