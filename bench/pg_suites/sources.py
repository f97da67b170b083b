"""The suites' files: of Debian's source package of exactly the server that is under test.

    folder = suite_files(server, cache)     # folder/regress, folder/isolation, built

apt fetches the package from where this machine gets its packages, checks its signature, and writes
nothing outside of the cache: its settings and lists are private ones, so no rights are needed. Of
the sources one library is compiled, regress.so, which has the C functions of the tests. The
programs that run tests came with the server.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sqlnode.servers import ServerBinaries

APT_TIMEOUT_S: Final = 600  # some 35 MB
BUILD_TIMEOUT_S: Final = 1800  # a minute on a quiet machine, most of it for configure
QUOTED_CHARACTERS_MAX: Final = 800
FOLDERS: Final = ("regress", "isolation")
# What the library does not need must not be needed to build it.
CONFIGURE: Final = ("./configure", "--without-readline", "--without-zlib", "--without-icu")
NEEDED: Final = ("apt-get", "dpkg-query", "dpkg-source", "gcc", "make", "perl")

_LINE = re.compile(r"^deb(?=[ \t])", re.MULTILINE)
_STANZA = re.compile(r"^Types:.*$", re.MULTILINE | re.IGNORECASE)


class SourcesError(Exception):
    """The files of the suites could not be had; the text says what to do."""


def suite_files(server: ServerBinaries, cache: Path) -> Path:
    """Return the directory with the suites for a server; what is there is not fetched again."""
    name, version = source_package(server)
    cache = cache.absolute()  # apt takes others for relative to its own
    target = cache / f"{name}_{version}"
    if not target.is_dir():
        _require_tools()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as aside:
            tree = _fetch(name, version, Path(aside))
            _build(tree)
            made = Path(aside) / "made"
            made.mkdir(mode=0o755)
            for folder in FOLDERS:
                shutil.move(tree / "src/test" / folder, made / folder)
            made.rename(target)
    return target


def source_package(server: ServerBinaries) -> tuple[str, str]:
    """Return name and version of the source package that a server was built from."""
    program = os.path.realpath(server.postgres)
    try:
        owner = _output(["dpkg-query", "--search", program]).partition(":")[0]
        form = "${source:Package} ${source:Version}"
        name, version = _output(["dpkg-query", "--show", f"--showformat={form}", owner]).split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SourcesError(
            f"{server} is no package of Debian's, and its suites come from the source package: "
            "install postgresql, or name its programs with --pg-bin"
        ) from error
    return name, version


def source_entries(text: str, *, is_stanzas: bool) -> str:
    """Return a file of apt's sources with the same places, for source packages."""
    if is_stanzas:
        return _STANZA.sub("Types: deb-src", text)
    return _LINE.sub("deb-src", text)


def _require_tools() -> None:
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        raise SourcesError(
            f"{', '.join(missing)} not found: install dpkg-dev, gcc, libc6-dev, make and perl"
        )


def _fetch(name: str, version: str, aside: Path) -> Path:
    """Have apt fetch and unpack a source package; return its tree."""
    parts = aside / "sources"
    parts.mkdir()
    for path in _machine_sources():
        text = path.read_text(encoding="utf-8")
        entries = source_entries(text, is_stanzas=path.suffix == ".sources")
        (parts / path.name).write_text(entries, encoding="utf-8")
    for folder in ("lists/partial", "cache/archives/partial"):
        (aside / folder).mkdir(parents=True)
    apt = [
        "apt-get", "--quiet=2",
        "-o", "Dir::Etc::SourceList=/dev/null",
        "-o", f"Dir::Etc::SourceParts={parts}",
        "-o", f"Dir::State::Lists={aside / 'lists'}",
        "-o", f"Dir::Cache={aside / 'cache'}",
        "-o", "APT::Sandbox::User=",  # its user could not write here; signatures are checked anyway
    ]  # fmt: skip
    what = f"{name} {version}"
    _run([*apt, "update"], aside, f"fetching apt's lists for {what}", APT_TIMEOUT_S)
    _run(
        [*apt, "source", f"{name}={version}"],
        aside,
        f"fetching the sources of {what} (if it is no longer offered, upgrade the server)",
        APT_TIMEOUT_S,
    )
    (tree,) = (path for path in aside.glob(f"{name}-*") if path.is_dir())
    return tree


def _machine_sources() -> Iterator[Path]:
    """Yield the files that say where this machine gets packages."""
    said = _output(["apt-config", "shell", "L", "Dir::Etc::SourceList/f", "P",
                    "Dir::Etc::SourceParts/d"])  # fmt: skip
    main, parts = (Path(line.partition("=")[2].strip("'")) for line in said.splitlines())
    if main.is_file():
        yield main
    for path in sorted(parts.glob("*")):
        if path.suffix in {".list", ".sources"}:
            yield path


def _build(tree: Path) -> None:
    """Compile regress.so, and the headers and libraries that it needs."""
    jobs = f"--jobs={os.cpu_count() or 1}"
    for command in (
        CONFIGURE,
        ("make", jobs, "-C", "src/backend", "generated-headers"),
        ("make", jobs, "-C", "src/test/regress", "regress.so"),
    ):
        _run(command, tree, f"compiling regress.so ({' '.join(command)})", BUILD_TIMEOUT_S)


def _run(command: Sequence[str], directory: Path, what: str, timeout_s: float) -> None:
    try:
        subprocess.run(
            command, check=True, cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace",
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise SourcesError(
            f"{what} failed: {error.stdout[-QUOTED_CHARACTERS_MAX:].strip()}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SourcesError(f"{what} took more than {timeout_s:g} s: try again") from error


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
