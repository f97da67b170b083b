"""What a server sends, but for authentication (authentication.py); BACKEND is the table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Literal, Self, TypeAlias

from .authentication import AuthenticationMessage
from .copying import (
    COPY_BOTH_RESPONSE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    CopyBothResponse,
    CopyData,
    CopyDone,
    CopyInResponse,
    CopyOutResponse,
)
from .errors import ProtocolError
from .fields import (
    COLUMNS_MAX,
    FORMAT,
    INT16,
    INT32,
    INT32_FORMAT,
    OPTIONS_MAX,
    PARAMETERS_MAX,
    STRING,
    UINT32,
    VALUE,
    BodyReader,
    Field,
    Format,
    enum_field,
    number_field,
    numbers_field,
    read_count,
    rest_field,
    values_field,
    write_count,
    write_string,
)
from .layout import DATA_BYTES_MAX, DESCRIPTION_BYTES_MAX, Layout, empty

CANCEL_KEY_BYTES_MIN: Final = 4  # what protocol 3.0 has, always
CANCEL_KEY_BYTES_MAX: Final = 256  # protocol 3.2

ErrorSeverity: TypeAlias = Literal["ERROR", "FATAL", "PANIC"]
NoticeSeverity: TypeAlias = Literal["WARNING", "NOTICE", "DEBUG", "INFO", "LOG"]


class TransactionStatus(IntEnum):
    """Where a session is when it waits for the next query."""

    IDLE = ord("I")
    IN_TRANSACTION = ord("T")
    FAILED = ord("E")  # only ROLLBACK will do


@dataclass(frozen=True, slots=True)
class BackendKeyData:
    """What a CancelRequest for this session has to show."""

    pid: int
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BindComplete:
    """A portal was made."""


@dataclass(frozen=True, slots=True)
class CloseComplete:
    """A statement or portal is gone."""


@dataclass(frozen=True, slots=True)
class CommandComplete:
    """A statement ran to its end; the tag says which, and how many rows."""

    tag: str


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row of a result."""

    values: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class EmptyQueryResponse:
    """Instead of CommandComplete, when there was no statement."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """Why a statement or the session failed: texts by the code of PostgreSQL's documentation."""

    fields: Mapping[str, str]

    @classmethod
    def of(cls, severity: ErrorSeverity, sqlstate: str, message: str, hint: str = "") -> Self:
        """Make one with the fields that every client understands."""
        return cls(_error_fields(severity, sqlstate, message, hint))

    @property
    def severity(self) -> str:
        """ERROR, FATAL or PANIC, whatever language the server speaks."""
        return self.fields.get("V") or self.fields.get("S", "")

    @property
    def sqlstate(self) -> str:
        """The five characters that say what happened."""
        return self.fields.get("C", "")

    @property
    def message(self) -> str:
        """One sentence for people."""
        return self.fields.get("M", "")


@dataclass(frozen=True, slots=True)
class FunctionCallResponse:
    """The result of a FunctionCall."""

    value: bytes | None


@dataclass(frozen=True, slots=True)
class NegotiateProtocolVersion:
    """The newest version the server speaks, and the options of the client that it does not know."""

    major: int
    minor: int
    unrecognized: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoData:
    """The described statement returns no rows."""


@dataclass(frozen=True, slots=True)
class NoticeResponse:
    """A warning or other news; fields as in ErrorResponse."""

    fields: Mapping[str, str]

    @classmethod
    def of(cls, severity: NoticeSeverity, sqlstate: str, message: str, hint: str = "") -> Self:
        """Make one with the fields that every client understands."""
        return cls(_error_fields(severity, sqlstate, message, hint))


@dataclass(frozen=True, slots=True)
class NotificationResponse:
    """A NOTIFY on a channel that the session listens to."""

    pid: int
    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class ParameterDescription:
    """The types of a statement's parameters."""

    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ParameterStatus:
    """The value of a setting that clients want to know."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ParseComplete:
    """A statement was prepared."""


@dataclass(frozen=True, slots=True)
class PortalSuspended:
    """Execute's limit was reached: there may be more rows."""


@dataclass(frozen=True, slots=True)
class ReadyForQuery:
    """The server waits for the next query."""

    status: TransactionStatus = TransactionStatus.IDLE


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result. `table_oid` and `attribute_number` are 0 when it is no table's."""

    name: str
    table_oid: int
    attribute_number: int
    type_oid: int
    type_bytes: int  # negative: of variable length
    type_modifier: int
    format: Format = Format.TEXT


@dataclass(frozen=True, slots=True)
class RowDescription:
    """The columns of the rows that follow."""

    columns: tuple[Column, ...]


