"""How a run looks: a line a step in a log, a bar on a terminal, and results on standard output.

In scope: bench.tool.progress. Out of scope: how the bar looks.
"""

import io
import os

import pytest

from bench.tool.progress import progress_on


def test_a_log_has_a_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with progress_on(stream) as progress, progress.steps("tps", 2) as step:
        step("stock")
        progress.say("a table")
        step("patroni")
        progress.warn("a warning")
    assert stream.getvalue().splitlines() == ["tps 1/2: stock", "tps 2/2: patroni", "a warning"]
    assert capsys.readouterr().out == "a table\n"


def test_a_terminal_has_a_bar_and_standard_output_stays_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal:
        with progress_on(terminal) as progress, progress.steps("tps", 2) as step:
            step("stock [1]")
            progress.say("a table")
            progress.warn("[a warning]")
        shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert "tps: stock [1]" in shown
    assert "[a warning]" in shown
    assert "a table" not in shown
    assert capsys.readouterr().out == "a table\n"
