"""The simulation holds on a modest number of seeds, repeats itself exactly, and can fail.

In scope: seeds from 0 on, replay, and one negative control for each rule that matters. Out of
scope: thousands of seeds, which `python -m simulation` runs from the command line.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation import coverage
from simulation.__main__ import main
from simulation.mutants import MUTANTS, Mutant, broken
from simulation.world import Result, run

SEEDS = 100
# The rarest of the mutants needs about one hundred seeds; most need fewer than ten.
SEEDS_PER_MUTANT = 600
COMMITTED_MIN, FAULTS_MIN = 50, 10  # on average: a seed that does little proves little


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [run(seed) for seed in range(SEEDS)]


def test_every_invariant_holds_on_every_seed(results: list[Result]) -> None:
    assert [str(result.violation) for result in results if result.violation is not None] == []


def test_seeds_meet_every_fault_and_every_transition(results: list[Result]) -> None:
    counts: Counter[str] = Counter()
    for result in results:
        counts += result.counts
    assert coverage.missing(counts) == []
    assert counts["faults"] >= FAULTS_MIN * SEEDS
    assert sum(result.committed for result in results) >= COMMITTED_MIN * SEEDS


def test_a_run_that_meets_nothing_does_not_pass() -> None:
    assert coverage.missing(Counter()) == list(coverage.REQUIRED)


def test_a_seed_replays_exactly_in_another_process() -> None:
    assert _trace_of_seed(7, hash_seed=1) == _trace_of_seed(7, hash_seed=2)


def test_another_seed_is_another_run() -> None:
    assert run(7, is_traced=True).lines != run(8, is_traced=True).lines


def test_keeping_the_trace_changes_nothing() -> None:
    kept, plain = run(11, is_traced=True), run(11)
    assert plain.lines == []
    assert (kept.events, kept.counts) == (plain.events, plain.counts)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_simulation_catches(mutant: Mutant) -> None:
    with broken(mutant):
        results = (run(seed) for seed in range(SEEDS_PER_MUTANT))
        violation = next((r.violation for r in results if r.violation is not None), None)
    assert violation is not None
    assert violation.invariant in mutant.violates


def test_command_line_shows_the_seed_and_the_invariant_that_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["simulation", "--seeds", "0:50"])
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "no fence")
    with broken(mutant):
        assert main() == 1
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("seed ")
    assert "VIOLATED fencing" in last_line


def _trace_of_seed(seed: int, *, hash_seed: int) -> str:
    replay = subprocess.run(
        [sys.executable, "-m", "simulation", "--seed", str(seed), "--trace"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert replay.stdout.endswith("entries committed\n")
    return replay.stdout
