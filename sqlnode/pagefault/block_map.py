"""The agent's view of the block map (docs/formats/block_map.md), through the library's own code.

The rules of the shared bytes are written once, in C; this module declares the functions of
`agent_api.h` to ctypes and gives them Python's types. Calls are short and never wait, so they keep
the interpreter lock (`PyDLL`), which makes a call cost about half a microsecond.
"""

import ctypes
import os
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Final, NamedTuple, Self

LIBRARY_PATH: Final = Path(__file__).with_name("libpagefault.so")
BLOCK_BYTES: Final = 8192
FILE_BLOCKS_MAX: Final = 131072
DROP_BLOCKS_MAX: Final = 128  # of one call: a millisecond at most
LOW_NONE: Final = 0xFFFFFFFF
SOCKET_PATH_BYTES_MAX: Final = 106

# slot, generation, first, count, fd, status, relation_block, bad_block, padding (agent_api.h)
INSTALL_ITEM: Final = struct.Struct("=IIIIiIqII")

Pages = bytes | bytearray | memoryview

# SLRU directories whose pages travel. pg_subtrans need not: it is rebuilt empty at every start.
SLRU_DIRS: Final = ("pg_xact", "pg_multixact/offsets", "pg_multixact/members", "pg_commit_ts")


class BlockState(IntFlag):
    """Bits of a block's byte."""

    MISSING = 1
    BUSY = 2
    DIRTY = 4
    TAKEN = 8
    WAITED = 16
    DROPPING = 32
    USED = 64


class SlotState(IntEnum):
    """What a slot of the table stands for."""

    FREE = 0
    LIVE = 1
    REMOVED = 2


class BlockMapError(Exception):
    """The map cannot be made, opened or extended; the sentence says what to do."""


