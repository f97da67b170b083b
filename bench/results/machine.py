"""Where and of what a result set was measured: the machine, and the commit."""

import subprocess
from pathlib import Path
from typing import Final

from bench.pagefault.machine import machine_facts

ROOT: Final = Path(__file__).resolve().parents[2]
UNKNOWN: Final = "unknown"
GIT_SECONDS_MAX: Final = 20.0  # looking at every file on a disk that is busy with a benchmark

__all__ = ["UNKNOWN", "commit", "machine_facts"]


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out, with `+` when files differ; `unknown` outside a checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    # An installation may lie in somebody else's checkout, whose commit says nothing.
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return UNKNOWN
    name = _git(root, "rev-parse", "--short=12", "HEAD")
    changes = _git(root, "status", "--porcelain")
    if name is None or changes is None:
        return UNKNOWN
    return name.strip() + ("+" if changes.strip() else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ("git", "-C", root, *arguments),  # noqa: S607  # whichever git the user has
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
