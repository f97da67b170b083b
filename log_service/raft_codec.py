"""Raft's messages as bytes: a fixed header, the name of the group, and records as payload. No I/O.

Records travel verbatim: what a leader has encoded is what its followers write. A snapshot travels
as the state of the branch, with its members: the configuration of the core is made of them.

    version | type | sender | to | term | a | b | c | d | flags || group

The meaning of a .. d is in one place, the two functions here. Anything that is not a message of
this version is a FrameError: the peer's fault, and the end of the connection.
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Final, assert_never

import msgspec

from fabric.addresses import parse_address
from fabric.codec import decode_hook
from fabric.frames import Buffer, FrameError
from raft.messages import (
    Append,
    AppendReply,
    Message,
    Restore,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.types import Config, Entry, Snapshot

from .branch import FenceError, decode_branch
from .record import Kind, Record, RecordError, decode_record
from .record_bodies import MemberInfo, Members, decode_body, encode_body

VERSION: Final = 1
GROUP_BYTES_MAX: Final = 127  # two names and a dot
APPEND_ENTRIES_MAX: Final = 65536

# version, type, sender, to, term, a, b, c, d, flags
_HEADER: Final = struct.Struct(">BBQQQQQQQB")
_FLAG_ONE: Final = 1
_FLAG_TWO: Final = 2


class MessageType(IntEnum):
    """The message types, and two of the nodes' own."""

    VOTE_REQUEST = 1
    VOTE_REPLY = 2
    APPEND = 3
    APPEND_REPLY = 4
    RESTORE = 5
    TIMEOUT_NOW = 6
    REST = 7
    INTRODUCTION = 8


# A member of an enum is looked up by a metaclass, 100 ns a time; these two travel at every commit.
_APPEND: Final = MessageType.APPEND
_APPEND_REPLY: Final = MessageType.APPEND_REPLY


class Rest:
    """A leader says that it will be silent: `term`, and the `commit` index that it has."""

    __slots__ = ("commit", "sender", "term", "to")

    def __init__(self, *, sender: int, to: int, term: int, commit: int) -> None:
        self.sender, self.to, self.term, self.commit = sender, to, term, commit


class Introduction(msgspec.Struct, frozen=True):
    """A member says where it is reached: whoever was away while it joined could not answer it."""

    sender: int
    to: int
    info: MemberInfo
    term: int = 0


NodeMessage = Rest | Introduction


def config_of(members: tuple[MemberInfo, ...]) -> Config:
    """Return the members as the core sees them."""
    return Config(
        voters=frozenset(info.member for info in members if info.is_voter),
        learners=frozenset(info.member for info in members if not info.is_voter),
    )


def entry_of(record: Record) -> Entry:
    """Return a record as the core sees it; RecordError if it is damaged."""
    config = None
    if record.kind is Kind.CONFIG:
        try:
            config = config_of(decode_body(record, Members).members)
        except ValueError as error:
            raise RecordError(f"entry {record.index}: {error}") from error
    return Entry(record.index, record.term, record.size_bytes, record, config)


def encode_message(
    message: Message | NodeMessage, group: bytes, record_of: Callable[[Entry], Record]
) -> tuple[bytes, list[Buffer]]:
    """Return header and payload of a message."""
    payload: list[Buffer] = []
    a = b = c = d = flags = 0
    match message:
        case Append():
            kind = _APPEND
            a, b, c = message.prev_index, message.prev_term, message.commit
            d = message.context
            for entry in message.entries:
                record = entry.ref if isinstance(entry.ref, Record) else record_of(entry)
                payload.append(record.header)
                payload.append(record.body)
        case AppendReply():
            kind = _APPEND_REPLY
            a, b, c = message.match_index, message.hint_index, message.hint_term
            d, flags = message.context, _FLAG_ONE if message.rejected else 0
        case VoteRequest():
            kind = MessageType.VOTE_REQUEST
            a, b = message.last_index, message.last_term
            flags = _FLAG_ONE * message.is_pre | _FLAG_TWO * message.is_transfer
        case VoteReply():
            kind = MessageType.VOTE_REPLY
            flags = _FLAG_ONE * message.is_pre | _FLAG_TWO * message.granted
        case Restore():
            kind = MessageType.RESTORE
            a, b = message.snapshot.index, message.snapshot.term
            assert isinstance(message.snapshot.ref, bytes), "a snapshot is a branch's state"
            payload = [message.snapshot.ref]
        case TimeoutNow():
            kind = MessageType.TIMEOUT_NOW
        case Rest():
            kind, a = MessageType.REST, message.commit
        case Introduction():
            kind, payload = MessageType.INTRODUCTION, [encode_body(message.info)]
        case _:
            assert_never(message)
    header = _HEADER.pack(
        VERSION, kind, message.sender, message.to, message.term, a, b, c, d, flags
    )
    return header + group, payload


