"""When a primary makes a checkpoint."""

from fabric.lsn import Lsn
from sqlnode.compute.checkpoints import NOISE_BYTES, Pacer

START = Lsn(1 << 24)


def pacer() -> Pacer:
    return Pacer(bytes_max=1_000_000, age_ms_max=10_000, began_at=START, began_ms=0)


def test_idle_primary_makes_none() -> None:
    one = pacer()
    assert not any(one.is_due(START + NOISE_BYTES, ms) for ms in range(0, 10_000_000, 1_000))


def test_volume_makes_one_due() -> None:
    assert not pacer().is_due(START + 999_999, 5_000)
    assert pacer().is_due(START + 1_000_000, 5_000)


def test_age_counts_from_when_something_was_written() -> None:
    one = pacer()
    assert not one.is_due(START, 60_000)
    assert not one.is_due(START + 5_000, 61_000)
    assert not one.is_due(START + 6_000, 70_999)
    assert one.is_due(START + 6_000, 71_000)


def test_bulk_load_leaves_a_pause_between_two() -> None:
    one = pacer()
    one.begin(START, 50_000)
    assert not one.is_due(START + 5_000_000, 50_999)
    assert one.is_due(START + 5_000_000, 51_000)


def test_one_that_has_begun_is_not_due_again() -> None:
    one = pacer()
    assert one.is_due(START + 1_000_000, 5_000)
    one.begin(START + 1_000_000, 5_000)
    assert not one.is_due(START + 1_000_300, 60_000)
