"""The messages of COPY, which both sides send: a table's rows, or the stream of replication."""

from dataclasses import dataclass
from typing import Final

from .fields import COLUMNS_MAX, REST, STRING, Format, enum_field, formats_field
from .layout import DATA_BYTES_MAX, Layout, empty

_RESPONSE: Final = (enum_field("b", Format), formats_field(count_max=COLUMNS_MAX))


@dataclass(frozen=True, slots=True)
class CopyData:
    """A piece of the stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CopyDone:
    """The sender's stream ends here."""


@dataclass(frozen=True, slots=True)
class CopyFail:
    """The client gives its stream up."""

    reason: str


@dataclass(frozen=True, slots=True)
class CopyInResponse:
    """The server waits for the client's stream."""

    format: Format = Format.TEXT
    column_formats: tuple[Format, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyOutResponse:
    """The server's stream follows."""

    format: Format = Format.TEXT
    column_formats: tuple[Format, ...] = ()


@dataclass(frozen=True, slots=True)
class CopyBothResponse:
    """Both sides stream from here on: replication."""

    format: Format = Format.TEXT
    column_formats: tuple[Format, ...] = ()


COPY_DATA: Final = Layout(ord("d"), CopyData, (REST,), DATA_BYTES_MAX)
COPY_DONE: Final = empty("c", CopyDone)
COPY_FAIL: Final = Layout(ord("f"), CopyFail, (STRING,), DATA_BYTES_MAX)
COPY_IN_RESPONSE: Final = Layout(ord("G"), CopyInResponse, _RESPONSE)
COPY_OUT_RESPONSE: Final = Layout(ord("H"), CopyOutResponse, _RESPONSE)
COPY_BOTH_RESPONSE: Final = Layout(ord("W"), CopyBothResponse, _RESPONSE)
