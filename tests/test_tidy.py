"""The tree keeps the rules of tests/tidy.py, and each of the rules can fail.

In scope: one example that breaks each rule and, where a rule could be too eager, one that keeps it.
Out of scope: what ruff, mypy and import-linter check.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tidy

# Built from parts, so that this file keeps the rules that it tests.
SOMEBODYS_FILE = "/".join(["", "home", "ada", "notes"])
INDEX_ADDRESS = "https:" + "//" + "pypi.example.org/simple"
ADR = "# 1. A\n" + "".join(f"## {heading}\nx\n" for heading in tidy.ADR_HEADINGS)


def function(lines: int, *, docstring_lines: int = 0) -> str:
    """A module with one function of so many lines besides its docstring."""
    docstring = '    """' + "a\n" * docstring_lines + '    """\n' if docstring_lines else ""
    return '"""A module."""\n\n\ndef f():\n' + docstring + "    x = 1\n" * (lines - 1)


def c_function(lines: int) -> str:
    return "static int f(int a,\n\tint b)\n{\n" + "\ta++;\n" * (lines - 4) + "}\n"


BROKEN: list[tuple[tidy.Check, str, str]] = [
    (tidy.module_findings, "x = 1\n", "no module docstring"),
    (tidy.module_findings, '"""A."""\n' + "x = 1\n" * 500, "501 lines"),
    (tidy.function_findings, function(61), "f has 61 lines"),
    (tidy.function_findings, function(61).replace("def", "async def"), "f has 61 lines"),
    (tidy.suppression_findings, "import os  # noqa: F401\n", "without a reason"),
    (tidy.suppression_findings, "x = y  # type: ignore[misc]\n", "without a reason"),
    (tidy.suppression_findings, "x = y  # type: ignore[misc]  # noqa: F401, E501\n", "reason"),
    (tidy.suppression_findings, "z = 1  # code above\nx = y  # noqa: F401\n", "without a reason"),
    (tidy.c_findings, "/* " + "a" * 98 + "\n", "101 columns"),
    (tidy.c_findings, "\t" + "a" * 97 + "\n", "101 columns"),
    (tidy.c_findings, c_function(61), "a function of 61 lines"),
    (tidy.title_findings, "# One\n# Two\n", "2 titles"),
    (tidy.title_findings, "```\n# not a title\n```\n", "0 titles"),
    (tidy.adr_findings, ADR.replace("## Context\n", ""), "sections"),
    (tidy.adr_findings, "## Context\n## Status\n", "sections"),
    (tidy.changelog_findings, "# Changelog\n\n## 0.1.0\n", "Unreleased"),
    (tidy.white_space_findings, "x", "no newline"),
    (tidy.white_space_findings, "x\n\n", "empty lines"),
    (tidy.white_space_findings, "x \ny\n", "end of the line"),
    (tidy.white_space_findings, "x\r\ny\n", "end of the line"),
    (tidy.place_findings, f"see {SOMEBODYS_FILE}\n", "path of one machine"),
    (tidy.place_findings, f"index: {INDEX_ADDRESS}\n", "package index"),
    (tidy.place_findings, "pip install --extra-" + "index-url x\n", "package index"),
    (tidy.toml_findings, "a = \n", "Invalid value"),
    (tidy.yaml_findings, "a: [1\n", "while parsing"),
]

SOUND: list[tuple[tidy.Check, str]] = [
    (tidy.module_findings, '"""A."""\n' + "x = 1\n" * 499),
    (tidy.function_findings, function(60, docstring_lines=30)),
    (tidy.suppression_findings, "import os  # noqa: F401  # its import registers the codec\n"),
    (tidy.suppression_findings, "# Ships no types.\nimport y  # type: ignore[import]\n"),
    (tidy.suppression_findings, 'x = "# noqa"\n'),
    (tidy.c_findings, c_function(60) + c_function(60)),
    (tidy.c_findings, "static int table[] = {\n" + "\t1,\n" * 99 + "};\n"),
    (tidy.title_findings, "# One\n## Two\n"),
    (tidy.adr_findings, ADR),
    (tidy.changelog_findings, "# Changelog\n\n## [Unreleased]\n"),
    (tidy.white_space_findings, "x\n\ny\n"),
    (tidy.white_space_findings, ""),
    (tidy.place_findings, "/usr/lib/postgresql and $HOME/x and a checkout in /root\n"),
    (tidy.toml_findings, "a = 1\n"),
    (tidy.yaml_findings, "a: [1]\n"),
]


@pytest.mark.parametrize(("check", "text", "finding"), BROKEN)
def test_rule_is_broken_by(
    check: Callable[[str, str], Iterator[str]], text: str, finding: str
) -> None:
    found = list(check("name", text))
    assert len(found) == 1
    assert finding in found[0]


@pytest.mark.parametrize(("check", "text"), SOUND)
def test_rule_is_kept_by(check: Callable[[str, str], Iterator[str]], text: str) -> None:
    assert list(check("name", text)) == []


def test_path_of_the_checkout_is_refused_unless_it_is_shallow() -> None:
    deep, shallow = "/srv/builds/seawall", "/srv"
    assert len(list(tidy.place_findings("name", f"see {deep}/x\n", checkout=deep))) == 1
    assert not list(tidy.place_findings("name", f"see {shallow}/x\n", checkout=shallow))


def test_links_that_lead_nowhere_are_found() -> None:
    documents = {
        "README.md": "# Read me\n[a](docs/a.md#part-one) [b](docs) [c](#read-me)\n",
        "docs/a.md": "# A\n## Part one\n[no](b.md) [no](../README.md#x) [yes](../README.md)\n",
    }
    paths = frozenset({*documents, "docs", "."})
    assert list(tidy.link_findings(documents, paths)) == [
        "docs/a.md: the link to b.md leads nowhere",
        "docs/a.md: the link to ../README.md#x names no heading of README.md",
    ]


def test_links_in_code_and_to_other_sites_are_not_followed() -> None:
    text = "# A\n`[a](b)` [c](https://example.org/)\n```\n[d](e)\n```\n"
    assert not list(tidy.link_findings({"a.md": text}, frozenset({"a.md"})))


@pytest.mark.parametrize(
    ("files", "finding"),
    [
        ({"operator/__init__.py": b""}, "shadow"),
        ({"dump.bin": bytes(tidy.FILE_BYTES_MAX + 1)}, "bytes, more than"),
        ({"docs/adr/0001-a.md": b"", "docs/adr/0001-b.md": b""}, "number 0001"),
    ],
)
def test_tree_is_broken_by(files: dict[str, bytes], finding: str) -> None:
    found = list(tidy.tree_findings(files))
    assert len(found) == 1
    assert finding in found[0]


def test_every_check_is_applied_to_a_tree() -> None:
    found = tidy.findings({"a.py": b"x = 1", "blob": b"\0 ", "docs/adr/0001-a.md": b"# A\n"})
    assert [line.partition(":")[0] for line in found] == ["a.py", "a.py", "docs/adr/0001-a.md"]


def test_ignored_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text(".venv/\n*.so\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "a.py").write_text("x")
    (tmp_path / "a.so").write_text("x")
    (tmp_path / "a.c").write_text("x")
    assert sorted(tidy.read_tree(tmp_path)) == [".gitignore", "a.c"]


def test_this_tree_is_tidy() -> None:
    assert tidy.findings(tidy.read_tree(tidy.ROOT)) == []
