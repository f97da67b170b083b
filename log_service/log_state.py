"""The two small files of a log: `state`, which changes with each vote, and `start`.

`state` holds the member id, the hard state of Raft and what recovery must know of the log. It is
two copies of one sector, written one after the other, each made durable before the next is
touched. A crash can spoil the copy being written, never both; and since a save returns only after
both are durable, the copy that is left is the saved state or the one before a save that never
returned. It is never a vote older than one that was sent. No space is allocated, so a full disk
cannot stop an election.

`start` holds what the log starts from: an index, its term, and the group's state there. It is
written anew and renamed.
"""

import os
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Final

from .disk_errors import CorruptLogError
from .disk_files import LogDirectory, OpenFile
from .segment import CRC, Buffer

VERSION: Final = 1
STATE_NAME: Final = "state"
START_NAME: Final = "start"
START_STATE_BYTES_MAX: Final = 64 * 1024 * 1024  # timeline histories, members, pins: kilobytes

_COPY_OFFSETS: Final = (0, 4096)  # in different pages, hence in different sectors
STATE_FILE_BYTES: Final = 8192
# magic, crc, version | sequence, member, term, vote, generation, cut_index, durable_index
_STATE: Final = struct.Struct(">8sII7Q")
_STATE_MAGIC: Final = b"SWLOGHST"
# magic, crc, version | member, index, term, generation, state_bytes
_START: Final = struct.Struct(">8sII5Q")
_START_MAGIC: Final = b"SWLOGBEG"
_CRC_AT: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStart:
    """What the log starts from: the last entry that is no longer in it, and the state there."""

    index: int
    term: int
    state: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStart:
    """A start as it is on disk: nothing of a generation below `generation` is in the log."""

    start: LogStart
    member: int
    generation: int

    def encode(self) -> bytes:
        """Return the content of the file."""
        start = self.start
        numbers = (self.member, start.index, start.term, self.generation, len(start.state))
        return _with_crc(_START.pack(_START_MAGIC, 0, VERSION, *numbers) + start.state)

    @classmethod
    def decode(cls, data: Buffer) -> "SavedStart | None":
        """Read the content of the file; None if it is damaged."""
        if not _is_sound(data, _START.size, _START_MAGIC):
            return None
        _, _, version, member, index, term, generation, state_bytes = _START.unpack_from(data)
        state = bytes(data[_START.size :])
        if version != VERSION or len(state) != state_bytes:
            return None
        start = LogStart(index=index, term=term, state=state)
        return cls(start=start, member=member, generation=generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """The content of `state`."""

    member: int
    term: int = 0
    vote: int = 0
    # Entries from `cut_index` on belong to the log only if their drain is of this generation.
    generation: int = 0
    cut_index: int = 0
    durable_index: int = 0  # entries up to here are on disk; the log may know of later ones

    def after_reset(self, saved: SavedStart) -> "LogState":
        """Return this state, or that of the log which a newer start began anew."""
        if self.generation >= saved.generation:
            return self
        index = saved.start.index
        return replace(self, generation=saved.generation, cut_index=index + 1, durable_index=index)

    def encode(self, sequence: int) -> bytes:
        """Return one copy."""
        raft = (self.member, self.term, self.vote)
        log = (self.generation, self.cut_index, self.durable_index)
        return _with_crc(_STATE.pack(_STATE_MAGIC, 0, VERSION, sequence, *raft, *log))

    @classmethod
    def decode(cls, data: Buffer) -> "tuple[int, LogState] | None":
        """Read one copy with its sequence number; None if it is damaged."""
        if not _is_sound(data, _STATE.size, _STATE_MAGIC):
            return None
        _, _, version, sequence, member, term, vote, *log = _STATE.unpack(data)
        if version != VERSION:
            return None
        generation, cut_index, durable_index = log
        return sequence, cls(
            member=member,
            term=term,
            vote=vote,
            generation=generation,
            cut_index=cut_index,
            durable_index=durable_index,
        )


class StateFile:
    """The file `state`, open for good."""

    __slots__ = ("_file", "_sequence", "saved")

    def __init__(self, directory: LogDirectory, *, is_writable: bool = True) -> None:
        self._file = directory.open(STATE_NAME, os.O_RDWR if is_writable else os.O_RDONLY)
        self._sequence, self.saved = _read_state(self._file)

    @staticmethod
    def create(directory: LogDirectory, state: LogState) -> None:
        """Make the file: from now on the directory holds a log."""
        copy = state.encode(1).ljust(_COPY_OFFSETS[1], b"\0")
        directory.replace(STATE_NAME, copy * len(_COPY_OFFSETS))

    def save(self, state: LogState) -> None:
        """Make the state durable."""
        assert state.member == self.saved.member, "a log belongs to one member for ever"
        self._sequence += 1
        copy = state.encode(self._sequence)
        for offset in _COPY_OFFSETS:
            self._file.write([copy], offset)
            self._file.sync_data()
        self.saved = state


def read_start(directory: LogDirectory) -> SavedStart:
    """Read what the log starts from."""
    file = directory.open_to_read(START_NAME)
    size_bytes = file.size_bytes
    is_possible = size_bytes <= _START.size + START_STATE_BYTES_MAX
    saved = SavedStart.decode(file.read(size_bytes, 0)) if is_possible else None
    if saved is None:
        raise CorruptLogError.at(file.path, 0, "the start of the log is damaged")
    return saved


def save_start(directory: LogDirectory, saved: SavedStart) -> None:
    """Make a new start durable."""
    if len(saved.start.state) > START_STATE_BYTES_MAX:
        raise ValueError(f"the state of a group exceeds {START_STATE_BYTES_MAX} bytes")
    directory.replace(START_NAME, saved.encode())


def _read_state(file: OpenFile) -> tuple[int, LogState]:
    """Return the newest sound copy and its sequence number."""
    copies = [LogState.decode(file.read(_STATE.size, offset)) for offset in _COPY_OFFSETS]
    sound = [copy for copy in copies if copy is not None]
    if not sound:
        raise CorruptLogError.at(file.path, 0, "both copies of the state are damaged")
    return max(sound, key=lambda copy: copy[0])


def _with_crc(packed: bytes) -> bytes:
    rest = packed[_CRC_AT + CRC.size :]
    return packed[:_CRC_AT] + CRC.pack(zlib.crc32(rest)) + rest


def _is_sound(data: Buffer, size_bytes: int, magic: bytes) -> bool:
    if len(data) < size_bytes or data[:_CRC_AT] != magic:
        return False
    rest = memoryview(data)[_CRC_AT + CRC.size :]
    crc: int = CRC.unpack_from(data, _CRC_AT)[0]
    return crc == zlib.crc32(rest)
