"""What a row of the message tables says: kind, class, fields in order, and how long it may be."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .errors import ProtocolError
from .fields import BodyReader, Field
from .frames import HEADER, LENGTH_BYTES, Buffer

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# The longest body of a message, by what it carries.
EMPTY_BYTES_MAX: Final = 0
SMALL_BYTES_MAX: Final = 30_000  # libpq's own limit for all but the kinds that carry data
TOKEN_BYTES_MAX: Final = 65_535  # PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH
# 65,535 parameter types of four bytes, or 1,664 columns with names of 63 bytes.
DESCRIPTION_BYTES_MAX: Final = 256 * 1024
DATA_BYTES_MAX: Final = 2**30 - 1  # PostgreSQL's MaxAllocSize; a caller that can, caps it


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of message. The fields stand in the order of the class's own."""

    kind: int
    message: "type[DataclassInstance]"
    fields: tuple[Field[Any], ...] = ()
    body_bytes_max: int = SMALL_BYTES_MAX
    prefix: bytes = b""  # the code that tells the messages of one kind apart

    def encode(self, message: object) -> bytes:
        """Return the frame of a message of this class."""
        values = (getattr(message, name) for name in self.message.__dataclass_fields__)
        try:
            body = self.prefix + b"".join(
                field.write(value) for field, value in zip(self.fields, values, strict=True)
            )
        except struct.error as error:
            raise ValueError(f"a {self.message.__name__} cannot hold this: {error}") from error
        if len(body) > self.body_bytes_max:
            raise ValueError(
                f"a {self.message.__name__} of {len(body)} bytes exceeds {self.body_bytes_max}"
            )
        return HEADER.pack(self.kind, LENGTH_BYTES + len(body)) + body

    def decode(self, body: Buffer) -> Any:
        """Make the message from a body; raise ProtocolError if it is not exactly one."""
        if len(body) > self.body_bytes_max:
            raise ProtocolError(
                f"a {self.message.__name__} of {len(body)} bytes exceeds {self.body_bytes_max}"
            )
        reader = BodyReader(bytes(body))
        try:
            reader.take(len(self.prefix))
            message = self.message(*(field.read(reader) for field in self.fields))
            reader.end()
        except ProtocolError as error:
            raise ProtocolError(f"a {self.message.__name__} is malformed: {error}") from error
        return message


def empty(kind: str, message: "type[DataclassInstance]") -> Layout:
    """Return the layout of a message without a body."""
    return Layout(ord(kind), message, (), EMPTY_BYTES_MAX)


def limits_of(layouts: Iterable[Layout]) -> dict[int, int]:
    """Return how long a body of each kind may be."""
    limits: dict[int, int] = {}
    for layout in layouts:
        limits[layout.kind] = max(limits.get(layout.kind, 0), layout.body_bytes_max)
    return limits
