"""The report in a real Chromium, without a window.

In scope: it opens from a file, is complete, complains of nothing, and hostile names do nothing; and
the check itself notices an empty page, a script that runs, and a browser that fails. The screenshot
goes where SEAWALL_SCREENSHOT says, for CI to keep. Out of scope: what is in the page (unit tests).
"""

import os
from pathlib import Path

import pytest
from unit.bench.result_sets import hostile_result_set, result_set

from bench.report.browser import BrowserError, find_browser, findings, look
from bench.report.html import page
from bench.report.png import SIGNATURE, distinct_rows
from bench.results.record import ResultSet

TITLE = "Seawall: Benchmarks"


@pytest.fixture(scope="module")
def browser() -> Path:
    try:
        return find_browser(os.environ)
    except BrowserError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    ("name", "result"), [("report", result_set()), ("hostile", hostile_result_set())]
)
def test_report_opens(name: str, result: ResultSet, browser: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.html"
    path.write_text(page(result), encoding="utf-8")
    folder = Path(os.environ.get("SEAWALL_SCREENSHOT", tmp_path))
    screenshot = folder / f"{name}.png"
    seen = look(path, screenshot, browser=browser)
    pictures = page(result).count("<svg")
    assert pictures == 20
    assert findings(seen, title=TITLE, pictures=pictures) == []
    assert screenshot.read_bytes().startswith(SIGNATURE)
    assert distinct_rows(screenshot.read_bytes()) == seen.screenshot_rows
    print(f"screenshot: {screenshot}")  # noqa: T201  # for whoever reads CI's output


def test_empty_page_is_noticed(browser: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.html"
    path.write_text("<!doctype html><title>Seawall: Benchmarks</title>")
    seen = look(path, tmp_path / "a.png", browser=browser)
    found = findings(seen, title=TITLE, pictures=1)
    assert [line.split(":")[0] for line in found] == [
        "The page shows 0 plots, not 1.",
        "The end of the page is missing.",
        "The screenshot is empty",
    ]


def test_policy_keeps_a_script_from_running_and_the_browser_says_so(
    browser: Path, tmp_path: Path
) -> None:
    """What the report's policy does for a name that would get past the escaping."""
    path = tmp_path / "script.html"
    text = page(result_set(rounds=1))
    path.write_text(text.replace("<main>", "<main><script>document.title='x'</script>"))
    seen = look(path, tmp_path / "a.png", browser=browser)
    assert seen.title == TITLE
    assert any("Content Security Policy" in line for line in seen.console)


def test_script_that_may_run_is_noticed(browser: Path, tmp_path: Path) -> None:
    path = tmp_path / "script.html"
    path.write_text("<title>a</title><script>document.title='b'; console.error('c')</script>")
    seen = look(path, tmp_path / "a.png", browser=browser)
    assert seen.title == "b"
    assert seen.console == ("c",)


def test_browser_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("a")
    with pytest.raises(BrowserError, match="failed with status"):
        look(path, tmp_path / "a.png", browser=Path("/bin/false"))
    with pytest.raises(BrowserError, match="cannot be started"):
        look(path, tmp_path / "a.png", browser=path)
    with pytest.raises(BrowserError, match="cannot be read: No such file"):
        look(tmp_path / "none", tmp_path / "a.png", browser=Path("/bin/false"))
