"""A server's programs where the database's user can run them.

A wheel's servers lie in a virtual environment, which may be below a directory that only its owner
may enter: a checkout in root's home, say. Unpacked wheels can also lose executable bits and
library links. In both cases the server is copied, repaired, into a cache directory and used from
there:

    <cache>/<version>-<fingerprint>/<package>/<install>/{bin,lib,share}
    <cache>/<version>-<fingerprint>/<package>.libs

The two levels are the wheel's own: its programs find the libraries that auditwheel put beside the
package by a path relative to themselves.

The copy is complete once it has its final name (made aside, synced, renamed), belongs to us and
not to the database's user, and is found again by the fingerprint of the tree it was made from. One
process copies at a time; the leftovers of one that died are removed by the next.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .privileges import Identity, obstacle, tree_obstacle
from .servers import REQUIRED_TOOLS, ServerBinaries, ServerError, choose_server, run_version

SYSTEM_CACHE_DIR = Path("/var/lib/seawall/postgres")
USER_CACHE_DIR = Path(".cache/seawall/postgres")  # below the home directory

# A server has some 1,000 files. Many more mean that bin/ is not in a tree of its own.
TREE_FILES_MAX = 20_000

_TREE_PARTS = ("bin", "lib", "share")
_BUILD_TIME_FILES = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs", "__pycache__")
_LIBRARY_NAME = re.compile(r"(?P<link>lib.+\.so)\.(?P<major>\d+)(\.\d+)+")


def server_to_run(pg_version: int | None, pg_bin: str | None, identity: Identity) -> ServerBinaries:
    """Return the server that a node's settings ask for, where the identity can run it."""
    server = choose_server(
        pg_version,
        pg_bin=None if pg_bin is None else Path(pg_bin),
        search_path=os.environ.get("PATH", os.defpath),
    )
    return runnable_server(server, identity)


def runnable_server(
    server: ServerBinaries, identity: Identity, *, cache_dir: Path | None = None
) -> ServerBinaries:
    """Return the server itself if the identity can run it, else a repaired copy that it can."""
    if _runs(server, identity):
        return server
    top = server.bin_dir.parent
    if server.bin_dir.name != "bin" or not (top / "share").is_dir():
        blocked = obstacle(identity, server.postgres, executable=True) or server.postgres
        raise ServerError(
            f"user {identity.name} cannot run {server.postgres} because of {blocked}: "
            "give that user access to it or install the server elsewhere"
        )
    copied = _copied(server, top, cache_dir or default_cache_dir(identity))
    usable = replace(server, bin_dir=copied / top.parent.name / top.name / "bin")
    if not _runs(usable, identity):
        raise ServerError(
            f"user {identity.name} cannot run the copy of {server} in {copied}: "
            "remove it and give that user access to the original"
        )
    return usable


def default_cache_dir(identity: Identity) -> Path:
    """Return where copies are kept: one place per machine for root, else in the user's own home."""
    return SYSTEM_CACHE_DIR if os.geteuid() == 0 else identity.home / USER_CACHE_DIR


def _runs(server: ServerBinaries, identity: Identity) -> bool:
    """Whether the identity can really run the programs and read what they read."""
    try:
        for name in sorted({*REQUIRED_TOOLS, "psql"} & server.tools):  # psql needs libpq
            run_version(server.bin_dir / name, identity)
    except (OSError, subprocess.SubprocessError):
        return False
    top = server.bin_dir.parent
    # A tree of its own can be checked to the last file. An installed server (lib and share may be
    # anywhere) came from a package manager, which gives everybody access.
    if server.bin_dir.name != "bin" or top == Path("/usr") or not (top / "share").is_dir():
        return True
    return all(tree_obstacle(identity, part) is None for part in _parts(top))


def _copied(server: ServerBinaries, top: Path, cache_dir: Path) -> Path:
    target = cache_dir / f"{server.version}-{fingerprint(top)}"
    try:
        cache_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _only_copier(cache_dir):
            if not target.is_dir():
                _copy_aside_and_rename(top, target)
    except OSError as error:
        raise ServerError(
            f"{server} cannot be copied to {target} ({error.strerror}): free space there or name "
            "another cache directory"
        ) from error
    return target


def fingerprint(top: Path) -> str:
    """Return a name for the state of a tree: any file added, resized or touched changes it."""
    digest = hashlib.sha256()
    for number, path in enumerate(sorted(_files(top))):
        if number == TREE_FILES_MAX:
            raise ServerError(
                f"{top} has more than {TREE_FILES_MAX} files, so it is no PostgreSQL "
                "installation of its own: install the server elsewhere"
            )
        status = path.lstat()
        digest.update(
            f"{path.relative_to(top.parent.parent)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode()
        )
    return digest.hexdigest()[:16]


def _files(top: Path) -> Iterator[Path]:
    for part in _parts(top):
        for folder, _, names in os.walk(part):
            yield from (Path(folder, name) for name in names)


def _parts(top: Path) -> list[Path]:
    """Return the directories that make up a server, the wheel's common libraries included."""
    parts = [*(top / part for part in _TREE_PARTS), _wheel_libraries(top)]
    return [part for part in parts if part.is_dir()]


def _wheel_libraries(top: Path) -> Path:
    return Path(f"{top.parent}.libs")


@contextlib.contextmanager
def _only_copier(cache_dir: Path) -> Iterator[None]:
    with (cache_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache_dir.glob(".copying-*"):
            shutil.rmtree(leftover)
        yield


def _copy_aside_and_rename(top: Path, target: Path) -> None:
    aside = target.with_name(f".copying-{target.name}")
    for part in _parts(top):
        copy = aside / part.relative_to(top.parent.parent)
        shutil.copytree(part, copy, symlinks=True, ignore=_BUILD_TIME_FILES)
    _open_to_all(aside)
    for link, library in list(_lost_links(aside / top.parent.name / top.name / "lib")):
        link.symlink_to(library.name)
    os.sync()  # once a version: a name that survives a power cut must not stand for empty files
    aside.rename(target)


def _open_to_all(top: Path) -> None:
    """Everybody may read, and run what is a program or a library; nobody but us may change it."""
    for folder, _, names in os.walk(top):
        os.chmod(folder, 0o755)  # noqa: S103  # only we may write, everybody may look
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                runs = path.parent.name == "bin" or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if runs else 0o644)


def _lost_links(lib: Path) -> Iterator[tuple[Path, Path]]:
    """The names by which programs may ask for shared libraries, where they are missing.

    A library whose own name is the long one needs no other; a superfluous link does no harm.
    """
    if not lib.is_dir():
        return
    for library in sorted(lib.iterdir()):
        match = _LIBRARY_NAME.fullmatch(library.name)
        if match is not None:
            link = library.with_name(f"{match['link']}.{match['major']}")
            if not link.exists():
                yield link, library
