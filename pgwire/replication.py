"""Physical replication: the commands of its client, and the stream inside COPY-both.

A client starts a connection with `replication=true`, sends commands as Query, and after
StartReplication both sides send CopyData: XLogData and Keepalive from the server, StatusUpdate and
HotStandbyFeedback from the client.

    decode_copy_data(body)                 what is in a CopyData frame; WAL stays where it is
    [encode_xlog_data_header(...), wal]    a frame to be written without copying the WAL
    parse_command(text), format_command(command)

This is the hot path of every commit: a message is one unpack, its WAL a view of the frame's body
and valid as long as that. Times are microseconds since 2000-01-01, as PostgreSQL counts them.

Logical replication, BASE_BACKUP and SQL are refused with a sentence that says so.
"""

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from fabric.lsn import Lsn, Tli

from .command_text import CommandText
from .errors import CommandError, ProtocolError
from .frames import LENGTH_BYTES, Buffer

UNIX_TIME_OF_2000_S: Final = 946_684_800

_XLOG_DATA: Final = struct.Struct(">BQQq")  # tag, start, end, sent
_KEEPALIVE: Final = struct.Struct(">BQqB")  # tag, end, sent, reply requested
_STATUS_UPDATE: Final = struct.Struct(">BQQQqB")  # tag, write, flush, apply, sent, reply requested
_FEEDBACK: Final = struct.Struct(">BqIIII")  # tag, sent, xmin, its epoch, catalog xmin, its epoch

# The same behind the header of a CopyData frame: kind, length.
_XLOG_DATA_FRAME: Final = struct.Struct(">BIBQQq")
_KEEPALIVE_FRAME: Final = struct.Struct(">BIBQqB")
_STATUS_UPDATE_FRAME: Final = struct.Struct(">BIBQQQqB")
_FEEDBACK_FRAME: Final = struct.Struct(">BIBqIIII")

_COPY_DATA: Final = ord("d")
_XLOG_DATA_TAG: Final = ord("w")
_KEEPALIVE_TAG: Final = ord("k")
_STATUS_UPDATE_TAG: Final = ord("r")
_FEEDBACK_TAG: Final = ord("h")

# What XLogData has besides WAL: a frame may be this much longer than the WAL in it.
XLOG_DATA_HEADER_BYTES: Final = _XLOG_DATA.size  # 25

_SLOT_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")
_SETTING_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$.]{0,127}", re.ASCII)
_BOOLEANS: Final = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class XLogData:
    """WAL from `start` on; `end` is how far the server's own WAL goes."""

    start: Lsn
    end: Lsn
    sent_us: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server is there; it may want a StatusUpdate at once."""

    end: Lsn
    sent_us: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """How far the client has written, flushed and applied; it may want a Keepalive at once."""

    write: Lsn
    flush: Lsn
    apply: Lsn
    sent_us: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class HotStandbyFeedback:
    """The oldest transaction that the standby's queries still need; 0: none."""

    sent_us: int
    xmin: int
    xmin_epoch: int
    catalog_xmin: int
    catalog_xmin_epoch: int


StreamMessage: TypeAlias = XLogData | Keepalive | StatusUpdate | HotStandbyFeedback


@dataclass(frozen=True, slots=True)
class IdentifySystem:
    """Whose WAL is this, and how far does it go?"""


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """Send the history file of a timeline."""

    tli: Tli


@dataclass(frozen=True, slots=True)
class StartReplication:
    """Stream from a position on."""

    slot: str | None
    lsn: Lsn
    tli: Tli | None = None  # None: the server's own


@dataclass(frozen=True, slots=True)
class CreateReplicationSlot:
    """Make a physical slot; `reserve_wal` keeps WAL from now on, not from the first use on."""

    name: str
    temporary: bool = False
    reserve_wal: bool = False


@dataclass(frozen=True, slots=True)
class ReadReplicationSlot:
    """Tell the state of a slot."""

    name: str


@dataclass(frozen=True, slots=True)
class DropReplicationSlot:
    """Forget a slot, if necessary when its user has gone."""

    name: str
    wait: bool = False


@dataclass(frozen=True, slots=True)
class Show:
    """Tell a setting."""

    name: str


