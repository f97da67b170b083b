"""Each plot draws what is in the trials: positions and counts of its elements.

Out of scope: how a browser shows them (tests/integration/bench/test_report_in_browser.py).
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import msgspec
import pytest
from unit.bench.result_sets import result_set, trial

from bench.report import plots
from bench.report.svg import WIDTH, Scale
from bench.results.comparison import targets_of, within
from bench.results.record import Mark, Point, Trial

RESULT = result_set()
NAMES = targets_of(RESULT.trials)
TPS = [one for one in RESULT.trials if (one.part, one.workload) == ("tps", "tpcb")]
FAILOVER = [one for one in RESULT.trials if one.part == "failover"]
KILLED = [one for one in FAILOVER if one.workload == "postgres_killed"]
RATIOS = [one for one in within(RESULT) if one.figure == "tps"]


def elements(drawn: str, kind: str, css: str = "") -> list[ET.Element]:
    found = ET.fromstring(drawn).iter(f"{{http://www.w3.org/2000/svg}}{kind}")  # noqa: S314  # ours
    return [element for element in found if css in element.get("class", "").split() or not css]


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in elements(drawn, "text")]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.over_time(KILLED, NAMES, "a"),
        lambda: plots.latencies(TPS, NAMES, "a"),
        lambda: plots.scaling(TPS, NAMES, "tps", "a"),
        lambda: plots.ratios(RATIOS, NAMES, "a"),
        lambda: plots.strips(FAILOVER, NAMES, "gap_seconds", "a"),
    ],
)
def test_plots_are_inside_their_frame_and_always_the_same(draw: Callable[[], str]) -> None:
    drawn = draw()
    assert drawn == draw()
    frame = ET.fromstring(drawn)  # noqa: S314  # our own
    height = float(frame.get("height", "0"))
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall(r'd="M([^"]*)', drawn))):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= height
    for element in elements(drawn, "text"):
        assert 0 <= float(element.get("y", "-1")) <= height


def test_over_time_has_a_line_a_target_and_a_mark_a_blow() -> None:
    drawn = plots.over_time(KILLED, NAMES, "a")
    assert len(elements(drawn, "path", "line")) == 3
    assert len(elements(drawn, "line", "mark")) == 3
    assert texts(drawn).count("postgres_killed") == 3
    assert "stock" not in texts(drawn)  # it was not there


def test_mark_stands_where_it_happened() -> None:
    one = msgspec.structs.replace(
        trial("stock", 0, tps=1.0), series=[Point(1, 0, 1.0)] * 10, marks=[Mark(2.5, "kill")]
    )
    (mark,) = elements(plots.over_time([one], ["stock"], "a"), "line", "mark")
    expected = Scale(0, 10, plots.LEFT, plots.RIGHT)(2.5)
    assert float(mark.get("x1", "0")) == pytest.approx(expected, abs=0.1)


def test_round_in_the_middle_stands_for_a_target() -> None:
    def of(at: int, transactions: int) -> Trial:
        return msgspec.structs.replace(
            trial("stock", at, tps=1.0), series=[Point(transactions, 0, 1.0)]
        )

    found = plots.representative([of(0, 50), of(1, 1), of(2, 7)], "stock")
    assert found is not None
    assert found.round == 2
    assert plots.representative([trial("stock", 0, tps=1.0)], "stock") is None


def test_latencies_have_a_panel_a_target_with_four_percentiles_in_order() -> None:
    drawn = plots.latencies(TPS, NAMES, "a")
    assert len(elements(drawn, "path", "area")) == 3
    places = [float(element.get("x1", "0")) for element in elements(drawn, "line", "mark")]
    assert len(places) == 12
    for at in range(0, 12, 4):
        assert places[at : at + 4] == sorted(places[at : at + 4])
    (told,) = [text for text in texts(drawn) if text.startswith("stock: ")]
    assert re.fullmatch(r"stock: p50 \S+, p95 \S+, p99 \S+, p99\.9 \S+", told)


def test_scaling_has_a_point_for_each_number_of_clients() -> None:
    drawn = plots.scaling(TPS, NAMES, "tps", "a")
    assert len(elements(drawn, "line", "spread")) == 9
    assert {"1", "8", "32"} <= set(texts(drawn))


def test_bars_of_ratios_end_at_one() -> None:
    drawn = plots.ratios(RATIOS, NAMES, "a")
    (axis,) = [line for line in elements(drawn, "line", "axis") if line.get("x1") == line.get("x2")]
    one = float(axis.get("x1", "0"))
    bars = elements(drawn, "rect", "bar")
    assert len(bars) == len(RATIOS)
    for bar, comparison in zip(bars, RATIOS, strict=True):
        left = float(bar.get("x", "0"))
        right = left + float(bar.get("width", "0"))
        near = right if comparison.difference.ratio < 1 else left
        assert near == pytest.approx(one, abs=1.1)


def test_ratios_to_nothing_leave_room_for_the_others() -> None:
    errors = [one for one in within(RESULT) if one.figure == "errors"]
    (bar, *_) = elements(plots.ratios([*RATIOS[:1], *errors], NAMES, "a"), "rect", "bar")
    assert float(bar.get("width", "0")) > 5


def test_strips_have_a_point_a_round_even_of_nothing() -> None:
    drawn = plots.strips(FAILOVER, NAMES, "gap_seconds", "a")
    points = len(elements(drawn, "circle")) + len(elements(drawn, "path"))
    assert points == len(FAILOVER)
    none = [trial("stock", at, gap_seconds=0.0) for at in range(3)]
    assert len(elements(plots.strips(none, ["stock"], "gap_seconds", "a"), "circle")) == 3


def test_trials_of_one_second_and_of_nothing_are_drawn() -> None:
    one = msgspec.structs.replace(
        trial("stock", 0, tps=0.0), series=[Point(0, 9, 1.0)], histogram=[(1, 1)]
    )
    for drawn in (
        plots.over_time([one], ["stock"], "a"),
        plots.latencies([one], ["stock"], "a"),
        plots.scaling([one], ["stock"], "tps", "a"),
    ):
        assert elements(drawn, "line", "axis")
