"""docs/benchmarks.md: the same for the same results, and nothing in it is markup by accident."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidy import link_findings, title_findings, white_space_findings
from unit.bench.result_sets import hostile_result_set, result_set

from bench.report.markdown import differences, generated, is_current, plain, write_docs
from bench.results.files import ResultError
from bench.results.record import ResultSet


def test_written_docs_are_current_until_something_changes(tmp_path: Path) -> None:
    result = result_set()
    assert not is_current(result, tmp_path)
    written = write_docs(result, tmp_path)
    assert is_current(result, tmp_path)
    assert not is_current(result_set(seed=2), tmp_path)
    written[3].write_text("x")
    assert differences(result, tmp_path) == [written[3].relative_to(tmp_path).as_posix()]


def test_plots_that_are_no_longer_made_are_removed_and_nothing_else(tmp_path: Path) -> None:
    write_docs(result_set(), tmp_path)
    (tmp_path / "benchmarks" / "notes.txt").write_text("{}")
    (tmp_path / "benchmarks" / "old.svg").write_text("x")
    assert differences(result_set(), tmp_path) == ["benchmarks/old.svg"]
    write_docs(result_set(), tmp_path)
    assert is_current(result_set(), tmp_path)
    assert (tmp_path / "benchmarks" / "notes.txt").exists()


@pytest.mark.parametrize("result", [result_set(), hostile_result_set()], ids=["plain", "hostile"])
def test_docs_are_tidy(result: ResultSet) -> None:
    files = generated(result)
    page = files["benchmarks.md"]
    assert list(title_findings("benchmarks.md", page)) == []
    for name, text in files.items():
        assert list(white_space_findings(name, text)) == []
    documents = {"docs/benchmarks.md": page}
    paths = frozenset(
        {"docs/benchmarks.md", "bench/README.md", *(f"docs/{name}" for name in files)}
    )
    assert list(link_findings(documents, paths)) == []


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for result in (result_set(), hostile_result_set()):
        columns = 0
        for line in generated(result)["benchmarks.md"].splitlines():
            cells = line.replace(r"\|", "").count("|") - 1
            if not line.startswith("|"):
                columns = 0
            elif columns:
                assert cells == columns
            else:
                columns = cells


def test_names_of_plots_are_names_of_files() -> None:
    for name in generated(hostile_result_set()):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-./")
        assert ".." not in name


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("<script>", r"\<script\>"),
        ("&lt;", "&amp;lt;"),
        ("[a](b)", r"\[a\]\(b)"),
        ("a|b", r"a\|b"),
        ("# a", r"\# a"),
        ("- a", r"\- a"),
        ("1. a", r"1\. a"),
        ("a\nb", "a b"),
    ],
)
def test_text_means_itself(text: str, escaped: str) -> None:
    assert plain(text) == escaped


@given(st.text(max_size=40))
def test_no_text_is_two_lines_or_a_tag(text: str) -> None:
    found = plain(text)
    assert "\n" not in found
    assert "<" not in found.replace(r"\<", "")


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").write_text("a file")
    with pytest.raises(ResultError, match="cannot be written"):
        write_docs(result_set(rounds=1), tmp_path)
