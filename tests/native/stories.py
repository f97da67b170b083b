"""Random stories for the differential test: calls on a few files, harvests, deaths of the broker.

A story follows from its seed. It keeps to what PostgreSQL promises: a file that is removed has been
closed by everybody before, because the library calls a removed file gone where the kernel would
still give its data; and data files are neither renamed, linked nor opened for appending.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sqlnode.pagefault.block_map import BLOCK_BYTES

PATHS: Final = (
    "base/5/1",
    "base/5/2_fsm",
    "base/5/3.1",
    "base/5/5",
    "base/5/6",
    "global/4",
    "pg_xact/0000",
)
OUTSIDE: Final = "base/5/t3_77"  # a temporary relation: not tracked
BLOCKS_MAX: Final = 300  # well beyond the 88 whose state is inside the slot
HANDLES: Final = ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True)
class Call:
    """A line for both drivers."""

    line: str


@dataclass(frozen=True, slots=True)
class TakeHarvest:
    """Apply what changed to the image, or undo."""

    commit: bool


@dataclass(frozen=True, slots=True)
class BrokerDies:
    """kill -9, and start again."""


Event = Call | TakeHarvest | BrokerDies


@dataclass(slots=True)
class Story:
    """Makes the events of one seed."""

    seed: int
    events: int = 200
    _random: random.Random = field(init=False)
    _open: dict[str, str] = field(default_factory=dict)  # handle: path

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __iter__(self) -> Iterator[Event]:
        chance = self._random
        for _ in range(self.events):
            roll = chance.random()
            if roll < 0.06:
                yield TakeHarvest(commit=chance.random() < 0.7)
            elif roll < 0.07:
                yield BrokerDies()
            elif roll < 0.10:
                yield from self._remove()
            elif roll < 0.28 or not self._open:
                yield Call(self._open_file())
            else:
                yield Call(chance.choice(self._calls())())
        yield from self._look_at_everything()

    def _calls(self) -> list[Callable[[], str]]:
        return [
            *[self._read] * 5,
            *[self._write] * 5,
            self._copy,
            self._resize,
            self._advise,
            self._other,
        ]

    def _open_file(self) -> str:
        chance = self._random
        handle = chance.choice(HANDLES)
        path = chance.choice((*PATHS, *PATHS, OUTSIDE))
        flags = chance.choice(("rw", "rw", "ro", "wo", "rw,creat", "rw,creat", "rw,creat,excl"))
        if chance.random() < 0.08:
            flags = "rw,creat,trunc"
        prefix = chance.choice(("", "", "./"))
        self._open[handle] = path
        call = chance.choice(("open", "openat", "creat")) if flags == "rw,creat,trunc" else "open"
        return f"{call} {handle} {prefix}{path}" + ("" if call == "creat" else f" {flags}")

    def _remove(self) -> Iterator[Call]:
        path = self._random.choice(PATHS)
        for handle in [handle for handle, opened in self._open.items() if opened == path]:
            del self._open[handle]
            yield Call(f"close {handle}")
        yield Call(f"{self._random.choice(('unlink', 'unlinkat', 'remove'))} {path}")

    def _handle(self) -> str:
        return self._random.choice(sorted(self._open))

    def _offset(self) -> int:
        block = self._random.choice((self._random.randrange(8), self._random.randrange(BLOCKS_MAX)))
        return block * BLOCK_BYTES + self._torn()

    def _size(self) -> int:
        blocks = self._random.choice((1, 1, 1, 2, 16, 40))
        return max(blocks * BLOCK_BYTES + self._random.choice((-1, 1)) * self._torn(), 0)

    def _torn(self) -> int:
        return self._random.choice((0, 0, 0, 1, 100, 4096, 8191))

    def _read(self) -> str:
        call = self._random.choice(("read", "readv", "read_chk", "pread", "preadv", "pread_chk"))
        offset = f"{self._offset()} " if call[0] == "p" else ""
        return f"{call} {self._handle()} {offset}{self._size()}"

    def _write(self) -> str:
        call = self._random.choice(("write", "writev", "pwrite", "pwrite", "pwritev"))
        offset = f"{self._offset()} " if call[0] == "p" else ""
        return f"{call} {self._handle()} {offset}{self._size()} {self._random.randrange(1000)}"

    def _copy(self) -> str:
        places = [self._random.choice((str(self._offset()), "here")) for _ in range(2)]
        handles = [self._handle(), self._handle()]
        return f"copy_file_range {handles[0]} {places[0]} {handles[1]} {places[1]} {self._size()}"

    def _resize(self) -> str:
        call = self._random.choice(("ftruncate", "truncate", "posix_fallocate", "fallocate"))
        match call:
            case "ftruncate":
                return f"ftruncate {self._handle()} {self._offset()}"
            case "truncate":
                return f"truncate {self._random.choice(PATHS)} {self._offset()}"
            case "posix_fallocate":
                return f"posix_fallocate {self._handle()} {self._offset()} {self._size()}"
            case _:
                return f"fallocate {self._handle()} {self._random.choice('01')} " + (
                    f"{self._offset()} {self._size()}"
                )

    def _advise(self) -> str:
        return f"posix_fadvise {self._handle()} {self._offset()} {self._size() * 2}"

    def _other(self) -> str:
        handle, path = self._handle(), self._random.choice((*PATHS, OUTSIDE))
        match self._random.randrange(6):
            case 0:
                return f"lseek {handle} {self._offset()}"
            case 1:
                return f"size {handle}"
            case 2:
                return f"fopen {path} r"
            case 3:
                return f"fork pread {handle} {self._offset()} {self._size()}"
            case 4:
                self._open["e"] = self._open[handle]
                return f"dup e {handle}"
            case _:
                self._open.pop(handle)
                return f"close {handle}"

    def _look_at_everything(self) -> Iterator[Event]:
        yield TakeHarvest(commit=True)
        for path in (*PATHS, OUTSIDE):
            yield Call(f"open z {path} ro")
            yield Call("size z")
            yield Call(f"pread z 0 {BLOCKS_MAX * 2 * BLOCK_BYTES}")
        yield TakeHarvest(commit=True)
