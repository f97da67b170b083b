"""Finding a browser, and judging what it saw. Out of scope: running it (integration)."""

from pathlib import Path

import pytest

from bench.report.browser import MISSING, ROWS_MIN, BrowserError, Seen, find_browser, findings

GOOD = Seen(title="a", pictures=3, console=(), is_whole=True, screenshot_rows=ROWS_MIN)


def program(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_installed_browser_is_found_in_order_of_preference(tmp_path: Path) -> None:
    chrome = program(tmp_path / "google-chrome")
    assert find_browser({"PATH": str(tmp_path)}) == chrome
    chromium = program(tmp_path / "chromium")
    assert find_browser({"PATH": str(tmp_path)}) == chromium
    assert find_browser({"PATH": str(tmp_path), "CHROME": str(chrome)}) == chrome


def test_missing_browser_is_one_sentence_that_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(BrowserError) as refusal:
        find_browser({"PATH": str(tmp_path)})
    assert str(refusal.value) == MISSING
    assert "`chromium`" in MISSING


def test_named_browser_that_is_not_there_is_refused(tmp_path: Path) -> None:
    program(tmp_path / "chromium")
    with pytest.raises(BrowserError, match="CHROME names /no/such, which cannot be run"):
        find_browser({"PATH": str(tmp_path), "CHROME": "/no/such"})


def test_good_page_has_no_findings() -> None:
    assert findings(GOOD, title="a", pictures=3) == []


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Seen("b", 3, (), is_whole=True, screenshot_rows=500), "title is 'b'"),
        (Seen("a", 2, (), is_whole=True, screenshot_rows=500), "2 plots, not 3"),
        (Seen("a", 3, ("x",), is_whole=True, screenshot_rows=500), "complains: x"),
        (Seen("a", 3, (), is_whole=False, screenshot_rows=500), "end of the page"),
        (Seen("a", 3, (), is_whole=True, screenshot_rows=ROWS_MIN - 1), "screenshot is empty"),
    ],
)
def test_what_is_wrong_is_told(seen: Seen, told: str) -> None:
    (found,) = findings(seen, title="a", pictures=3)
    assert told in found