class _Options(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("slots_max", ctypes.c_uint32),
        ("link_wait_ms", ctypes.c_uint32),
        ("reply_wait_ms", ctypes.c_uint32),
        ("busy_wait_ms", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("system_identifier", ctypes.c_uint64),
        ("data_dir", ctypes.c_char_p),
        ("socket_path", ctypes.c_char_p),
        ("slru_dirs", ctypes.c_char_p),
    ]


class _SlotInfo(ctypes.Structure):
    _fields_ = [
        ("slot", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("state", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("missing", ctypes.c_uint32),
        ("dirty", ctypes.c_uint32),
        ("taken", ctypes.c_uint32),
        ("low", ctypes.c_uint32),
        ("taken_low", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("path", ctypes.c_char * 112),
    ]


class _DropOrder(ctypes.Structure):
    _fields_ = [
        ("slot", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("first", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("relation_block", ctypes.c_int64),
        ("lsn_min", ctypes.c_uint64),
        ("lsn_max", ctypes.c_uint64),
        ("fd", ctypes.c_int32),
        ("dropped", ctypes.c_uint32),
        ("used", ctypes.c_uint32),
        ("newer", ctypes.c_uint32),
        ("error", ctypes.c_int32),
        ("padding", ctypes.c_uint32),
    ]


class _Header(ctypes.Structure):
    _fields_ = [
        ("magic", ctypes.c_char * 8),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("slots_max", ctypes.c_uint32),
        ("buckets", ctypes.c_uint32),
        ("slot_bytes", ctypes.c_uint32),
        ("inline_blocks", ctypes.c_uint32),
        ("block_bytes", ctypes.c_uint32),
        ("file_blocks_max", ctypes.c_uint32),
        ("link_wait_ms", ctypes.c_uint32),
        ("reply_wait_ms", ctypes.c_uint32),
        ("busy_wait_ms", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
        ("system_identifier", ctypes.c_uint64),
        ("buckets_at", ctypes.c_uint64),
        ("slots_at", ctypes.c_uint64),
        ("bytes_at", ctypes.c_uint64),
        ("map_bytes", ctypes.c_uint64),
        ("data_dir", ctypes.c_char * 1024),
        ("socket_path", ctypes.c_char * 108),
    ]


_U32 = ctypes.c_uint32
_MAP = ctypes.c_void_p
_SIGNATURES: Final[dict[str, tuple[object, list[object]]]] = {
    "map_create": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(_Options)]),
    "map_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
    "map_close": (None, [_MAP]),
    "header": (ctypes.POINTER(_Header), [_MAP]),
    "add_file": (ctypes.c_int, [_MAP, ctypes.c_char_p, _U32]),
    "tracks": (ctypes.c_bool, [_MAP, ctypes.c_char_p]),
    "find": (ctypes.c_bool, [_MAP, ctypes.c_char_p, ctypes.POINTER(_U32)]),
    "slots_used": (_U32, [_MAP]),
    "slot": (ctypes.c_bool, [_MAP, _U32, ctypes.POINTER(_SlotInfo)]),
    "generation": (_U32, [_MAP, _U32]),
    "state": (ctypes.c_uint8, [_MAP, _U32, _U32]),
    "adopt": (_U32, [_MAP, _U32, _U32, _U32, ctypes.POINTER(_U32)]),
    "verify_pages": (_U32, [ctypes.c_void_p, _U32, _U32]),
    "install": (None, [_MAP, ctypes.c_void_p, _U32, ctypes.c_void_p]),
    "publish": (None, [_MAP, _U32, _U32, _U32, _U32]),
    "release": (None, [_MAP, _U32, _U32, _U32, _U32]),
    "release_all": (_U32, [_MAP]),
    "next_missing": (_U32, [_MAP, _U32, _U32, _U32, ctypes.POINTER(_U32)]),
    "next_used": (_U32, [_MAP, _U32, _U32, _U32, ctypes.POINTER(_U32)]),
    "drop": (None, [_MAP, ctypes.POINTER(_DropOrder)]),
    "next_changed": (_U32, [_MAP, _U32]),
    "take": (_U32, [_MAP, _U32, ctypes.POINTER(_U32)]),
    "keep_dirty": (ctypes.c_int, [_MAP, _U32, _U32]),
    "commit": (None, [_MAP, _U32]),
    "undo": (None, [_MAP, _U32]),
    "forget_removed": (None, [_MAP, _U32]),
    "counters": (None, [_MAP, ctypes.POINTER(ctypes.c_uint64)]),
    "counter_names": (ctypes.c_char_p, []),
}


def _load() -> ctypes.PyDLL:
    try:
        library = ctypes.PyDLL(str(LIBRARY_PATH))
    except OSError as error:
        raise BlockMapError(
            f"{LIBRARY_PATH} cannot be loaded ({error}); "
            "install the package again, with a C compiler"
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"pagefault_{name}")
        function.restype, function.argtypes = result, arguments
    return library


_library = _load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long a process of postgres waits before its read or write fails with EIO."""

    link_ms: int = 10_000  # for an agent that does not listen; a restarted one is back in a second
    reply_ms: int = 60_000  # for an answer: as long as the agent keeps looking for a source
    busy_ms: int = 1_000  # for somebody else's claim, before it asks itself


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions:
    """What is fixed when a map is made."""

    data_dir: Path
    socket_path: Path
    system_identifier: int
    tracks_changes: bool = True  # somebody harvests: remember removed files until then
    slots_max: int = 1 << 18  # files; 68 bytes of disk each until used, 256 then
    slru_dirs: tuple[str, ...] = SLRU_DIRS
    link_wait_ms: int = 10_000  # see Waits
    reply_wait_ms: int = 60_000
    busy_wait_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class Slot:
    """One file of the table."""

    number: int
    generation: int
    state: SlotState
    path: str
    missing: int
    dirty: int
    taken: int
    is_new: bool  # created since the last harvest
    low: int | None  # the lowest length in blocks since then
    taken_is_new: bool  # the same two of the harvest that is under way
    taken_low: int | None

    @property
    def is_live(self) -> bool:
        """Whether the file exists; an odd generation says that it is being removed right now."""
        return self.state is SlotState.LIVE and self.generation % 2 == 0


class LsnRange(NamedTuple):
    """The Lsns that a page may have to be dropped, both included."""

    first: int
    last: int


class Dropped(NamedTuple):
    """What became of the blocks that somebody wanted out of their file."""

    dropped: int = 0
    used: int = 0  # stay, because they were used since the last look
    newer: int = 0  # stay, because storage may not have this page
    error: int = 0  # an errno: the file system cannot make holes

    def plus(self, other: "Dropped") -> "Dropped":
        """Both together."""
        return Dropped(
            self.dropped + other.dropped,
            self.used + other.used,
            self.newer + other.newer,
            self.error or other.error,
        )


def create_block_map(path: Path, options: MapOptions) -> None:
    """Make an empty map; `path` must not exist yet."""
    if len(os.fsencode(options.socket_path)) > SOCKET_PATH_BYTES_MAX:
        raise BlockMapError(
            f"the socket path {options.socket_path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; "
            "use a run directory with a shorter name"
        )
    packed = _Options(
        flags=int(options.tracks_changes),
        slots_max=options.slots_max,
        link_wait_ms=options.link_wait_ms,
        reply_wait_ms=options.reply_wait_ms,
        busy_wait_ms=options.busy_wait_ms,
        system_identifier=options.system_identifier,
        data_dir=os.fsencode(options.data_dir),
        socket_path=os.fsencode(options.socket_path),
        slru_dirs=",".join(options.slru_dirs).encode(),
    )
    error = _library.pagefault_map_create(os.fsencode(path), ctypes.byref(packed))
    if error:
        raise BlockMapError(f"block map {path} cannot be made: {os.strerror(error)}")


def verify_pages(pages: Pages, *, first_block: int) -> int | None:
    """Check PostgreSQL's data checksums; the index of the first damaged page, or None.

    `first_block` counts inside the relation, not inside the 1 GiB segment.
    """
    count, rest = divmod(len(pages), BLOCK_BYTES)
    assert rest == 0
    if isinstance(pages, memoryview) and pages.readonly:
        pages = bytes(pages)
    bad: int = _library.pagefault_verify_pages(_address(pages), count, first_block)
    return bad if bad < count else None


def _address(pages: Pages) -> int | None:
    """Where the bytes are; no copy is made."""
    if isinstance(pages, bytes):
        return ctypes.cast(ctypes.c_char_p(pages), ctypes.c_void_p).value
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


class BlockMap:
    """An open map. Not thread-safe: one event loop owns it."""

    def __init__(self, path: Path) -> None:
        error = ctypes.create_string_buffer(1200)
        self._map = _library.pagefault_map_open(os.fsencode(path), error, len(error))
        if not self._map:
            raise BlockMapError(error.value.decode(errors="replace"))
        self._header = _library.pagefault_header(self._map).contents
        self._scratch = _U32()
        self._scratch_pointer = ctypes.byref(self._scratch)

    def close(self) -> None:
        """Unmap; calls afterwards are a bug."""
        if self._map:
            _library.pagefault_map_close(self._map)
            self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What the map was made for.

    @property
    def system_identifier(self) -> int:
        """Of the cluster whose blocks these are."""
        return int(self._header.system_identifier)

    @property
    def data_dir(self) -> Path:
        """The data directory whose blocks these are."""
        return Path(os.fsdecode(self._header.data_dir))

    @property
    def socket_path(self) -> Path:
        """Where the agent listens."""
        return Path(os.fsdecode(self._header.socket_path))

    # Files.

    def add_file(self, path: str, *, missing_blocks: int) -> None:
        """Add a file before postgres starts; its first blocks are MISSING, the rest is local."""
        error = _library.pagefault_add_file(self._map, path.encode(), missing_blocks)
        if error:
            raise BlockMapError(f"the block map cannot take {path}: {os.strerror(error)}")

    def tracks(self, path: str) -> bool:
        """Whether `path`, relative to the data directory, is a data file of the map."""
        return bool(_library.pagefault_tracks(self._map, path.encode()))

    def find(self, path: str) -> Slot | None:
        """The slot of a file that exists."""
        if not _library.pagefault_find(self._map, path.encode(), self._scratch_pointer):
            return None
        return self.slot(self._scratch.value)

    def slots_used(self) -> int:
        """Slot numbers are below it."""
        return int(_library.pagefault_slots_used(self._map))

    def slot(self, number: int) -> Slot | None:
        """A slot's facts, read one after the other while others may change them."""
        info = _SlotInfo()
        if not _library.pagefault_slot(self._map, number, ctypes.byref(info)):
            return None
        if info.state > max(SlotState):
            raise BlockMapError(
                f"the block map of {self.data_dir} is damaged (slot {number}: state {info.state}); "
                "rebuild the data directory"
            )
        return Slot(
            number=number,
            generation=info.generation,
            state=SlotState(info.state),
            path=os.fsdecode(info.path),
            missing=info.missing,
            dirty=info.dirty,
            taken=info.taken,
            is_new=bool(info.flags & 1),
            low=None if info.low == LOW_NONE else info.low,
            taken_is_new=bool(info.flags & 1 << 8),
            taken_low=None if info.taken_low == LOW_NONE else info.taken_low,
        )

    def slots(self) -> list[Slot]:
        """All slots that stand for something."""
        found = (self.slot(number) for number in range(self.slots_used()))
        return [slot for slot in found if slot is not None and slot.state is not SlotState.FREE]

    # Faults.

    def generation(self, number: int) -> int:
        """Changes when the slot gets another file; odd while its file is being removed."""
        return int(_library.pagefault_generation(self._map, number))

    def state(self, number: int, block: int) -> BlockState:
        """The byte of a block."""
        return BlockState(_library.pagefault_state(self._map, number, block))

    def adopt(self, number: int, first: int, count: int) -> tuple[int, int]:
        """Claim for the agent what is still MISSING: (blocks skipped, length of the run behind)."""
        run = _library.pagefault_adopt(self._map, number, first, count, self._scratch_pointer)
        return self._scratch.value, run

    def install(self, items: bytearray, pages: Pages) -> None:
        """Check, write and publish fetched pages; `INSTALL_ITEM`s in, their statuses out."""
        address = ctypes.addressof(ctypes.c_char.from_buffer(items))
        count = len(items) // INSTALL_ITEM.size
        _library.pagefault_install(self._map, address, count, _address(pages))

    def publish(self, number: int, generation: int, first: int, count: int) -> None:
        """The pages are in the file: let readers go on."""
        _library.pagefault_publish(self._map, number, generation, first, count)

    def release(self, number: int, generation: int, first: int, count: int) -> None:
        """The pages will not come: MISSING again, whoever wants them has to ask again."""
        _library.pagefault_release(self._map, number, generation, first, count)

    def release_all(self) -> int:
        """Undo every claim that a dead agent left; returns their number."""
        return int(_library.pagefault_release_all(self._map))

    def next_missing(self, number: int, start: int, count_max: int) -> tuple[int, int] | None:
        """The next run (first, count) of blocks that are MISSING and that nobody has claimed."""
        return self._run("next_missing", number, start, count_max)

    def next_used(self, number: int, start: int, count_max: int) -> tuple[int, int] | None:
        """The next run of blocks that postgres read since somebody made room."""
        return self._run("next_used", number, start, count_max)

    def _run(self, name: str, number: int, start: int, most: int) -> tuple[int, int] | None:
        ask = getattr(_library, f"pagefault_{name}")
        count = ask(self._map, number, start, most, self._scratch_pointer)
        return (self._scratch.value, count) if count else None

    # Making room: see pagefault/drop.c, and sqlnode.broker, which is the one caller.

    def drop(
        self, slot: Slot, first: int, count: int, *, descriptor: int, relation_block: int,
        lsns: LsnRange,
    ) -> Dropped:  # fmt: skip
        """Make holes of blocks that are here and were not used lately, if storage has their pages.

        At most `DROP_BLOCKS_MAX`. `lsns` are those of pages that storage has. No fetch of these
        blocks may be under way: its page would be older than what was dropped.
        """
        order = _DropOrder(
            slot=slot.number,
            generation=slot.generation,
            first=first,
            count=count,
            relation_block=relation_block,
            lsn_min=lsns.first,
            lsn_max=lsns.last,
            fd=descriptor,
        )
        _library.pagefault_drop(self._map, ctypes.byref(order))
        return Dropped(order.dropped, order.used, order.newer, order.error)

    # Harvest: see sqlnode.harvest, which is the one caller.

    def next_changed(self, start: int) -> int | None:
        """The first slot number from `start` on that has something to harvest."""
        number: int = _library.pagefault_next_changed(self._map, start)
        return number if number < self.slots_used() else None

    def take(self, number: int) -> list[int]:
        """Set a slot's changes aside; its changed blocks."""
        blocks = (_U32 * FILE_BLOCKS_MAX)()
        count = _library.pagefault_take(self._map, number, blocks)
        return blocks[:count]

    def keep_dirty(self, number: int, block: int) -> None:
        """A block that was taken is one of the next harvest too."""
        error = _library.pagefault_keep_dirty(self._map, number, block)
        if error:
            raise BlockMapError(f"the block map cannot grow: {os.strerror(error)}")

    def commit(self, number: int) -> None:
        """Storage has what was taken."""
        _library.pagefault_commit(self._map, number)

    def undo(self, number: int) -> None:
        """Storage has it not: it counts as changed again."""
        _library.pagefault_undo(self._map, number)

    def forget_removed(self, number: int) -> None:
        """Storage knows of the removal: the slot is free."""
        _library.pagefault_forget_removed(self._map, number)

    # Statistics.

    def counters(self) -> dict[str, int]:
        """The statistics page."""
        names = _library.pagefault_counter_names().decode().split()
        values = (ctypes.c_uint64 * len(names))()
        _library.pagefault_counters(self._map, values)
        return dict(zip(names, values, strict=True))