Command: TypeAlias = (
    IdentifySystem
    | TimelineHistory
    | StartReplication
    | CreateReplicationSlot
    | ReadReplicationSlot
    | DropReplicationSlot
    | Show
)


def postgres_us(unix_s: float) -> int:
    """Turn seconds since 1970 into microseconds since 2000."""
    return round((unix_s - UNIX_TIME_OF_2000_S) * 1_000_000)


def unix_s(postgres_us: int) -> float:
    """Turn microseconds since 2000 into seconds since 1970."""
    return postgres_us / 1_000_000 + UNIX_TIME_OF_2000_S


def decode_copy_data(body: Buffer) -> StreamMessage:
    """Make a message of the body of a CopyData frame, in either direction."""
    tag = body[0] if body else 0
    try:
        if tag == _XLOG_DATA_TAG:
            _, start, end, sent_us = _XLOG_DATA.unpack_from(body)
            return XLogData(Lsn(start), Lsn(end), sent_us, memoryview(body)[_XLOG_DATA.size :])
        if tag == _STATUS_UPDATE_TAG:
            _, write, flush, apply, sent_us, reply = _STATUS_UPDATE.unpack(body)
            return StatusUpdate(Lsn(write), Lsn(flush), Lsn(apply), sent_us, reply != 0)
        if tag == _KEEPALIVE_TAG:
            _, end, sent_us, reply = _KEEPALIVE.unpack(body)
            return Keepalive(Lsn(end), sent_us, reply != 0)
        if tag == _FEEDBACK_TAG:
            return HotStandbyFeedback(*_FEEDBACK.unpack(body)[1:])
    except struct.error:
        raise ProtocolError(
            f"a replication message {chr(tag)!r} cannot have {len(body)} bytes"
        ) from None
    raise ProtocolError(f"a replication message of kind 0x{tag:02X} is unknown")


def encode_xlog_data_header(start: Lsn, end: Lsn, sent_us: int, data_bytes: int) -> bytes:
    """Return what goes before `data_bytes` of WAL: the frame's header and the message's."""
    length = LENGTH_BYTES + _XLOG_DATA.size + data_bytes
    return _XLOG_DATA_FRAME.pack(_COPY_DATA, length, _XLOG_DATA_TAG, start, end, sent_us)


def encode_keepalive(end: Lsn, sent_us: int, reply_requested: bool) -> bytes:
    """Return the whole frame."""
    length = LENGTH_BYTES + _KEEPALIVE.size
    return _KEEPALIVE_FRAME.pack(_COPY_DATA, length, _KEEPALIVE_TAG, end, sent_us, reply_requested)


def encode_status_update(
    write: Lsn, flush: Lsn, apply: Lsn, sent_us: int, reply_requested: bool
) -> bytes:
    """Return the whole frame."""
    length = LENGTH_BYTES + _STATUS_UPDATE.size
    return _STATUS_UPDATE_FRAME.pack(
        _COPY_DATA, length, _STATUS_UPDATE_TAG, write, flush, apply, sent_us, reply_requested
    )


def encode_feedback(feedback: HotStandbyFeedback) -> bytes:
    """Return the whole frame."""
    return _FEEDBACK_FRAME.pack(
        _COPY_DATA,
        LENGTH_BYTES + _FEEDBACK.size,
        _FEEDBACK_TAG,
        feedback.sent_us,
        feedback.xmin,
        feedback.xmin_epoch,
        feedback.catalog_xmin,
        feedback.catalog_xmin_epoch,
    )


def parse_command(text: str) -> Command:
    """Read a command; CommandError says what is wrong with any other text."""
    words = CommandText(text)
    keyword = words.next.keyword
    parse = _PARSERS.get(keyword)
    if parse is None:
        words.refuse(f"one of {', '.join(_PARSERS)}")
    words.take_any()
    try:
        command = parse(words)
    except ValueError as error:
        raise CommandError(str(error)) from error
    words.end()
    return command


