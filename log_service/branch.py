"""The state that a branch's log describes, and the rules that every entry must keep. No I/O.

    branch.apply(record)       the entry is in the log: take it, or refuse it (FenceError)

There are two of these on a leader. The tail has taken every entry of the log, and refuses what must
not be proposed; the committed one follows the commit index, and is what computes and storage see.
Both are the same function of the log, so every node comes to the same state.

The rules, each of which keeps an acknowledged commit safe:

- WAL continues: an entry begins where the one before it ended, on the same timeline.
- An epoch is one more than the one before. Only its holder's WAL is taken: an entry of WAL belongs
  to the epoch that its place in the log is in, and the leader asks `verify_epoch` before it
  appends any.
- A timeline number grows and is never used again; its history continues the known one; it forks
  at or before the end of WAL, at or after the fork before it. What was behind the fork is dead.
- WAL is trimmed only up to what is committed and what nobody has pinned.
- Notes are few and small: they are in the state, which travels whole.
"""

from dataclasses import dataclass
from typing import Final, Self

import msgspec

from fabric.codec import decode_hook, encode_hook
from fabric.ids import Epoch, SystemIdentifier
from fabric.lsn import Lsn, Tli, checked_segment_bytes

from .history import HistoryConflictError, HistoryError, TimelineHistory, parse_history
from .record import Kind, Record
from .record_bodies import (
    NOTES_BYTES_MAX,
    NOTES_MAX,
    PINS_MAX,
    EpochBody,
    Genesis,
    Holder,
    MemberInfo,
    Members,
    Note,
    Pin,
    Timeline,
    Trim,
    decode_body,
)

HISTORY_FILES_MAX: Final = 10_000


class FenceError(Exception):
    """An entry must not be in this log: the sentence says which rule it breaks."""


@dataclass(slots=True)
class Branch:
    """Invariant: `start` <= `end`; `history` is that of the timeline that `end` is on."""

    members: tuple[MemberInfo, ...] = ()
    genesis: Genesis | None = None
    epoch: Epoch = Epoch(0)  # noqa: RUF009  # an immutable value
    epoch_start: Lsn = Lsn(0)  # noqa: RUF009  # an immutable value
    holder: Holder | None = None
    history: TimelineHistory = TimelineHistory(Tli(1))  # noqa: RUF009  # an immutable value
    history_files: dict[Tli, bytes] | None = None
    start: Lsn = Lsn(0)  # noqa: RUF009  # an immutable value
    end: Lsn = Lsn(0)  # noqa: RUF009  # an immutable value
    pins: dict[str, Lsn] | None = None
    notes: dict[str, bytes] | None = None

    @property
    def tli(self) -> Tli:
        """The timeline that WAL is on."""
        return self.history.tli

    @property
    def system_identifier(self) -> SystemIdentifier:
        """Whose WAL it is; only a branch with a genesis has one."""
        assert self.genesis is not None
        return self.genesis.system_identifier

    def copy(self) -> Self:
        """Return a state that goes its own way."""
        return type(self)(
            members=self.members,
            genesis=self.genesis,
            epoch=self.epoch,
            epoch_start=self.epoch_start,
            holder=self.holder,
            history=self.history,
            history_files=dict(self.history_files or {}),
            start=self.start,
            end=self.end,
            pins=dict(self.pins or {}),
            notes=dict(self.notes or {}),
        )

    def verify_epoch(self, epoch: Epoch) -> None:
        """Raise FenceError unless WAL of this epoch may be appended behind the last entry."""
        if epoch != self.epoch:
            raise FenceError(f"epoch {epoch} was superseded by epoch {self.epoch}")

    def apply(self, record: Record) -> None:
        """Take an entry; FenceError, and nothing has changed, if it breaks a rule."""
        match record.kind:
            case Kind.WAL:
                self.verify_wal(record)
                self.end = self.end + len(record.body)
            case Kind.NOOP:
                pass
            case Kind.CONFIG:
                self.members = decode_body(record, Members).members
            case Kind.GENESIS:
                self._genesis(decode_body(record, Genesis))
            case Kind.EPOCH:
                self._epoch(decode_body(record, EpochBody))
            case Kind.TIMELINE:
                self._timeline(decode_body(record, Timeline))
            case Kind.TRIM:
                self._trim(decode_body(record, Trim))
            case Kind.PIN:
                self._pin(decode_body(record, Pin))
            case Kind.NOTE:
                self._note(decode_body(record, Note))

    def verify_wal(self, record: Record) -> None:
        """Raise FenceError unless the record's WAL continues ours."""
        if record.lsn != self.end or record.tli != self.history.tli or self.epoch == 0:
            self._require_genesis()
            if self.epoch == 0:
                raise FenceError("there is no holder yet whose WAL could be taken")
            raise FenceError(
                f"WAL of timeline {record.tli} at {Lsn(record.lsn)} does not continue "
                f"timeline {self.tli:d} at {self.end}"
            )

    def _genesis(self, body: Genesis) -> None:
        if self.genesis is not None:
            raise FenceError(f"this log is that of system {self.system_identifier} already")
        try:
            checked_segment_bytes(body.segment_bytes)
            history = TimelineHistory(body.tli)
            if body.history:
                history = parse_history(body.tli, body.history)
        except ValueError as error:
            raise FenceError(f"this WAL cannot be taken: {error}") from error
        if body.start % body.segment_bytes:
            raise FenceError(f"WAL must begin with a segment, not at {body.start}")
        if body.start < history.start:
            raise FenceError(f"timeline {body.tli:d} began at {history.start}, not {body.start}")
        self.genesis, self.history = body, history
        self.history_files = {body.tli: body.history} if body.history else {}
        self.start = self.end = self.epoch_start = body.start

    def _epoch(self, body: EpochBody) -> None:
        self._require_genesis()
        if body.epoch != self.epoch + 1:
            raise FenceError(f"epoch {body.epoch} cannot follow epoch {self.epoch}")
        self.epoch, self.holder, self.epoch_start = body.epoch, body.holder, self.end

    def _timeline(self, body: Timeline) -> None:
        self._require_genesis()
        try:
            history = parse_history(body.tli, body.history)
            history.verify_extends(self.history)
        except (HistoryError, HistoryConflictError) as error:
            raise FenceError(f"timeline {body.tli:d} cannot be taken: {error}") from error
        if body.tli <= self.tli:
            raise FenceError(f"timeline {body.tli:d} was used before: {self.tli:d} is the newest")
        if history.forks[-1].tli != self.tli:
            raise FenceError(
                f"timeline {body.tli:d} forked off {history.forks[-1].tli:d}, whose WAL is not here"
            )
        if not self.history.start <= history.start <= self.end or history.start < self.start:
            raise FenceError(
                f"timeline {body.tli:d} forked at {history.start}, but WAL of timeline "
                f"{self.tli:d} goes from {max(self.history.start, self.start)} to {self.end}"
            )
        files = self.history_files or {}
        if len(files) >= HISTORY_FILES_MAX:
            raise FenceError(f"this branch has {len(files)} timelines: restore it into a new one")
        self.history, self.history_files = history, {**files, body.tli: body.history}
        self.end = history.start

    def _trim(self, body: Trim) -> None:
        self._require_genesis()
        limit = min([self.end, *(self.pins or {}).values()])
        if not self.start <= body.lsn <= max(limit, self.start):
            raise FenceError(f"WAL can be trimmed from {self.start} up to {limit}, not {body.lsn}")
        self.start = body.lsn

    def _pin(self, body: Pin) -> None:
        self._require_genesis()
        pins = {name: lsn for name, lsn in (self.pins or {}).items() if name != body.name}
        if body.lsn is not None:
            if body.lsn < self.start:
                raise FenceError(f"WAL at {body.lsn} is gone: it begins at {self.start}")
            if len(pins) >= PINS_MAX:
                raise FenceError(f"there are {PINS_MAX} pins already: release one")
            pins[body.name] = body.lsn
        self.pins = pins

    def _note(self, body: Note) -> None:
        self._require_genesis()
        notes = {name: content for name, content in (self.notes or {}).items() if name != body.name}
        if body.content is not None:
            notes[body.name] = body.content
            if len(notes) > NOTES_MAX:
                raise FenceError(f"there are {NOTES_MAX} notes already: remove one")
            if sum(map(len, notes.values())) > NOTES_BYTES_MAX:
                raise FenceError(f"the notes of a branch have {NOTES_BYTES_MAX} bytes at most")
        self.notes = notes

    def _require_genesis(self) -> None:
        if self.genesis is None:
            raise FenceError("this log does not know whose WAL it is for")


