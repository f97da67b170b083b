"""Messages from and to frames; the tables are in frontend.py, backend.py and authentication.py.

    message = decode_backend(kind, body)        what a server sent; decode_frontend: a client
    data = encode(message)                      the whole frame

A body may be any bytes: the answer is a message that owns its bytes, or a ProtocolError. Encoding
what was decoded gives the same bytes. A message of ours that cannot be encoded raises ValueError.

The start-up packets, which have no kind, are in startup.py. The stream of replication has a faster
way than `CopyData`: replication.py reads it from the body of the frame, without copying.
"""

import struct
from types import MappingProxyType
from typing import Final, TypeVar

from .authentication import AUTHENTICATION
from .backend import BACKEND, BackendMessage
from .errors import ProtocolError
from .frames import Buffer
from .frontend import (
    FRONTEND,
    RESPONSES,
    AuthenticationResponse,
    FrontendMessage,
    PasswordMessage,
    SaslInitialResponse,
    SaslResponse,
)
from .layout import limits_of

_R = TypeVar("_R", bound=PasswordMessage | SaslInitialResponse | SaslResponse)

_AUTHENTICATION_KIND: Final = AUTHENTICATION[0].kind
_CODE: Final = struct.Struct(">I")

_AUTHENTICATION_BY_CODE: Final = {
    _CODE.unpack(layout.prefix)[0]: layout for layout in AUTHENTICATION
}
_BACKEND_BY_KIND: Final = {layout.kind: layout for layout in BACKEND}
_FRONTEND_BY_KIND: Final = {layout.kind: layout for layout in FRONTEND}
_BY_CLASS: Final = {
    layout.message: layout for layout in (*AUTHENTICATION, *BACKEND, *FRONTEND, *RESPONSES)
}

# For FrameReader: the kinds that a server, or a client, may send, and how long each may be.
BACKEND_LIMITS: Final = MappingProxyType(limits_of((*AUTHENTICATION, *BACKEND)))
FRONTEND_LIMITS: Final = MappingProxyType(limits_of(FRONTEND))


def kind_of(message: type[BackendMessage | FrontendMessage]) -> int:
    """Return the kind of the frames of a class of messages."""
    return _BY_CLASS[message].kind


def encode(message: BackendMessage | FrontendMessage) -> bytes:
    """Return the frame of a message."""
    return _BY_CLASS[type(message)].encode(message)


def decode_backend(kind: int, body: Buffer) -> BackendMessage:
    """Make a message of a frame that a server sent."""
    if kind == _AUTHENTICATION_KIND:
        return _decode_authentication(body)
    layout = _BACKEND_BY_KIND.get(kind)
    if layout is None:
        raise ProtocolError(f"a server sends no messages of kind 0x{kind:02X}")
    message: BackendMessage = layout.decode(body)
    return message


def decode_frontend(kind: int, body: Buffer) -> FrontendMessage:
    """Make a message of a frame that a client sent."""
    layout = _FRONTEND_BY_KIND.get(kind)
    if layout is None:
        raise ProtocolError(f"a client sends no messages of kind 0x{kind:02X}")
    message: FrontendMessage = layout.decode(body)
    return message


def read_response(response: AuthenticationResponse, wanted: type[_R]) -> _R:
    """Read a client's answer as what it was asked for."""
    message: _R = _BY_CLASS[wanted].decode(response.data)
    return message


def _decode_authentication(body: Buffer) -> BackendMessage:
    if len(body) < _CODE.size:
        raise ProtocolError("an authentication message lacks its code")
    (code,) = _CODE.unpack_from(body)
    layout = _AUTHENTICATION_BY_CODE.get(code)
    if layout is None:
        raise ProtocolError(f"authentication of code {code} is unknown: change pg_hba.conf")
    message: BackendMessage = layout.decode(body)
    return message
