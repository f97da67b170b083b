"""Which commit was measured. In scope: real repositories of git, and none."""

import shutil
import subprocess
from pathlib import Path

import pytest

from bench.results.machine import UNKNOWN, commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments],  # noqa: S607  # whichever git there is
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    return tmp_path


def test_commit_of_a_clean_checkout(checkout: Path) -> None:
    assert commit(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize("name", ["a", "b"])  # changed, new
def test_commit_with_changes_has_a_plus(checkout: Path, name: str) -> None:
    (checkout / name).write_text("b")
    assert commit(checkout) == git(checkout, "rev-parse", "--short=12", "HEAD") + "+"


def test_outside_a_checkout_it_is_unknown(tmp_path: Path) -> None:
    assert commit(tmp_path) == UNKNOWN
    assert commit(tmp_path / "missing") == UNKNOWN


def test_somebody_elses_checkout_says_nothing(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert commit(checkout / "site-packages") == UNKNOWN


def test_repository_without_a_commit_is_unknown(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) == UNKNOWN
