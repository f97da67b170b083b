"""Waits grow, stay below the cap, differ between clients, and are replayed by a seed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from fabric.backoff import full_jitter_ms


@given(st.integers(0), st.integers(0, 100_000), st.integers(1, 1000), st.integers(1, 10_000))
def test_a_wait_never_exceeds_its_bounds(seed: int, failures: int, base: int, cap: int) -> None:
    wait_ms = full_jitter_ms(random.Random(seed), failures=failures, base_ms=base, cap_ms=cap)
    assert 0 <= wait_ms <= min(cap, base * 2**failures if failures < 20 else cap)


def test_waits_are_spread_over_the_whole_interval() -> None:
    rng = random.Random(7)
    waits = [full_jitter_ms(rng, failures=3, base_ms=100, cap_ms=10_000) for _ in range(1000)]
    assert min(waits) < 50
    assert max(waits) > 750
    assert max(waits) <= 800
    again = random.Random(7)
    assert full_jitter_ms(again, failures=3, base_ms=100, cap_ms=10_000) == waits[0]
