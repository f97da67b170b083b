"""The suites as parts: their outcomes become trials, with the same bars.

In scope: bench.parts.suites with a suite of this test. Out of scope: what suites measure.
"""

import argparse
import sys
from pathlib import Path

import pytest

from bench.loads.tally import LoadError
from bench.pagefault.report import Bar, Measurement, Outcome
from bench.pagefault.workspace import Workspace
from bench.parts.catalog import PARTS
from bench.parts.suites import Chosen, arguments_of, run_suites, trials_of
from bench.runner import Suite
from bench.targets.target import TargetError
from bench.tool.bars import status_of
from bench.tool.options import Options
from bench.tool.progress import Lines
from bench.tool.record import Record
from bench.tool.work import Work

OUTCOME = Outcome(
    benchmark="reads",
    settings={"rounds": 3},
    measurements=[
        Measurement("read_ms", "ms", (3.0, 1.0, 2.0)),
        Measurement("worst_ms", "ms", (9.0,)),
    ],
)


class TroubleError(Exception):
    """Why a benchmark of this test cannot be measured."""


def measure(name: str, place: Workspace, arguments: argparse.Namespace) -> Outcome:
    if name == "trouble":
        raise TroubleError("the disk is full")
    assert place.directory.is_dir()
    assert "quick" in arguments
    return OUTCOME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--large-mb", type=int)
    parser.add_argument("--control", action="store_true")


SUITE = Suite(
    name="test",
    summary="",
    bars=(
        Bar(name="read_ms", target=2.0, at_least=False),
        Bar(name="worst_ms", target=5.0, at_least=False),
        Bar(name="not_measured", target=5.0, at_least=False),
    ),
    names=("reads", "trouble"),
    measure=measure,
    refusals=(TroubleError,),
    add_arguments=add_arguments,
)


def work_of(options: Options, tmp_path: Path) -> Work:
    place = Workspace.__new__(Workspace)  # nothing of this test needs a server
    place.directory = tmp_path
    record = Record(command=[], commit="", seed=1, is_quick=options.is_quick, machine={})
    return Work(options=options, place=place, record=record, progress=Lines(sys.stderr))


def test_each_round_of_an_outcome_is_a_trial_with_the_figures_it_has() -> None:
    trials = trials_of("storage", OUTCOME, others_cores=0.5)
    assert [trial.figures for trial in trials] == [
        {"read_ms": 3.0, "worst_ms": 9.0},
        {"read_ms": 1.0},
        {"read_ms": 2.0},
    ]
    assert {(trial.part, trial.workload, trial.others_cores) for trial in trials} == {
        ("storage", "reads", 0.5)
    }
    assert [trial.round for trial in trials] == [0, 1, 2]


def test_bars_are_held_against_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_of(Options(), tmp_path)
    run_suites(work, "storage", [Chosen(suite=SUITE, names=("reads",), quick_names=())])
    judged = [(one.name, one.value, one.is_met) for one in work.record.judgements]
    assert judged == [("read_ms", 2.0, True), ("worst_ms", 9.0, False)]
    printed = capsys.readouterr().out
    assert "BAR read_ms 2.000 <=2 ok\n" in printed
    assert "BAR worst_ms 9.000 <=5 MISSED\n" in printed
    assert status_of(work.record.judgements, (), is_quick=False, unmeasured=0) == 1


def test_a_benchmark_that_cannot_be_measured_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_of(Options(), tmp_path)
    run_suites(work, "storage", [Chosen(suite=SUITE, names=("trouble", "reads"), quick_names=())])
    assert work.record.failures == ["storage: trouble could not be measured: the disk is full"]
    assert work.record.unmeasured == 1
    assert len(work.record.trials) == 3
    assert "the disk is full" in capsys.readouterr().err


def test_a_quick_run_says_that_too_little_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_of(Options(is_quick=True), tmp_path)
    run_suites(work, "storage", [Chosen(suite=SUITE, names=(), quick_names=("reads",))])
    assert "MISSED (quick: too little was measured to judge by)" in capsys.readouterr().out
    assert status_of(work.record.judgements, (), is_quick=True, unmeasured=0) == 0


def test_arguments_are_those_of_the_suites_own_command_line() -> None:
    arguments = arguments_of(SUITE, Options(is_quick=True, large_mb=7))
    assert vars(arguments) == {"large_mb": 7, "control": False, "quick": True}


def test_benchmarks_can_be_chosen_by_name() -> None:
    chosen = Chosen(suite=SUITE, names=("reads", "trouble"), quick_names=("reads",))
    assert chosen.of(Options()) == ["reads", "trouble"]
    assert chosen.of(Options(is_quick=True)) == ["reads"]
    assert chosen.of(Options(is_quick=True, workloads=("trouble",))) == ["trouble"]


def test_parts_are_those_of_the_command_line_and_fit_into_a_quick_run() -> None:
    assert [part.name for part in PARTS] == [
        "tps", "failover", "coldstart", "replicas", "lag", "storage", "gateway",
    ]  # fmt: skip
    assert sum(part.quick_minutes for part in PARTS) <= 15


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("tps", "no workload x"), ("failover", "x is no blow"), ("lag", "x is no rate")],
)
def test_a_wrong_word_is_refused_before_anything_is_started(
    tmp_path: Path, name: str, sentence: str
) -> None:
    part = next(part for part in PARTS if part.name == name)
    work = work_of(Options(workloads=("x",)), tmp_path)
    with pytest.raises((LoadError, TargetError), match=sentence):
        part.measure(work)
    assert not list(tmp_path.iterdir())
