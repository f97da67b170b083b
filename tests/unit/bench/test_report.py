"""Figures and bars: what is met, what is printed, what goes into JSON.

In scope: the pure parts of bench.pagefault. Out of scope: measuring.
"""

import json
import math

import pytest

from bench.pagefault.bars import BARS
from bench.pagefault.report import (
    Bar,
    Measurement,
    Outcome,
    Report,
    bar_line,
    figure,
    table,
    with_facts,
)

AT_LEAST = Bar(name="speed", target=10, at_least=True)
AT_MOST = Bar(name="delay", target=10, at_least=False)


def outcome(*measurements: Measurement) -> Outcome:
    return Outcome(benchmark="a", settings={"rounds": 3}, measurements=measurements)


@pytest.mark.parametrize(
    ("bar", "value", "is_met"),
    [
        (AT_LEAST, 10, True),
        (AT_LEAST, 9.99, False),
        (AT_MOST, 10, True),
        (AT_MOST, 10.01, False),
        (AT_LEAST, math.nan, False),
        (AT_MOST, math.nan, False),
    ],
)
def test_bar_is_met_up_to_its_target(bar: Bar, value: float, is_met: bool) -> None:
    assert bar.is_met(value) is is_met


def test_value_is_the_median_whatever_one_round_did() -> None:
    assert Measurement("speed", "1/s", (10, 11, 1000)).value == 11


def test_spread_leaves_out_a_quarter_on_each_side() -> None:
    assert Measurement("speed", "", (8, 1, 2, 3, 4, 5, 6, 7)).spread == (3, 6)
    assert Measurement("speed", "", (3, 1, 2)).spread == (1, 3)


def test_measurement_without_rounds_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="speed was never measured"):
        Measurement("speed", "", ())


def test_bar_line_has_name_value_target_and_verdict() -> None:
    assert bar_line(AT_LEAST, Measurement("speed", "", (12.5,))) == "BAR speed 12.50 >=10 ok"
    assert bar_line(AT_MOST, Measurement("delay", "", (12.5,))) == "BAR delay 12.50 <=10 MISSED"


def test_report_fails_when_one_bar_is_missed() -> None:
    kept = Measurement("select_only_ratio", "", (0.99,))
    missed = Measurement("single_fault_p50_us", "us", (151,))
    assert Report({}, BARS, [outcome(kept)]).is_passed
    assert not Report({}, BARS, [outcome(kept), outcome(missed)]).is_passed


def test_bars_come_in_their_own_order() -> None:
    late = outcome(Measurement("delay", "", (1,)))
    early = outcome(Measurement("speed", "", (1,)))
    report = Report({}, [AT_LEAST, AT_MOST], [late, early])
    assert [bar.name for bar, _ in report.judged()] == ["speed", "delay"]


def test_bar_that_was_not_measured_is_not_judged() -> None:
    report = Report({}, BARS, [outcome(Measurement("unheard_of", "", (1,)))])
    assert report.judged() == []
    assert report.is_passed


def test_bars_have_one_name_each() -> None:
    assert len({bar.name for bar in BARS}) == len(BARS) == 8


def test_json_holds_facts_bars_settings_and_every_round() -> None:
    report = Report(
        {"postgres": "15.18"}, BARS, [outcome(Measurement("tpcb_ratio", "", (1, 0.9, 0.8)))]
    )
    read = json.loads(json.dumps(report.as_json()))
    assert read["postgres"] == "15.18"
    assert read["bars"] == [
        {
            "name": "tpcb_ratio",
            "value": 0.9,
            "target": 0.98,
            "condition": ">=0.98",
            "ok": False,
        }
    ]
    assert read["benchmarks"]["a"]["settings"] == {"rounds": 3}
    assert read["benchmarks"]["a"]["measurements"]["tpcb_ratio"]["rounds"] == [1, 0.9, 0.8]


def test_facts_are_added_to_the_settings_of_an_outcome() -> None:
    assert with_facts(outcome(), took_s=3).settings == {"rounds": 3, "took_s": 3}


def test_table_has_a_line_for_each_measurement() -> None:
    lines = table(outcome(Measurement("speed", "1/s", (1, 2, 3)), Measurement("delay", "s", (4,))))
    assert len(lines) == 3
    assert "rounds 3" in lines[0]
    assert "speed" in lines[1]
    assert "2.000" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.98765, "0.988"), (12.345, "12.35"), (123.45, "123.5"), (35000.4, "35000"), (0, "0.000")],
)
def test_figure_has_four_significant_digits_and_no_exponent(value: float, text: str) -> None:
    assert figure(value) == text
