"""Looking at results again: comparisons, reports, the documentation.

In scope: bench.tool.looking and bench.tool.writing. Out of scope: what is in
reports and comparisons.
"""

from pathlib import Path

import pytest
from unit.bench.result_sets import result_set

from bench.report.markdown import is_current
from bench.results.files import ResultError, read_results
from bench.tool.looking import compare, documents, report
from bench.tool.writing import write


@pytest.fixture
def first(tmp_path: Path) -> Path:
    write(result_set(seed=1), tmp_path / "first", makes_report=False)
    return tmp_path / "first"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    write(result_set(seed=2), tmp_path / "second", makes_report=True)
    return tmp_path / "second"


def test_two_results_are_compared_by_the_names_of_their_directories(
    first: Path, second: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(first, second / "results.json", is_noise_allowed=True) == 0
    printed = capsys.readouterr().out
    assert "tps tpcb, 8 clients" in printed
    assert "first " in printed
    assert "second " in printed


def test_results_with_nothing_in_common_are_not_compared(first: Path, tmp_path: Path) -> None:
    write(result_set(trials=[]), tmp_path / "empty", makes_report=False)
    with pytest.raises(ResultError, match="nothing in common"):
        compare(first, tmp_path / "empty", is_noise_allowed=True)


def test_a_report_is_written_when_it_is_wanted_and_again(first: Path, second: Path) -> None:
    assert not (first / "report.html").exists()
    assert (second / "report.html").exists()
    assert report(first) == 0
    assert "</html>" in (first / "report.html").read_text()


def test_documentation_is_that_of_the_result_that_is_kept_beside_it(
    first: Path, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    assert documents([first], docs) == 0
    kept = read_results(docs / "benchmarks")
    assert is_current(kept, docs)
    # From what is kept it can be written again.
    assert documents([docs / "benchmarks"], docs) == 0
    assert is_current(kept, docs)


def test_documentation_is_written_in_a_checkout_only(first: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="is not there"):
        documents([first], tmp_path / "elsewhere")
