"""A run of parts: a part that fails stops no other, and what was measured is always written.

In scope: bench.tool.session with parts of this test. Out of scope: real parts.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.pagefault.workspace import Workspace
from bench.results.files import read_results
from bench.results.record import Trial
from bench.targets.target import TargetError
from bench.tool.bars import Promise
from bench.tool.options import Options, Output
from bench.tool.progress import Lines
from bench.tool.record import Record
from bench.tool.session import interruptible, run_parts
from bench.tool.work import Work


@dataclass(slots=True)
class PartOf:
    """A part that does what it is given."""

    name: str
    do: Callable[[Work], None]
    summary: str = ""
    quick_minutes: float = 1.0
    promises: Sequence[Promise] = ()

    def measure(self, work: Work) -> None:
        """As Part has it."""
        work.record.trials.append(
            Trial(part=self.name, target="t", workload="w", round=0, order=0, figures={"tps": 1.0})
        )
        self.do(work)


def nothing(_work: Work) -> None:
    """Everything went well."""


def breaks(_work: Work) -> None:
    raise ExceptionGroup("tasks", [ValueError("the disk\nis full")])


def is_killed(_work: Work) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def run(parts: Sequence[PartOf], out: Path, *, is_all: bool = False, is_quick: bool = True) -> int:
    place = Workspace.__new__(Workspace)  # nothing of this test needs a server
    with interruptible():
        return run_parts(
            parts,
            is_all=is_all,
            options=Options(is_quick=is_quick),
            output=Output(directory=out, makes_report=False),
            place=place,
            record=Record(command=[], commit="c", seed=1, is_quick=is_quick, machine={"cores": 2}),
            progress=Lines(sys.stderr),
        )


def test_all_that_was_measured_is_written(tmp_path: Path) -> None:
    assert run([PartOf("tps", nothing), PartOf("lag", nothing)], tmp_path) == 0
    assert [trial.part for trial in read_results(tmp_path).trials] == ["tps", "lag"]


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    assert run([PartOf("tps", breaks), PartOf("lag", nothing)], tmp_path) == 2
    result = read_results(tmp_path)
    assert [trial.part for trial in result.trials] == ["tps", "lag"]
    assert result.failures == ["tps ended early: the disk is full"]


def test_a_terminated_run_writes_what_it_has_and_ends_with_2(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    status = run([PartOf("tps", is_killed), PartOf("lag", nothing)], tmp_path)
    assert status == 2
    result = read_results(tmp_path)
    assert [trial.part for trial in result.trials] == ["tps"]
    assert "interrupted" in result.failures[0]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("is_all", "is_quick"), [(True, True), (True, False), (False, True)])
def test_minutes_are_judged_of_a_quick_run_of_all(
    tmp_path: Path, is_all: bool, is_quick: bool
) -> None:
    run([PartOf("tps", nothing)], tmp_path, is_all=is_all, is_quick=is_quick)
    judged = [one.name for one in read_results(tmp_path).judgements]
    assert judged == (["all_quick_minutes"] if is_all and is_quick else [])


def test_rounds_are_left_out_when_the_time_of_a_quick_run_is_over(tmp_path: Path) -> None:
    seen: list[bool] = []

    def measure(work: Work) -> None:
        seen.extend(work.leaves_out("tps", number) for number in range(3))
        work.budget_seconds = 0.0
        seen.extend(work.leaves_out("tps", number) for number in (0, 1, 2, 2))

    assert run([PartOf("tps", measure)], tmp_path) == 0
    assert seen == [False, False, False, False, False, True, True]
    assert read_results(tmp_path).failures == [
        "tps: round 3 is not complete: the time of a quick run is over"
    ]


def test_a_refusal_is_a_sentence_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(_work: Work) -> None:
        raise TargetError("there is no target x")

    assert run([PartOf("tps", refuses)], tmp_path) == 2
    assert read_results(tmp_path).failures == ["tps could not be measured: there is no target x"]
    assert "Traceback" not in capsys.readouterr().err
