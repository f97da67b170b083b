"""What a server asks for, and grants, when a client proves who it is; AUTHENTICATION is the table.

All are of kind R, and a code of four bytes tells them apart.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import ProtocolError
from .fields import OPTIONS_MAX, REST, BodyReader, Field, bytes_field, write_string
from .layout import TOKEN_BYTES_MAX, Layout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class AuthenticationOk:
    """The client is who it says."""


@dataclass(frozen=True, slots=True)
class AuthenticationKerberosV5:
    """Obsolete."""


@dataclass(frozen=True, slots=True)
class AuthenticationCleartextPassword:
    """Send the password itself."""


@dataclass(frozen=True, slots=True)
class AuthenticationMd5Password:
    """Send a hash of user, password and salt; deprecated."""

    salt: bytes


@dataclass(frozen=True, slots=True)
class AuthenticationGss:
    """Start GSSAPI."""


@dataclass(frozen=True, slots=True)
class AuthenticationGssContinue:
    """The server's next message of GSSAPI or SSPI."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthenticationSspi:
    """Start SSPI."""


@dataclass(frozen=True, slots=True)
class AuthenticationSasl:
    """Choose one of these mechanisms; the server's favourite comes first."""

    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuthenticationSaslContinue:
    """The server's next message of the mechanism."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthenticationSaslFinal:
    """The server's last message of the mechanism; AuthenticationOk follows."""

    data: bytes = field(repr=False)


AuthenticationMessage: TypeAlias = (
    AuthenticationOk
    | AuthenticationKerberosV5
    | AuthenticationCleartextPassword
    | AuthenticationMd5Password
    | AuthenticationGss
    | AuthenticationGssContinue
    | AuthenticationSspi
    | AuthenticationSasl
    | AuthenticationSaslContinue
    | AuthenticationSaslFinal
)


def _read_mechanisms(reader: BodyReader) -> tuple[str, ...]:
    mechanisms: list[str] = []
    while mechanism := reader.string():
        if len(mechanisms) == OPTIONS_MAX:
            raise ProtocolError(f"more than {OPTIONS_MAX} mechanisms are offered")
        mechanisms.append(mechanism)
    return tuple(mechanisms)


def _write_mechanisms(mechanisms: Sequence[str]) -> bytes:
    if "" in mechanisms or len(mechanisms) > OPTIONS_MAX:
        raise ValueError(f"mechanisms have names, and there are at most {OPTIONS_MAX}")
    return b"".join(map(write_string, mechanisms)) + b"\0"


_CODE: Final = struct.Struct(">I")
_MECHANISMS: Final = Field(_read_mechanisms, _write_mechanisms)
_KIND: Final = ord("R")


def _layout(code: int, message: "type[DataclassInstance]", *fields: Field[Any]) -> Layout:
    return Layout(_KIND, message, fields, TOKEN_BYTES_MAX, _CODE.pack(code))


AUTHENTICATION: Final = (
    _layout(0, AuthenticationOk),
    _layout(2, AuthenticationKerberosV5),
    _layout(3, AuthenticationCleartextPassword),
    _layout(5, AuthenticationMd5Password, bytes_field(4)),
    _layout(7, AuthenticationGss),
    _layout(8, AuthenticationGssContinue, REST),
    _layout(9, AuthenticationSspi),
    _layout(10, AuthenticationSasl, _MECHANISMS),
    _layout(11, AuthenticationSaslContinue, REST),
    _layout(12, AuthenticationSaslFinal, REST),
)
