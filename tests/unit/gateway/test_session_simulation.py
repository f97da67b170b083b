"""Sessions through every loss, by a seed: answers in order, rows once, nobody's but one's own.

In scope: sessions, links, pools, prepared statements, replaying of settings, and what is true of
statements whose server died. Not in scope: sockets, logins, real servers (tests/integration).
"""

import pytest
from unit.gateway.session_world import run

SEEDS = range(40)


@pytest.mark.parametrize("has_replica", [False, True], ids=["primary", "replica"])
@pytest.mark.parametrize("is_pooled", [False, True], ids=["session", "transaction"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_answer_is_ones_own_and_true(seed: int, is_pooled: bool, has_replica: bool) -> None:
    outcome = run(seed, is_pooled=is_pooled, has_replica=has_replica)
    assert outcome.answered > 30


def test_the_simulation_meets_what_it_is_for() -> None:
    outcomes = [run(seed, is_pooled=False, has_replica=False) for seed in range(20)]
    assert sum(one.lost for one in outcomes) > 0
    assert sum(one.unknown for one in outcomes) > 0
