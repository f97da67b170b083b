"""A condensed result set makes the same report, and is small; the committed one is current."""

from pathlib import Path

import pytest
from tidy import FILE_BYTES_MAX
from unit.bench.result_sets import hostile_result_set, result_set

from bench.report.condensed import condensed
from bench.report.html import page
from bench.report.markdown import differences, generated, write_docs
from bench.results.comparison import within
from bench.results.files import encoded, read_results
from bench.results.record import ResultSet

DOCS = Path(__file__).resolve().parents[4] / "docs"


@pytest.mark.parametrize("result", [result_set(), hostile_result_set()], ids=["plain", "hostile"])
def test_report_of_a_condensed_result_set_is_the_same(result: ResultSet) -> None:
    small = condensed(result)
    assert page(small) == page(result)
    assert generated(small) == generated(result)
    assert within(small) == within(result)
    assert condensed(small) == small


def test_condensed_result_set_is_small() -> None:
    result = result_set(rounds=9)
    assert len(encoded(condensed(result))) < len(encoded(result)) / 3
    assert len(encoded(condensed(result))) < FILE_BYTES_MAX


def test_docs_come_with_the_results_that_make_them_again(tmp_path: Path) -> None:
    write_docs(result_set(), tmp_path)
    assert differences(read_results(tmp_path / "benchmarks"), tmp_path) == []


def test_committed_docs_are_what_the_committed_results_generate() -> None:
    page_is_there = (DOCS / "benchmarks.md").exists()
    assert page_is_there == (DOCS / "benchmarks" / "results.json").exists()
    if page_is_there:
        assert differences(read_results(DOCS / "benchmarks"), DOCS) == []
