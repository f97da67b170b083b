"""What names of figures say. In scope: every kind of figure that a benchmark of ours writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results import figures


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("tps", 1),
        ("tpmc", 1),
        ("connects_per_min", 1),
        ("prefetched_pages_per_s", 1),
        ("range_mb_per_s", 1),
        ("cold_seq_scan_mb_s", 1),
        ("materialise_wal_mb_per_core_s", 1),
        ("p99_ms", -1),
        ("single_fault_p50_us", -1),
        ("gap_seconds", -1),
        ("up_first_s", -1),
        ("python_memory_mb", -1),
        ("idle_core_percent", -1),
        ("errors", -1),
        ("acknowledged_rows_lost", -1),
        ("failover_failed_statements", -1),
        ("cpu_us_per_transaction", -1),
        ("seconds", 0),
        ("cpu_seconds", 0),
        ("driver_cpu_seconds", 0),
        ("transactions", 0),
        ("select_only_ratio", 0),
        ("replica_share", 0),
        ("", 0),
    ],
)
def test_direction_is_in_the_name(name: str, better: int) -> None:
    assert figures.direction(name) == better


def test_what_should_not_happen_is_a_count() -> None:
    assert figures.is_count("stale_reads_lost")
    assert figures.is_count("errors")
    assert not figures.is_count("tps")
    assert not figures.is_count("terrors_ms")


def test_leading_figures_come_first() -> None:
    names = ["errors", "p99_ms", "a", "tps", "gap_seconds"]
    assert sorted(names, key=figures.order) == ["tps", "gap_seconds", "p99_ms", "a", "errors"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345.6, "12346"), (12.345, "12.35"), (0.5, "0.500"), (0.00123, "0.0012"),
     (-0.00123, "-0.0012"), (0.0099, "0.0099")],
)  # fmt: skip
def test_printed_figures_keep_their_digits(value: float, text: str) -> None:
    assert figures.printed(value) == text


@given(st.floats(1e-12, 1e12))
def test_printed_figures_are_near_and_have_no_exponent(value: float) -> None:
    text = figures.printed(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.06)


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.2345, "1.234"), (12.345, "12.3"), (1e9, "the other had none"),
     (1e-9, "the other alone had any")],
)  # fmt: skip
def test_printed_ratios(ratio: float, text: str) -> None:
    assert figures.printed_ratio(ratio) == text
