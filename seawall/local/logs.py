"""`seawall logs`: the ends of the nodes' logs, and what they write from now on."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 256 * 1024
LOOK_S: Final = 0.25


def tail(path: Path, lines_max: int) -> list[str]:
    """Return the last lines of a file; none if it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return lines[-lines_max:] if lines_max > 0 else []


def follow(paths: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
    """Return every line that some files get from now on, with the file's name; without an end."""
    return _new_lines([_Followed(name, path) for name, path in paths])


def _new_lines(followed: "list[_Followed]") -> Iterator[tuple[str, str]]:
    while True:
        is_quiet = True
        for one in followed:
            for line in one.new_lines():
                is_quiet = False
                yield one.name, line
        if is_quiet:
            time.sleep(LOOK_S)


class _Followed:
    """One file, which may be put aside and begun anew."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._inode = path.stat().st_ino if path.exists() else 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        try:
            status = self._path.stat()
            if status.st_size < self._at or status.st_ino != self._inode:
                self._at, self._rest, self._inode = 0, b"", status.st_ino
            with self._path.open("rb") as file:
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return []
        self._at += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]
