"""A report in a real browser, without a window: does it open, and what does it look like.

    look(page, screenshot)

Chromium loads the file twice: once to say what it has made of it, once for the picture. As root it
runs as the unprivileged user that all servers of this project run as, in a directory of its own.
"""

import contextlib
import html
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlnode.privileges import Identity, PrivilegeError, choose_identity

from .html import END_ID
from .png import PngError, distinct_rows

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE: Final = "CHROME"  # names a browser that is none of these
MISSING: Final = (
    "No Chromium was found: install the package `chromium`, or set CHROME to a browser's path."
)
LOAD_SECONDS_MAX: Final = 120.0  # it took 4 s, and 20 s on a machine with a load of 9 per core
WINDOW: Final = (1280, 2400)
ROWS_MIN: Final = 100  # different rows of pixels; an empty page has a handful, a line of text 12

_ARGUMENTS: Final = (
    "--headless",
    # The sandbox needs rights that containers do not give. The page is our own, its policy forbids
    # scripts, and the browser is nobody of importance.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
_CONSOLE: Final = re.compile(r"CONSOLE[:(][^\"]*\"(.*)\", source:")


class BrowserError(Exception):
    """No browser, or it does not show the page; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a browser made of a page."""

    title: str
    pictures: int  # SVG elements
    console: tuple[str, ...]  # what it complained of
    is_whole: bool  # the last element is there
    screenshot_rows: int  # different rows of pixels


def find_browser(environment: Mapping[str, str]) -> Path:
    """The browser that the user named, or one that is installed."""
    named = environment.get(VARIABLE)
    for program in (named,) if named else PROGRAMS:
        found = shutil.which(program, path=environment.get("PATH", os.defpath))
        if found is not None:
            return Path(found)
    if named:
        raise BrowserError(f"CHROME names {named}, which cannot be run: correct it.")
    raise BrowserError(MISSING)


def look(page: Path, screenshot: Path, *, browser: Path | None = None) -> Seen:
    """Open a page; write the picture of its top."""
    browser = browser or find_browser(os.environ)
    try:
        identity = choose_identity()
    except PrivilegeError as error:
        raise BrowserError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="seawall-browser-") as name:
        place = Path(name)
        copy = place / "page.html"
        try:
            copy.write_bytes(page.read_bytes())
        except OSError as error:
            raise BrowserError(f"{page} cannot be read: {error.strerror or error}.") from error
        identity.give(place)
        identity.give(copy)
        dom, complaints = _run(browser, place, identity, "--dump-dom")
        picture = place / "screenshot.png"
        size = ",".join(map(str, WINDOW))
        _run(browser, place, identity, f"--screenshot={picture}", f"--window-size={size}")
        content = _content(picture)
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        screenshot.write_bytes(content)
    return Seen(
        title=_title(dom),
        pictures=len(re.findall(r"<svg[ >]", dom)),
        console=tuple(_CONSOLE.findall(complaints)),
        is_whole=f'id="{END_ID}"' in dom,
        screenshot_rows=distinct_rows(content),
    )


def findings(seen: Seen, *, title: str, pictures: int) -> list[str]:
    """What is wrong with what a browser saw, a sentence each. Pure."""
    found = [f"The browser complains: {complaint}" for complaint in seen.console]
    if seen.title != title:
        found.append(f"The page's title is {seen.title!r}, not {title!r}.")
    if seen.pictures != pictures:
        found.append(f"The page shows {seen.pictures} plots, not {pictures}.")
    if not seen.is_whole:
        found.append("The end of the page is missing.")
    if seen.screenshot_rows < ROWS_MIN:
        found.append(f"The screenshot is empty: {seen.screenshot_rows} different rows of pixels.")
    return found


def _run(browser: Path, place: Path, identity: Identity, *arguments: str) -> tuple[str, str]:
    """Load the page once; what the browser prints, and what it complains of."""
    command = [
        str(browser),
        *_ARGUMENTS,
        f"--user-data-dir={place / 'profile'}",
        *arguments,
        (place / "page.html").as_uri(),
    ]
    process = _started(command, place, identity)
    try:
        printed, complaints = process.communicate(timeout=LOAD_SECONDS_MAX)
    except subprocess.TimeoutExpired as error:
        raise BrowserError(
            f"{browser} did not load the page within {LOAD_SECONDS_MAX:g} s: try again on a"
            " machine that does less."
        ) from error
    finally:
        _end(process)
    told = complaints.decode(errors="replace")
    if process.returncode != 0:
        last = told.strip().rpartition("\n")[2] or "it does not say why"
        raise BrowserError(f"{browser} failed with status {process.returncode}: {last}")
    return printed.decode(errors="replace"), told


def _started(command: list[str], place: Path, identity: Identity) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(place), "LANG": "C.UTF-8"},
            start_new_session=True,  # so that its helpers can be ended with it
            **identity.subprocess_options(),
        )
    except OSError as error:
        raise BrowserError(
            f"{command[0]} cannot be started as {identity.name}: {error.strerror or error}."
        ) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it may stay, not even a helper that outlives it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _content(picture: Path) -> bytes:
    try:
        content = picture.read_bytes()
        distinct_rows(content)
    except (OSError, PngError) as error:
        raise BrowserError(f"The browser made no screenshot: {error}.") from error
    return content


def _title(dom: str) -> str:
    found = re.search(r"<title>([^<]*)</title>", dom)
    return html.unescape(found[1]) if found else ""
