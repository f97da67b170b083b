"""The SVG writer: scales, ticks, escaping. Out of scope: whether plots are pretty."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.report import svg
from bench.report.svg import Scale, log_scale, number, scale_from_zero, tick_label


@given(st.text(max_size=30))
def test_any_text_is_well_formed(text: str) -> None:
    drawn = svg.picture(10, text, [svg.text(1, 2, text), svg.dot(3, 4, 1, text)])
    root = ET.fromstring(drawn)  # noqa: S314  # our own
    shown = [element.text or "" for element in root.iter() if element.tag.endswith("}text")]
    assert len(shown) == 1
    assert [c for c in shown[0] if c != " "] == [c for c in text if c.isprintable() and c != " "]


@given(
    st.floats(1e-6, 1e9),
    st.floats(1.05, 1e6),
    st.booleans(),
)
def test_ticks_are_inside_and_not_too_many(low: float, factor: float, is_log: bool) -> None:
    scale = Scale(low, low * factor, 0, 100, is_log=is_log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert all(low * (1 - 1e-9) <= tick <= low * factor * (1 + 1e-9) for tick in ticks)


@given(st.floats(0.001, 1000), st.floats(0.001, 1000), st.booleans())
def test_scale_keeps_the_order(one: float, other: float, is_log: bool) -> None:
    scale = Scale(0.01, 100, 10, 90, is_log=is_log)
    assert (one <= other) <= (scale(one) <= scale(other))
    assert 10 <= scale(one) <= 90


def test_scales_of_nothing_can_be_drawn() -> None:
    assert log_scale([], 0, 1).low < log_scale([0.0], 0, 1).high
    assert scale_from_zero(0, 0, 1).high == 1


def test_scale_of_one_value_has_it_inside() -> None:
    assert 0 < log_scale([5.0], 0, 100)(5.0) < 100


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.05, "0.05"), (250, "250"), (9999, "9999"), (12_000, "12k"), (3_000_000, "3M"),
     (0, "0"), (1_500_000, "1.5M")],
)  # fmt: skip
def test_tick_labels_are_short(value: float, text: str) -> None:
    assert tick_label(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (-0.04, "0"), (-0.5, "-0.5"), (12.34, "12.3"), (1000.0, "1000")]
)
def test_coordinates_are_short(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e4, 1e4))
def test_coordinates_are_near(value: float) -> None:
    assume(abs(value) < 1e4)
    assert abs(float(number(value)) - value) <= 0.0501


def test_long_legends_go_on_in_another_line() -> None:
    body, bottom = svg.legend([(at, "a name of some length") for at in range(9)], 10, 16)
    assert len(body) == 18
    assert bottom > 16


def test_file_of_its_own_brings_its_style() -> None:
    alone = svg.standalone(svg.picture(10, "a", []))
    assert svg.style() in alone
    assert "prefers-color-scheme:dark" in alone
    ET.fromstring(alone)  # noqa: S314  # our own
