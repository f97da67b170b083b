"""What is asked of elle-cli, and how its answer is read.

In scope: the pure part, and what becomes of a jar that is none. Out of scope: the history's text,
see test_report.py; Elle itself, which is not fetched.
"""

import shutil
from pathlib import Path

import pytest

from bench.faults.elle import ElleError, elle_checks, elle_model, verdict_of
from bench.faults.history import Level
from bench.faults.suite import Run

FILE = Path("r/lists-serializable.edn")


@pytest.mark.parametrize(
    ("said", "is_valid"),
    [
        ("r/lists-serializable.edn \t true\n", True),
        ("WARNING: something\nr/lists-serializable.edn\tfalse", False),
    ],
)
def test_verdict_is_read(said: str, is_valid: bool) -> None:
    assert verdict_of(said, FILE) == is_valid


@pytest.mark.parametrize(
    "said", ["", "r/lists-serializable.edn\t:unknown", "other.edn\ttrue", "Exception: true"]
)
def test_what_is_no_verdict_is_none(said: str) -> None:
    with pytest.raises(ElleError):
        verdict_of(said, FILE)


def test_serializable_is_strict_unless_the_clock_is_waived() -> None:
    assert elle_model(Level.SERIALIZABLE, strict=True) == "strong-serializable"
    assert elle_model(Level.SERIALIZABLE, strict=False) == "serializable"
    assert elle_model(Level.REPEATABLE_READ, strict=True) == "snapshot-isolation"


def test_without_a_jar_it_is_said_that_elle_was_not_run() -> None:
    checks, note = elle_checks(Run(1, [], 0), {Level.SERIALIZABLE: FILE}, jar=None, strict=True)
    assert checks == []
    assert note.startswith("elle: not run")


@pytest.mark.skipif(shutil.which("java") is None, reason="no Java machine here")
def test_jar_that_is_none_is_a_note_and_no_violation(tmp_path: Path) -> None:
    jar = tmp_path / "elle.jar"
    jar.write_bytes(b"no jar")
    checks, note = elle_checks(Run(1, [], 0), {Level.SERIALIZABLE: FILE}, jar=jar, strict=True)
    assert checks == []
    assert note.startswith("elle: not run to its end")