def format_command(command: Command) -> str:  # noqa: PLR0911  # one line a command
    """Return the text of a command, as PostgreSQL 15 and later take it."""
    match command:
        case IdentifySystem():
            return "IDENTIFY_SYSTEM"
        case TimelineHistory(tli):
            return f"TIMELINE_HISTORY {tli:d}"
        case StartReplication(slot, lsn, tli):
            with_slot = f"SLOT {_quoted_slot(slot)} " if slot is not None else ""
            on_timeline = f" TIMELINE {tli:d}" if tli is not None else ""
            return f"START_REPLICATION {with_slot}PHYSICAL {lsn}{on_timeline}"
        case CreateReplicationSlot(name, temporary, reserve_wal):
            lifetime = "TEMPORARY " if temporary else ""
            options = " (RESERVE_WAL)" if reserve_wal else ""
            return f"CREATE_REPLICATION_SLOT {_quoted_slot(name)} {lifetime}PHYSICAL{options}"
        case ReadReplicationSlot(name):
            return f"READ_REPLICATION_SLOT {_quoted_slot(name)}"
        case DropReplicationSlot(name, wait):
            return f"DROP_REPLICATION_SLOT {_quoted_slot(name)}{' WAIT' if wait else ''}"
        case Show(name):
            return f"SHOW {_checked_setting(name)}"
    assert_never(command)


def _parse_timeline_history(words: CommandText) -> TimelineHistory:
    return TimelineHistory(Tli(words.number("a timeline")))


def _parse_start(words: CommandText) -> StartReplication:
    slot = _slot(words) if words.take("SLOT") else None
    if not words.take("PHYSICAL"):
        _refuse_logical(words)
    lsn = words.position()
    tli = Tli(words.number("a timeline")) if words.take("TIMELINE") else None
    return StartReplication(slot, lsn, tli)


def _parse_create_slot(words: CommandText) -> CreateReplicationSlot:
    name = _slot(words)
    temporary = words.take("TEMPORARY")
    if not words.take("PHYSICAL"):
        _refuse_logical(words)
        words.refuse("PHYSICAL")
    if words.take("("):
        return CreateReplicationSlot(name, temporary, _parse_reserve_wal(words))
    return CreateReplicationSlot(name, temporary, words.take("RESERVE_WAL"))


def _parse_reserve_wal(words: CommandText) -> bool:
    """Read the one option of a physical slot, up to the closing bracket."""
    if not words.take("RESERVE_WAL"):
        words.refuse("RESERVE_WAL, the only option of a physical slot,")
    if words.take(")"):
        return True
    value = _BOOLEANS.get(words.next.text.lower())
    if value is None:
        words.refuse("true or false")
    words.take_any()
    if not words.take(")"):
        words.refuse("a closing bracket")
    return value


def _parse_drop_slot(words: CommandText) -> DropReplicationSlot:
    return DropReplicationSlot(_slot(words), words.take("WAIT"))


def _refuse_logical(words: CommandText) -> None:
    if words.next.keyword == "LOGICAL":
        raise CommandError("logical replication is not served here: connect to the primary")


def _slot(words: CommandText) -> str:
    return _checked_slot(words.name("the name of a slot"))


def _quoted_slot(name: str) -> str:
    return f'"{_checked_slot(name)}"'


def _checked_slot(name: str) -> str:
    if _SLOT_NAME.fullmatch(name) is None:
        raise ValueError(f"a slot's name is 1 to 63 of a-z, 0-9 and _, not {name[:80]!r}")
    return name


def _checked_setting(name: str) -> str:
    if _SETTING_NAME.fullmatch(name) is None:
        raise ValueError(f"{name[:80]!r} is not the name of a setting: use one like work_mem")
    return name


_PARSERS: Final[Mapping[str, Callable[[CommandText], Command]]] = {
    "IDENTIFY_SYSTEM": lambda _words: IdentifySystem(),
    "TIMELINE_HISTORY": _parse_timeline_history,
    "START_REPLICATION": _parse_start,
    "CREATE_REPLICATION_SLOT": _parse_create_slot,
    "READ_REPLICATION_SLOT": lambda words: ReadReplicationSlot(_slot(words)),
    "DROP_REPLICATION_SLOT": _parse_drop_slot,
    "SHOW": lambda words: Show(_checked_setting(words.name("the name of a setting"))),
}
