"""`python -P -m bench.faults` from the outside: its report and its exit statuses.

In scope: the command on a stock server. Out of scope: what is judged; see test_suite_on_stock.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

DEADLINE_S = 120


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "bench.faults", *arguments],
        capture_output=True, check=False, encoding="utf-8", timeout=DEADLINE_S,
    )  # fmt: skip


def test_sound_server_passes_and_leaves_a_report(tmp_path: Path) -> None:
    done = command("--stock", "--seconds", "4", "--seed", "2", "--report", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violations" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["seed"] == 2
    assert report["happenings"]
    assert [note for note in report["notes"] if note.startswith("elle: not run")]
    assert (tmp_path / "lists-serializable.edn").read_text().startswith("{:index 0")
    assert (tmp_path / "timeline.svg").read_text().startswith("<svg")
    assert (tmp_path / "summary.txt").read_text() in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--existing", "--dir", "/nowhere/at/all"), "seawall"),
        (("--stock", "--pg-bin", "/nowhere"), "/nowhere"),
        (("--existing",), "needs --dir"),
    ],
)
def test_what_cannot_be_carried_out_is_told_in_a_sentence(
    arguments: tuple[str, ...], words: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
