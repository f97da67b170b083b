"""What PostgreSQL's own suites print is read, and excuses are published.

In scope: the printed lines of pg_regress in both of its forms, apt's files of sources, the one
list of known differences. Out of scope: running anything; that is `make pg-suites`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.pg_suites.known import KNOWN
from bench.pg_suites.results import SuiteResult, parse_results
from bench.pg_suites.running import SUITES
from bench.pg_suites.sources import source_entries
from bench.pg_suites.suites import suite_lines

COMPATIBILITY = Path(__file__).parents[3] / "docs" / "compatibility.md"

PLAIN = """\
(using postmaster on 127.0.0.1, port 6501)
============== running regression test queries        ==============
test test_setup                   ... ok         1441 ms
parallel group (3 tests):  char boolean name
     boolean                      ... ok         3356 ms
     char                         ... FAILED      815 ms
     name                         ... failed (ignored)     1974 ms
test deadlock-simple              ... FAILED (test process exited with exit code 2)      9 ms

======================
 3 of 5 tests failed.
======================
"""
TAP = """\
# using postmaster on 127.0.0.1, port 6501
ok 1         - test_setup                               1441 ms
# parallel group (2 tests):  char boolean
ok 2         + boolean                                  3356 ms
not ok 3     + char                                      815 ms
# (test process exited with exit code 2)
1..3
# 1 of 3 tests failed.
"""


@pytest.mark.parametrize(
    ("text", "passed", "failed"),
    [
        (PLAIN, ("test_setup", "boolean"), ("char", "name", "deadlock-simple")),
        (TAP, ("test_setup", "boolean"), ("char",)),
        ("psql: error: connection refused\n", (), ()),
    ],
    ids=["up to 15", "from 16 on", "nothing was run"],
)
def test_every_printed_test_is_read(
    text: str, passed: tuple[str, ...], failed: tuple[str, ...]
) -> None:
    assert parse_results(text) == SuiteResult(passed, failed)


def test_only_a_known_difference_is_excused() -> None:
    result = SuiteResult(("boolean",), ("char", "name"))
    assert result.unexplained({"char": "a reason"}) == ("name",)
    assert result.total == 3


def test_a_failure_is_printed_with_the_place_of_its_differences() -> None:
    lines = suite_lines("primary", "regression", SuiteResult(("a",), ("b",)), Path("/kept"))
    assert lines == ["SUITE primary regression 1/2", "  b FAILED", "  see /kept/regression.diffs"]


@pytest.mark.parametrize(
    ("text", "is_stanzas", "found"),
    [
        (
            "# deb one\ndeb [arch=amd64] http://a/ b main\ndeb-src http://a/ b main\n",
            False,
            "# deb one\ndeb-src [arch=amd64] http://a/ b main\ndeb-src http://a/ b main\n",
        ),
        ("Types: deb\nURIs: http://a/\n", True, "Types: deb-src\nURIs: http://a/\n"),
        ("types: deb deb-src\n", True, "Types: deb-src\n"),
    ],
    ids=["lines", "stanzas", "stanzas that have both"],
)
def test_sources_are_fetched_from_where_packages_come_from(
    text: str, is_stanzas: bool, found: str
) -> None:
    assert source_entries(text, is_stanzas=is_stanzas) == found


def test_what_is_excused_is_published_and_nothing_else() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|", COMPATIBILITY.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted((suite, name) for suite in KNOWN for name in KNOWN[suite])
    assert KNOWN.keys() == {suite.name for suite in SUITES}