def decode_header(header: bytes) -> tuple[bytes, MessageType, tuple[int, ...]]:
    """Return the group, the type and the numbers of a message."""
    if not _HEADER.size < len(header) <= _HEADER.size + GROUP_BYTES_MAX:
        raise FrameError(f"a raft message has a header of {len(header)} bytes")
    fields = _HEADER.unpack_from(header)
    kind = _TYPES.get(fields[1])
    if fields[0] != VERSION or kind is None:
        raise FrameError(
            f"a raft message of version {fields[0]}, type {fields[1]}: upgrade the older node"
        )
    return header[_HEADER.size :], kind, fields[2:]


def decode_message(  # noqa: PLR0911  # one return a type is the table
    kind: MessageType, numbers: tuple[int, ...], payload: Buffer
) -> Message | NodeMessage:
    """Return the message; FrameError if it is none."""
    sender, to, term, a, b, c, d, flags = numbers
    one, two = bool(flags & _FLAG_ONE), bool(flags & _FLAG_TWO)
    # The two of every commit first, and by identity: a `case` looks its enum up and compares.
    if kind is _APPEND:
        return Append(
            sender=sender,
            to=to,
            term=term,
            prev_index=a,
            prev_term=b,
            entries=_entries(payload, prev_index=a, prev_term=b) if payload else (),
            commit=c,
            context=d,
        )
    if kind is _APPEND_REPLY:
        return AppendReply(
            sender=sender,
            to=to,
            term=term,
            match_index=a,
            hint_index=b,
            hint_term=c,
            context=d,
            rejected=one,
        )
    match kind:
        case MessageType.VOTE_REQUEST:
            return VoteRequest(
                sender=sender,
                to=to,
                term=term,
                last_index=a,
                last_term=b,
                is_pre=one,
                is_transfer=two,
            )
        case MessageType.VOTE_REPLY:
            return VoteReply(sender=sender, to=to, term=term, is_pre=one, granted=two)
        case MessageType.RESTORE:
            return Restore(sender=sender, to=to, term=term, snapshot=_snapshot(a, b, payload))
        case MessageType.TIMEOUT_NOW:
            return TimeoutNow(sender=sender, to=to, term=term)
        case MessageType.REST:
            return Rest(sender=sender, to=to, term=term, commit=a)
        case MessageType.INTRODUCTION:
            return Introduction(sender, to, _member(sender, payload))
        case _:
            assert_never(kind)


def _entries(payload: Buffer, *, prev_index: int, prev_term: int) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    view, start = memoryview(payload), 0
    try:
        while start < len(view):
            record = decode_record(view, start)
            start += record.size_bytes
            if (record.index, record.prev_term) != (prev_index + 1, prev_term):
                raise FrameError(f"entry {record.index} does not continue entry {prev_index}")
            if len(entries) == APPEND_ENTRIES_MAX:
                raise FrameError(f"a raft message has more than {APPEND_ENTRIES_MAX} entries")
            entries.append(entry_of(record))
            prev_index, prev_term = record.index, record.term
    except RecordError as error:
        raise FrameError(f"a raft message: {error}") from error
    return tuple(entries)


def _member(sender: int, payload: Buffer) -> MemberInfo:
    try:
        info = _MEMBER.decode(payload)
        parse_address(info.rpc)
    except (msgspec.DecodeError, ValueError) as error:
        raise FrameError(f"an introduction: {error}") from error
    if info.member != sender:
        raise FrameError(f"member {sender} introduces itself as {info.member}")
    return info


def _snapshot(index: int, term: int, payload: Buffer) -> Snapshot:
    state = bytes(payload)
    try:
        return Snapshot(index, term, config_of(decode_branch(state).members), state)
    except (FenceError, ValueError) as error:
        raise FrameError(f"a raft snapshot: {error}") from error


_MEMBER: Final = msgspec.msgpack.Decoder(MemberInfo, dec_hook=decode_hook)
_TYPES: Final = {int(kind): kind for kind in MessageType}
