"""What a client sends once a connection has started; FRONTEND is the table.

Answers to a request for authentication share one kind, and only the request tells them apart. They
arrive as `AuthenticationResponse`; messages.py makes one of the three below of it.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from .copying import COPY_DATA, COPY_DONE, COPY_FAIL, CopyData, CopyDone, CopyFail
from .fields import (
    ARGUMENTS_MAX,
    COLUMNS_MAX,
    FORMAT,
    INT32,
    PARAMETERS_MAX,
    REST,
    STRING,
    UINT32,
    VALUE,
    Format,
    enum_field,
    formats_field,
    numbers_field,
    values_field,
)
from .layout import DATA_BYTES_MAX, TOKEN_BYTES_MAX, Layout, empty


class Target(IntEnum):
    """What Describe and Close are about."""

    STATEMENT = ord("S")
    PORTAL = ord("P")


@dataclass(frozen=True, slots=True)
class Bind:
    """Make a portal of a prepared statement and its parameters."""

    portal: str
    statement: str
    parameter_formats: tuple[Format, ...]
    parameters: tuple[bytes | None, ...] = field(repr=False)
    result_formats: tuple[Format, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Forget a prepared statement or a portal."""

    target: Target
    name: str


@dataclass(frozen=True, slots=True)
class Describe:
    """Ask for the types of a prepared statement or a portal."""

    target: Target
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a portal, up to so many rows; 0: all."""

    portal: str
    rows_max: int = 0


@dataclass(frozen=True, slots=True)
class Flush:
    """Ask for the answers so far."""


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """Call a function by its oid; an old way that libpq's large objects still use."""

    function_oid: int
    argument_formats: tuple[Format, ...]
    arguments: tuple[bytes | None, ...] = field(repr=False)
    result_format: Format = Format.TEXT


@dataclass(frozen=True, slots=True)
class Parse:
    """Prepare a statement; oid 0 leaves a parameter's type to the server."""

    statement: str
    query: str
    parameter_types: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """Statements in one text, or a replication command."""

    query: str


@dataclass(frozen=True, slots=True)
class Sync:
    """The end of a series of extended-query messages."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """Good-bye."""


@dataclass(frozen=True, slots=True)
class AuthenticationResponse:
    """Any answer to a request for authentication."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PasswordMessage:
    """A password, in clear or as an MD5 sum."""

    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslInitialResponse:
    """The mechanism that the client chose, and its first message."""

    mechanism: str
    data: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's next message of the mechanism."""

    data: bytes = field(repr=False)


FrontendMessage: TypeAlias = (
    AuthenticationResponse
    | Bind
    | Close
    | CopyData
    | CopyDone
    | CopyFail
    | Describe
    | Execute
    | Flush
    | FunctionCall
    | Parse
    | PasswordMessage
    | Query
    | SaslInitialResponse
    | SaslResponse
    | Sync
    | Terminate
)

_TARGET: Final = enum_field("B", Target)
_BIND: Final = (
    STRING,
    STRING,
    formats_field(count_max=PARAMETERS_MAX),
    values_field(count_max=PARAMETERS_MAX),
    formats_field(count_max=COLUMNS_MAX),
)
_FUNCTION_CALL: Final = (
    UINT32,
    formats_field(count_max=ARGUMENTS_MAX),
    values_field(count_max=ARGUMENTS_MAX),
    FORMAT,
)
_PARSE: Final = (STRING, STRING, numbers_field("I", count_max=PARAMETERS_MAX))

FRONTEND: Final = (
    Layout(ord("B"), Bind, _BIND, DATA_BYTES_MAX),
    Layout(ord("C"), Close, (_TARGET, STRING)),
    COPY_DATA,
    COPY_DONE,
    COPY_FAIL,
    Layout(ord("D"), Describe, (_TARGET, STRING)),
    Layout(ord("E"), Execute, (STRING, INT32)),
    Layout(ord("F"), FunctionCall, _FUNCTION_CALL, DATA_BYTES_MAX),
    empty("H", Flush),
    Layout(ord("P"), Parse, _PARSE, DATA_BYTES_MAX),
    Layout(ord("Q"), Query, (STRING,), DATA_BYTES_MAX),
    empty("S", Sync),
    empty("X", Terminate),
    Layout(ord("p"), AuthenticationResponse, (REST,), TOKEN_BYTES_MAX),
)

# What an AuthenticationResponse can be.
RESPONSES: Final = (
    Layout(ord("p"), PasswordMessage, (STRING,), TOKEN_BYTES_MAX),
    Layout(ord("p"), SaslInitialResponse, (STRING, VALUE), TOKEN_BYTES_MAX),
    Layout(ord("p"), SaslResponse, (REST,), TOKEN_BYTES_MAX),
)