BackendMessage: TypeAlias = (
    AuthenticationMessage
    | BackendKeyData
    | BindComplete
    | CloseComplete
    | CommandComplete
    | CopyBothResponse
    | CopyData
    | CopyDone
    | CopyInResponse
    | CopyOutResponse
    | DataRow
    | EmptyQueryResponse
    | ErrorResponse
    | FunctionCallResponse
    | NegotiateProtocolVersion
    | NoData
    | NoticeResponse
    | NotificationResponse
    | ParameterDescription
    | ParameterStatus
    | ParseComplete
    | PortalSuspended
    | ReadyForQuery
    | RowDescription
)


def _error_fields(severity: str, sqlstate: str, message: str, hint: str) -> dict[str, str]:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message}
    return fields | {"H": hint} if hint else fields


def _read_error_fields(reader: BodyReader) -> dict[str, str]:
    fields: dict[str, str] = {}
    while (code := reader.take(1)) != b"\0":
        name = code.decode("latin-1")
        if name in fields or len(fields) == OPTIONS_MAX:
            raise ProtocolError(f"field {name!r} is given twice, or there are too many")
        fields[name] = reader.string()
    return fields


def _write_error_fields(fields: Mapping[str, str]) -> bytes:
    parts = []
    for name, text in fields.items():
        if len(name) != 1 or name == "\0" or len(fields) > OPTIONS_MAX:
            raise ValueError(f"an error has fields of one character, at most {OPTIONS_MAX}")
        parts.append(name.encode("latin-1") + write_string(text))
    return b"".join(parts) + b"\0"


def _read_options(reader: BodyReader) -> tuple[str, ...]:
    count = reader.number(INT32_FORMAT)
    if not 0 <= count <= OPTIONS_MAX:
        raise ProtocolError(f"a count of {count} options exceeds {OPTIONS_MAX}")
    return tuple(reader.string() for _ in range(count))


def _write_options(options: tuple[str, ...]) -> bytes:
    if len(options) > OPTIONS_MAX:
        raise ValueError(f"a count of {len(options)} options exceeds {OPTIONS_MAX}")
    return INT32_FORMAT.pack(len(options)) + b"".join(map(write_string, options))


def _read_columns(reader: BodyReader) -> tuple[Column, ...]:
    return tuple(
        Column(*(field.read(reader) for field in _COLUMN))
        for _ in range(read_count(reader, COLUMNS_MAX))
    )


def _write_columns(columns: tuple[Column, ...]) -> bytes:
    return write_count(columns, COLUMNS_MAX) + b"".join(map(_write_column, columns))


def _write_column(column: Column) -> bytes:
    values = (getattr(column, name) for name in Column.__dataclass_fields__)
    return b"".join(field.write(value) for field, value in zip(_COLUMN, values, strict=True))


_CANCEL_KEY: Final = rest_field(bytes_min=CANCEL_KEY_BYTES_MIN, bytes_max=CANCEL_KEY_BYTES_MAX)
_COLUMN: Final[tuple[Field[Any], ...]] = (STRING, UINT32, INT16, UINT32, INT16, INT32, FORMAT)
_COLUMNS: Final = Field(_read_columns, _write_columns)
_ERROR: Final = Field(_read_error_fields, _write_error_fields)
_OPTIONS: Final = Field(_read_options, _write_options)
_UINT16: Final = number_field("H")
_VALUES: Final = values_field(count_max=COLUMNS_MAX)
_TYPES: Final = numbers_field("I", count_max=PARAMETERS_MAX)

BACKEND: Final = (
    empty("1", ParseComplete),
    empty("2", BindComplete),
    empty("3", CloseComplete),
    Layout(ord("A"), NotificationResponse, (INT32, STRING, STRING)),
    Layout(ord("C"), CommandComplete, (STRING,)),
    Layout(ord("D"), DataRow, (_VALUES,), DATA_BYTES_MAX),
    Layout(ord("E"), ErrorResponse, (_ERROR,), DATA_BYTES_MAX),
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    COPY_BOTH_RESPONSE,
    COPY_DATA,
    COPY_DONE,
    empty("I", EmptyQueryResponse),
    Layout(ord("K"), BackendKeyData, (INT32, _CANCEL_KEY)),
    Layout(ord("N"), NoticeResponse, (_ERROR,), DATA_BYTES_MAX),
    Layout(ord("S"), ParameterStatus, (STRING, STRING)),
    Layout(ord("T"), RowDescription, (_COLUMNS,), DESCRIPTION_BYTES_MAX),
    Layout(ord("V"), FunctionCallResponse, (VALUE,), DATA_BYTES_MAX),
    Layout(ord("Z"), ReadyForQuery, (enum_field("B", TransactionStatus),)),
    empty("n", NoData),
    empty("s", PortalSuspended),
    Layout(ord("t"), ParameterDescription, (_TYPES,), DESCRIPTION_BYTES_MAX),
    Layout(ord("v"), NegotiateProtocolVersion, (_UINT16, _UINT16, _OPTIONS)),
)