class _Saved(msgspec.Struct, frozen=True):
    """A branch as it stands at the start of a trimmed log, and travels to who lags behind that."""

    members: tuple[MemberInfo, ...]
    genesis: Genesis | None
    epoch: Epoch
    epoch_start: Lsn
    holder: Holder | None
    tli: Tli
    history: bytes
    history_files: dict[int, bytes]
    start: Lsn
    end: Lsn
    pins: dict[str, Lsn]
    notes: dict[str, bytes] = {}  # older states have none


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_DECODER: Final = msgspec.msgpack.Decoder(_Saved, dec_hook=decode_hook)


def encode_branch(branch: Branch) -> bytes:
    """Return the state as bytes."""
    return _ENCODER.encode(
        _Saved(
            members=branch.members,
            genesis=branch.genesis,
            epoch=branch.epoch,
            epoch_start=branch.epoch_start,
            holder=branch.holder,
            tli=branch.tli,
            history=branch.history.file,
            history_files={int(tli): file for tli, file in (branch.history_files or {}).items()},
            start=branch.start,
            end=branch.end,
            pins=branch.pins or {},
            notes=branch.notes or {},
        )
    )


def decode_branch(data: bytes) -> Branch:
    """Read a state; FenceError if it is none. No bytes: the state before the first entry."""
    if not data:
        return Branch()
    try:
        saved = _DECODER.decode(data)
        history = TimelineHistory(saved.tli)
        if saved.history:
            history = parse_history(saved.tli, saved.history)
        files = {Tli(tli): file for tli, file in saved.history_files.items()}
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise FenceError(f"the saved state of a branch is damaged: {error}") from error
    return Branch(
        members=saved.members,
        genesis=saved.genesis,
        epoch=saved.epoch,
        epoch_start=saved.epoch_start,
        holder=saved.holder,
        history=history,
        history_files=files,
        start=saved.start,
        end=saved.end,
        pins=saved.pins,
        notes=saved.notes,
    )
