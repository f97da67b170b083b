"""Where a compute's pages come from: the narrow interface, and the words it is spoken in.

A source serves one branch. It describes a *cut* (which files there are, how long, and the small
files that travel whole), and gives pages of it. The first source is a plain directory
(`directory_source`); storage nodes are the next. One contract test runs against all of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from .pagefault.block_map import FILE_BLOCKS_MAX, SLRU_DIRS, Pages


class SourceError(Exception):
    """The source cannot give what was asked; the sentence names the thing and says what to do."""


class SourceUnreachableError(SourceError):
    """Nobody who has the pages answers just now: asking again later may help."""


class DamagedPageError(SourceError):
    """The source gave a page whose checksum is wrong."""


class PageRange(NamedTuple):
    """Consecutive blocks of one data file. (A tuple, because a fetch makes one.)"""

    path: str
    first: int
    blocks: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """A relation or SLRU segment: its blocks fault in. A torn last block does not count."""

    path: str
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutDescription:
    """Everything that a data directory needs before its pages."""

    files: Sequence[DataFile]
    small_files: Mapping[str, bytes]  # pg_control and all else that travels whole
    directories: Sequence[str]  # of databases and tablespaces, parents first


class PageSource(Protocol):
    """Pages of one branch as of one cut."""

    async def describe(self) -> CutDescription:
        """The cut's files. Raises `SourceError`."""
        ...

    async def read(self, ranges: Sequence[PageRange]) -> Sequence[Pages | SourceError]:
        """The pages of each range, whole, or why not. In order; never raises for one range."""
        ...

    async def close(self) -> None:
        """Give back descriptors and connections."""
        ...


# Relation segments: OID, fork, segment number. The library has the same rule in C (data_path.c);
# a test holds the two together.
_RELATION: Final = re.compile(
    r"(?:base/\d+|global|pg_tblspc/\d+/PG_[^/]*/\d+)/\d+(?:_fsm|_vm|_init)?(?:\.(?P<segment>\d+))?",
    re.ASCII,
)
_SLRU: Final = re.compile(r"(?:" + "|".join(SLRU_DIRS) + r")/[0-9A-F]{4,15}")
_SMALL: Final = re.compile(
    r"PG_VERSION|global/pg_control|(?:global|base/\d+|pg_tblspc/\d+/PG_[^/]+/\d+)/pg_filenode\.map"
    r"|(?:base/\d+|pg_tblspc/\d+/PG_[^/]+/\d+)/PG_VERSION|pg_twophase/[0-9A-F]{8,16}"
    r"|pg_logical/replorigin_checkpoint",
    re.ASCII,
)


def is_data_file(path: str) -> bool:
    """Whether `path`, relative to the data directory, is a file whose blocks the map follows."""
    return bool(_RELATION.fullmatch(path) or _SLRU.fullmatch(path))


def is_small_file(path: str) -> bool:
    """Whether it travels whole with each cut."""
    return bool(_SMALL.fullmatch(path))


def relation_block(path: str) -> int | None:
    """The number that the first block of this segment has inside its relation; None for an SLRU.

    Only relations carry data checksums, and this number is part of them.
    """
    match = _RELATION.fullmatch(path)
    return None if match is None else int(match["segment"] or 0) * FILE_BLOCKS_MAX
