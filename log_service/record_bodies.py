"""What is in the records that are not WAL: msgpack, each with its limits. No I/O.

A field with a default may be missing and an unknown one is ignored, so bodies grow without a new
version. They are on disk for as long as the log: see docs/formats/log_record.md.
"""

from typing import Annotated, Final, TypeVar

import msgspec

from fabric.codec import decode_hook, encode_hook
from fabric.ids import Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli

from .history import HISTORY_BYTES_MAX
from .record import RECORD_BODY_BYTES_MAX, Kind, Record, RecordError

MEMBERS_MAX: Final = 32  # voters and learners of one group
PINS_MAX: Final = 256
PIN_NAME_CHARACTERS_MAX: Final = 100
NOTES_MAX: Final = 32  # of a branch; the branch's state travels whole, so it stays small
NOTE_NAME_CHARACTERS_MAX: Final = 63
NOTE_BYTES_MAX: Final = 96 * 1024
NOTES_BYTES_MAX: Final = 1024 * 1024  # of all notes of a branch together

# A history file nearly fills a body; what does not fit beside the field names is not proposed.
assert HISTORY_BYTES_MAX <= RECORD_BODY_BYTES_MAX


class MemberInfo(msgspec.Struct, frozen=True):
    """A replica of a group: who it is, and where its node can be reached."""

    member: int
    node: NodeName
    rpc: Annotated[str, msgspec.Meta(max_length=200)]
    pg: Annotated[str, msgspec.Meta(max_length=200)] = ""
    is_voter: bool = True


class Members(msgspec.Struct, frozen=True):
    """CONFIG: everybody in the group."""

    members: Annotated[tuple[MemberInfo, ...], msgspec.Meta(max_length=MEMBERS_MAX)]


class Genesis(msgspec.Struct, frozen=True):
    """GENESIS: whose WAL this is, and from where on there is any."""

    system_identifier: SystemIdentifier
    tli: Tli
    start: Lsn
    segment_bytes: int
    server_version: Annotated[str, msgspec.Meta(max_length=100)]
    history: Annotated[bytes, msgspec.Meta(max_length=HISTORY_BYTES_MAX)] = b""
    """The history file of `tli`, if it is not the first timeline."""


class Holder(msgspec.Struct, frozen=True):
    """The compute that may write, and where its PostgreSQL listens: tcp://host:port or unix://."""

    name: NodeName
    address: Annotated[str, msgspec.Meta(max_length=200)]
    user: Annotated[str, msgspec.Meta(max_length=63)] = "postgres"
    instance: int = 0
    """Which life of its agent the epoch was granted to; 0: whichever."""


class EpochBody(msgspec.Struct, frozen=True):
    """EPOCH: from here on WAL is the holder's alone. No holder: nobody's, until the next one."""

    epoch: Epoch
    holder: Holder | None = None


class Timeline(msgspec.Struct, frozen=True):
    """TIMELINE: WAL goes on along a new timeline, from where its history file says it forked."""

    tli: Tli
    history: Annotated[bytes, msgspec.Meta(max_length=HISTORY_BYTES_MAX)]


class Trim(msgspec.Struct, frozen=True):
    """TRIM: WAL before `lsn` may go."""

    lsn: Lsn


class Pin(msgspec.Struct, frozen=True):
    """PIN: somebody needs WAL from `lsn` on; None: no longer."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=PIN_NAME_CHARACTERS_MAX)]
    lsn: Lsn | None = None


class Note(msgspec.Struct, frozen=True):
    """NOTE: what a compute wants to find again, such as its settings; None: no longer."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=NOTE_NAME_CHARACTERS_MAX)]
    content: Annotated[bytes, msgspec.Meta(max_length=NOTE_BYTES_MAX)] | None = None


T = TypeVar("T", bound=msgspec.Struct)

_TYPES: Final[dict[type[msgspec.Struct], Kind]] = {
    Members: Kind.CONFIG,
    Genesis: Kind.GENESIS,
    EpochBody: Kind.EPOCH,
    Timeline: Kind.TIMELINE,
    Trim: Kind.TRIM,
    Pin: Kind.PIN,
    Note: Kind.NOTE,
}
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=encode_hook)
_DECODERS: Final = {t: msgspec.msgpack.Decoder(t, dec_hook=decode_hook) for t in _TYPES}


def kind_of(body: msgspec.Struct) -> Kind:
    """Return the kind of the records that have such a body."""
    return _TYPES[type(body)]


def encode_body(body: msgspec.Struct) -> bytes:
    """Return the bytes of a body."""
    return _ENCODER.encode(body)


def decode_body(record: Record, wanted: type[T]) -> T:
    """Read the body of a record of the kind that `wanted` belongs to."""
    assert record.kind is _TYPES[wanted], "the caller looked at the kind"
    try:
        return _DECODERS[wanted].decode(record.body)  # type: ignore[return-value]  # the table pairs them
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: no UTF-8
        raise RecordError(
            f"entry {record.index} is no {record.kind.name} of this version: {error}"
        ) from error
