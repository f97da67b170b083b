"""Looking at results that are there: compare two, write the report or the documentation again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.report.markdown import write_docs
from bench.results.comparison import between, heads, printed
from bench.results.files import ResultError, read_results
from bench.results.joining import joined
from bench.results.machine import ROOT

from .bars import OK
from .writing import write_report

DOCS: Final = ROOT / "docs"


def compare(first: Path, second: Path, *, is_noise_allowed: bool) -> int:
    """Print in what two results differ."""
    one, other = read_results(first), read_results(second)
    comparisons = between(one, other)
    if not comparisons:
        raise ResultError(f"{first} and {second} have nothing in common that could be compared.")
    names = _names(first, second)
    print("\n".join(heads(one, other, names=names)))
    print("\n".join(printed(comparisons, names=names, is_noise_allowed=is_noise_allowed)))
    return OK


def report(directory: Path) -> int:
    """Write the report of a result again."""
    print(f"written: {write_report(read_results(directory), directory)}")
    return OK


def documents(directories: Sequence[Path], docs: Path = DOCS) -> int:
    """Write the page of the documentation, with the result that it is made of beside it."""
    if not docs.is_dir():
        raise ResultError(f"{docs} is not there: the documentation is written in a checkout.")
    written = write_docs(joined([read_results(one) for one in directories]), docs)
    print("written: " + " ".join(map(str, written)))
    return OK


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the two are called in print: the directories, or the first and the second."""
    one, other = (
        (path if path.is_dir() else path.parent).resolve().name for path in (first, second)
    )
    return (one, other) if one != other else ("first", "second")
