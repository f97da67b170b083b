"""What can be asked of a storage node: the methods, their requests and answers, the skeleton.

Every request names a range of positions, and is answered from the node's newest cut inside it. A
node that has none says so with RetryError, and `client.StorageClient` asks another one.

Pages travel as payload, and so does the *skeleton*, everything of a cut but its pages: one byte of
version, then msgpack compressed with zlib. A skeleton that exceeds one answer comes in parts, and
`SkeletonPart.crc32` tells whether all of them are of the same one.

    1 byte   version, 1
    rest     zlib of msgpack: [[[path, blocks], ...], {small file: content, ...}, [directory, ...]]
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from fabric.ids import BranchName, NodeName
from fabric.lsn import LSN_MAX, Lsn
from fabric.rpc import Method
from sqlnode.page_source import CutDescription, DataFile, PageRange, is_data_file, is_small_file
from sqlnode.pagefault.block_map import FILE_BLOCKS_MAX

from .cut import Cut

RANGES_MAX: Final = 1024
BLOCKS_MAX: Final = 1024  # of all ranges of a request: 8 MiB, half of what an answer may have
PATH_CHARACTERS_MAX: Final = 120  # the longest path that PostgreSQL makes has some 80
CUTS_LISTED_MAX: Final = 500  # some 40 KB; retention keeps a few thousand at most
WAIT_MS_MAX: Final = 60_000
LEASE_S_MAX: Final = 24 * 3600
HOLDER_CHARACTERS_MAX: Final = 63  # the name of a node
PART_BYTES_MAX: Final = 4 * 1024 * 1024  # of a skeleton; those of most clusters are one part
SKELETON_BYTES_MAX: Final = 128 * 1024 * 1024  # compressed: millions of files
SKELETON_RAW_BYTES_MAX: Final = 512 * 1024 * 1024
SKELETON_VERSION: Final = 1

LSN_FIRST: Final = Lsn(0)
LSN_LAST: Final = Lsn(LSN_MAX)

_Path: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_CHARACTERS_MAX)]
_WaitMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)]
_Holder: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=HOLDER_CHARACTERS_MAX)]


class Done(msgspec.Struct, frozen=True):
    """It is done."""


class Nothing(msgspec.Struct, frozen=True):
    """Asks for all there is."""


class DescribeCut(msgspec.Struct, frozen=True):
    """Asks for the newest cut with first <= lsn <= last, and its skeleton from `offset` on.

    Whoever wants the next part asks the same node for exactly the cut that it was told.
    """

    branch: BranchName
    first: Lsn = LSN_FIRST
    last: Lsn = LSN_LAST
    offset: Annotated[int, msgspec.Meta(ge=0, le=SKELETON_BYTES_MAX)] = 0


class SkeletonPart(msgspec.Struct, frozen=True):
    """The payload is a part of the skeleton; `bytes_total` and `crc32` are of the whole."""

    cut: Cut
    bytes_total: Annotated[int, msgspec.Meta(ge=1, le=SKELETON_BYTES_MAX)]
    crc32: int


class WireRange(NamedTuple):
    """A `PageRange` with the limits of what comes from outside."""

    path: _Path
    first: Annotated[int, msgspec.Meta(ge=0, lt=FILE_BLOCKS_MAX)]
    blocks: Annotated[int, msgspec.Meta(ge=1, le=BLOCKS_MAX)]


class ReadPages(msgspec.Struct, frozen=True, array_like=True):
    """Asks for pages as of any one cut with first <= lsn <= last; `BLOCKS_MAX` in all ranges."""

    branch: BranchName
    first: Lsn
    last: Lsn
    ranges: Annotated[tuple[WireRange, ...], msgspec.Meta(min_length=1, max_length=RANGES_MAX)]


class RangeStatus(IntEnum):
    """What became of one range."""

    OK = 0
    GONE = 1  # the cut has no such file, or the file is shorter
    DAMAGED = 2  # get it from another node


class PagesRead(msgspec.Struct, frozen=True, array_like=True):
    """The payload has the pages of the ranges that are OK, in their order."""

    lsn: Lsn
    """Of the cut."""

    statuses: Annotated[tuple[RangeStatus, ...], msgspec.Meta(max_length=RANGES_MAX)]


class WatchCuts(msgspec.Struct, frozen=True):
    """Asks for the newest cut behind `after`; waits up to `wait_ms` for one."""

    branch: BranchName
    after: Lsn
    wait_ms: _WaitMs = 0


class CutSeen(msgspec.Struct, frozen=True):
    """The newest cut; None: there is none behind that position yet."""

    cut: Cut | None


class ListCuts(msgspec.Struct, frozen=True):
    """Asks for the cuts that are kept, ascending, behind `after`; at most `count` of them."""

    branch: BranchName
    after: Lsn = LSN_FIRST
    count: Annotated[int, msgspec.Meta(ge=1, le=CUTS_LISTED_MAX)] = CUTS_LISTED_MAX


class CutsListed(msgspec.Struct, frozen=True):
    """Some cuts. `is_all`: there is none behind the last of them."""

    cuts: tuple[Cut, ...]
    is_all: bool


class PinCut(msgspec.Struct, frozen=True):
    """Keeps the cut at `lsn` for `lease_s` from now on, and no other one, for `holder`.

    Pins are in the node's memory: holders renew them, more often than the lease is long.
    """

    branch: BranchName
    holder: _Holder
    lsn: Lsn
    lease_s: Annotated[int, msgspec.Meta(ge=1, le=LEASE_S_MAX)]


class UnpinCut(msgspec.Struct, frozen=True):
    """Keeps nothing for `holder` any more. Harmless if nothing was kept."""

    branch: BranchName
    holder: _Holder


class CutSummary(msgspec.Struct, frozen=True):
    """One cut, for a human."""

    seq: int
    lsn: Lsn
    age_s: float


class BranchStatus(msgspec.Struct, frozen=True):
    """One branch on one node."""

    branch: BranchName
    state: str
    cuts: int
    oldest: CutSummary | None
    newest: CutSummary | None
    lag_bytes: int | None
    lag_s: float | None
    complaint: str
    size_bytes: int
    """What it takes on the disk, about: a table file of several branches is divided evenly."""

    pins: int
    oldest_pin: Lsn | None


class NodeStatus(msgspec.Struct, frozen=True):
    """One node."""

    node: NodeName
    branches: tuple[BranchStatus, ...]


DESCRIBE_CUT: Final = Method("storage.describe_cut", DescribeCut, SkeletonPart)
READ_PAGES: Final = Method("storage.read_pages", ReadPages, PagesRead)
WATCH_CUTS: Final = Method("storage.watch_cuts", WatchCuts, CutSeen)
LIST_CUTS: Final = Method("storage.list_cuts", ListCuts, CutsListed)
PIN_CUT: Final = Method("storage.pin_cut", PinCut, Done)
UNPIN_CUT: Final = Method("storage.unpin_cut", UnpinCut, Done)
STATUS: Final = Method("storage.status", Nothing, NodeStatus)


def range_problem(wanted: PageRange) -> str:
    """Say why no data file has such a range; an empty string if one may have it."""
    path, first, blocks = wanted
    if len(path) > PATH_CHARACTERS_MAX or not is_data_file(path):
        return f"{path[:PATH_CHARACTERS_MAX]!r} is no data file; ask for those of the cut only"
    if first < 0 or blocks < 1 or first + blocks > FILE_BLOCKS_MAX:
        return f"{path} cannot have the blocks {first} to {first + blocks - 1}; fix the caller"
    return ""


# --- The skeleton ---------------------------------------------------------------------------------


class SkeletonError(Exception):
    """What came is no skeleton, or it is too large to be sent."""


class _Skeleton(msgspec.Struct, frozen=True, array_like=True):
    files: list[tuple[str, Annotated[int, msgspec.Meta(ge=0, le=FILE_BLOCKS_MAX)]]]
    small_files: dict[str, bytes]
    directories: list[str]


def encode_skeleton(
    files: Iterable[tuple[str, int]],
    small_files: Mapping[str, bytes],
    directories: Sequence[str],
) -> bytes:
    """Return the skeleton of a cut; `files` are paths with their blocks."""
    raw = _ENCODER.encode(_Skeleton(list(files), dict(small_files), list(directories)))
    encoded = bytes([SKELETON_VERSION]) + zlib.compress(raw, 1)
    if len(raw) > SKELETON_RAW_BYTES_MAX or len(encoded) > SKELETON_BYTES_MAX:
        raise SkeletonError(
            f"the skeleton of the cut has {len(raw)} bytes, more than a compute takes "
            f"({SKELETON_RAW_BYTES_MAX}): end old prepared transactions, or drop relations"
        )
    return encoded


def decode_skeleton(data: bytes | memoryview) -> CutDescription:
    """Return what the skeleton says. A path that is not a cut's is refused: it becomes a file."""
    if not data or data[0] != SKELETON_VERSION:
        raise SkeletonError("the skeleton is of another version: upgrade the older side")
    try:
        unpacker = zlib.decompressobj()
        raw = unpacker.decompress(data[1:], SKELETON_RAW_BYTES_MAX)
        if not unpacker.eof:
            raise SkeletonError("the skeleton is cut off, or larger than any could be")
        skeleton = _DECODER.decode(raw)
    except (zlib.error, msgspec.DecodeError) as error:
        raise SkeletonError(f"the skeleton is damaged: {error}") from error
    for path, _ in skeleton.files:
        if not is_data_file(path):
            raise SkeletonError(f"the skeleton has {path[:200]!r}, which is no data file")
    for path in skeleton.small_files:
        if not is_small_file(path):
            raise SkeletonError(f"the skeleton has {path[:200]!r}, which does not travel")
    for path in skeleton.directories:
        if not _is_inside(path):
            raise SkeletonError(f"the skeleton has the directory {path[:200]!r}")
    return CutDescription(
        files=[DataFile(path, blocks) for path, blocks in skeleton.files],
        small_files=skeleton.small_files,
        directories=skeleton.directories,
    )


def _is_inside(path: str) -> bool:
    """Whether a directory lies inside the data directory, whatever its name is made of."""
    parts = path.split("/")
    return len(path) <= PATH_CHARACTERS_MAX and "\0" not in path and not {"", ".", ".."} & {*parts}


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Skeleton)
