"""The kinds of fields that messages are made of: how each is read from a body, and written.

A message is a tuple of fields (frontend.py, backend.py have the tables), so that reading and
writing cannot drift apart. What is read owns its bytes: no message refers to a receive buffer.

Text is UTF-8 with surrogate escapes. A client may have chosen any encoding; what is not UTF-8 goes
through unharmed, byte by byte, and a message that is decoded and encoded again is the same bytes.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

from .errors import ProtocolError

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

COLUMNS_MAX: Final = 1664  # PostgreSQL's MaxTupleAttributeNumber
PARAMETERS_MAX: Final = 65535  # what two bytes can say
ARGUMENTS_MAX: Final = 100  # of a function: FUNC_MAX_ARGS
OPTIONS_MAX: Final = 100  # mechanisms, protocol options and fields of an error: far fewer exist

NULL_LENGTH: Final = -1

INT16_FORMAT: Final = struct.Struct(">h")
UINT16_FORMAT: Final = struct.Struct(">H")
INT32_FORMAT: Final = struct.Struct(">i")
UINT32_FORMAT: Final = struct.Struct(">I")


class Format(IntEnum):
    """How a value is written."""

    TEXT = 0
    BINARY = 1


class BodyReader:
    """A position in the body of one message, which only moves forward."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def left_bytes(self) -> int:
        """How many bytes nobody has read yet."""
        return len(self._body) - self._at

    def number(self, layout: struct.Struct) -> int:
        """Read the one number of a layout."""
        self._require(layout.size)
        (value,) = layout.unpack_from(self._body, self._at)
        self._at += layout.size
        return int(value)

    def numbers(self, letter: str, count: int) -> tuple[int, ...]:
        """Read numbers, all of the type that `struct` calls `letter`."""
        layout = f">{count}{letter}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        self._require(count)
        self._at += count
        return self._body[self._at - count : self._at]

    def string(self) -> str:
        """Read text up to its terminating zero."""
        end = self._body.find(0, self._at)
        if end < 0:
            raise ProtocolError("text without its terminating zero byte")
        text = self._body[self._at : end].decode("utf-8", "surrogateescape")
        self._at = end + 1
        return text

    def end(self) -> None:
        """Refuse what follows the last field."""
        if self.left_bytes:
            raise ProtocolError(f"{self.left_bytes} bytes follow the last field")

    def _require(self, count: int) -> None:
        if count > len(self._body) - self._at:
            raise ProtocolError(f"{count} bytes are needed where {self.left_bytes} are left")


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """One kind of field. `write` raises ValueError or struct.error for what does not fit."""

    read: Callable[[BodyReader], T]
    write: Callable[[T], bytes]


def write_string(text: str) -> bytes:
    """Return text with its terminating zero."""
    data = text.encode("utf-8", "surrogateescape")
    if 0 in data:
        raise ValueError("text of the protocol cannot contain a zero byte")
    return data + b"\0"


def number_field(letter: str) -> Field[int]:
    """A number of the type that `struct` calls `letter`."""
    layout = struct.Struct(f">{letter}")
    return Field(lambda reader: reader.number(layout), layout.pack)


def enum_field(letter: str, members: type[E]) -> Field[E]:
    """A number that stands for a member of an enum."""
    layout = struct.Struct(f">{letter}")

    def read(reader: BodyReader) -> E:
        return member_of(members, reader.number(layout))

    return Field(read, layout.pack)


def bytes_field(count: int) -> Field[bytes]:
    """Exactly so many bytes."""

    def write(data: bytes) -> bytes:
        if len(data) != count:
            raise ValueError(f"{count} bytes are required, not {len(data)}")
        return data

    return Field(lambda reader: reader.take(count), write)


def rest_field(*, bytes_min: int = 0, bytes_max: int | None = None) -> Field[bytes]:
    """Everything up to the end of the body."""

    def complaint(size_bytes: int) -> str | None:
        if size_bytes < bytes_min or (bytes_max is not None and size_bytes > bytes_max):
            return f"{bytes_min} to {bytes_max} bytes are required, not {size_bytes}"
        return None

    def read(reader: BodyReader) -> bytes:
        if (wrong := complaint(reader.left_bytes)) is not None:
            raise ProtocolError(wrong)
        return reader.take(reader.left_bytes)

    def write(data: bytes) -> bytes:
        if (wrong := complaint(len(data))) is not None:
            raise ValueError(wrong)
        return bytes(data)

    return Field(read, write)


def numbers_field(letter: str, *, count_max: int) -> Field[tuple[int, ...]]:
    """A count (two bytes) and numbers."""

    def read(reader: BodyReader) -> tuple[int, ...]:
        return reader.numbers(letter, read_count(reader, count_max))

    def write(values: tuple[int, ...]) -> bytes:
        return write_count(values, count_max) + struct.pack(f">{len(values)}{letter}", *values)

    return Field(read, write)


def formats_field(*, count_max: int) -> Field[tuple[Format, ...]]:
    """A count (two bytes) and the format of each value, or of all if the count is one."""
    codes = numbers_field("h", count_max=count_max)

    def read(reader: BodyReader) -> tuple[Format, ...]:
        return tuple(member_of(Format, code) for code in codes.read(reader))

    return Field(read, codes.write)


def values_field(*, count_max: int) -> Field[tuple[bytes | None, ...]]:
    """A count (two bytes) and values, each with its length (four bytes, -1 for NULL)."""

    def read(reader: BodyReader) -> tuple[bytes | None, ...]:
        return tuple(read_value(reader) for _ in range(read_count(reader, count_max)))

    def write(values: tuple[bytes | None, ...]) -> bytes:
        return write_count(values, count_max) + b"".join(map(write_value, values))

    return Field(read, write)


def read_value(reader: BodyReader) -> bytes | None:
    """Read a length and so many bytes, or NULL."""
    length = reader.number(INT32_FORMAT)
    if length == NULL_LENGTH:
        return None
    if length < 0:
        raise ProtocolError(f"a value cannot have {length} bytes")
    return reader.take(length)


def write_value(value: bytes | None) -> bytes:
    """Return a value with its length."""
    if value is None:
        return INT32_FORMAT.pack(NULL_LENGTH)
    return INT32_FORMAT.pack(len(value)) + value


def read_count(reader: BodyReader, count_max: int) -> int:
    """Read a count of two bytes."""
    count = reader.number(UINT16_FORMAT)
    if count > count_max:
        raise ProtocolError(f"a count of {count} exceeds {count_max}")
    return count


def write_count(values: tuple[Any, ...], count_max: int) -> bytes:
    """Return the count of `values` in two bytes."""
    if len(values) > count_max:
        raise ValueError(f"a count of {len(values)} exceeds {count_max}")
    return UINT16_FORMAT.pack(len(values))


def member_of(members: type[E], code: int) -> E:
    """Return the member of an enum that a number stands for."""
    try:
        return members(code)
    except ValueError:
        raise ProtocolError(f"{code} is no {members.__name__}") from None


STRING: Final = Field(BodyReader.string, write_string)
INT16: Final = number_field("h")
INT32: Final = number_field("i")
UINT32: Final = number_field("I")
FORMAT: Final = enum_field("h", Format)
VALUE: Final = Field(read_value, write_value)
REST: Final = rest_field()
