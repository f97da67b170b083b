"""What a client sends first: a StartupMessage, or a request for TLS, GSSAPI encryption or a cancel.

These packets have a length but no kind (FrameReader yields them as PACKET_KIND). The answer to
SslRequest and GssRequest is one byte, not a frame: ACCEPTED or REFUSED.

Any 3.x is taken, because a server answers a minor version that it does not know with
NegotiateProtocolVersion, and goes on with its own newest.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from .backend import CANCEL_KEY_BYTES_MAX, CANCEL_KEY_BYTES_MIN
from .errors import ProtocolError, UnsupportedVersionError
from .fields import INT32_FORMAT, UINT32_FORMAT, BodyReader, write_string
from .frames import (
    GSS_REQUEST_CODE,
    LENGTH_BYTES,
    PACKET_BYTES_MAX,
    SSL_REQUEST_CODE,
    Buffer,
)

MAJOR: Final = 3
MINOR_MAX: Final = 2  # the newest we know; there is no 3.1
CANCEL_REQUEST_CODE: Final = 80877102

ACCEPTED: Final = b"S"  # of an SSLRequest; of a GSSENCRequest it is b"G", which we never send
REFUSED: Final = b"N"

# Names that begin so are options of the protocol, which may be refused one by one.
PROTOCOL_OPTION_PREFIX: Final = "_pq_."

_PACKET: Final = struct.Struct(">II")  # bytes of the packet, code
_CANCEL: Final = struct.Struct(">IIi")  # and the pid; the key follows


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Who wants to talk, about what, in which version."""

    major: int
    minor: int
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SslRequest:
    """May we go on in TLS?"""


@dataclass(frozen=True, slots=True)
class GssRequest:
    """May we go on in GSSAPI encryption?"""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """End what the session with this BackendKeyData is doing."""

    pid: int
    key: bytes = field(repr=False)


StartupPacket: TypeAlias = StartupMessage | SslRequest | GssRequest | CancelRequest


def decode_startup(packet: Buffer) -> StartupPacket:
    """Make a message of a packet, without its length, as FrameReader yields it."""
    if len(packet) + LENGTH_BYTES > PACKET_BYTES_MAX:
        raise ProtocolError(f"a start-up packet exceeds {PACKET_BYTES_MAX} bytes")
    reader = BodyReader(bytes(packet))
    code = reader.number(UINT32_FORMAT)
    message: StartupPacket
    if code == SSL_REQUEST_CODE:
        message = SslRequest()
    elif code == GSS_REQUEST_CODE:
        message = GssRequest()
    elif code == CANCEL_REQUEST_CODE:
        message = _read_cancel(reader)
    else:
        message = _read_startup(code, reader)
    reader.end()
    return message


def encode_startup(message: StartupPacket) -> bytes:
    """Return the whole packet; ValueError if it cannot be sent."""
    match message:
        case SslRequest():
            return _PACKET.pack(_PACKET.size, SSL_REQUEST_CODE)
        case GssRequest():
            return _PACKET.pack(_PACKET.size, GSS_REQUEST_CODE)
        case CancelRequest(pid, key):
            _verify_key(len(key), ValueError)
            return _CANCEL.pack(_CANCEL.size + len(key), CANCEL_REQUEST_CODE, pid) + key
        case StartupMessage(major, minor, parameters):
            return _startup_packet(major << 16 | minor, parameters)


def _read_cancel(reader: BodyReader) -> CancelRequest:
    pid = reader.number(INT32_FORMAT)
    _verify_key(reader.left_bytes, ProtocolError)
    return CancelRequest(pid, reader.take(reader.left_bytes))


def _verify_key(size_bytes: int, error: type[Exception]) -> None:
    if not CANCEL_KEY_BYTES_MIN <= size_bytes <= CANCEL_KEY_BYTES_MAX:
        raise error(
            f"a cancel key has {CANCEL_KEY_BYTES_MIN} to {CANCEL_KEY_BYTES_MAX} bytes, "
            f"not {size_bytes}"
        )


def _read_startup(code: int, reader: BodyReader) -> StartupMessage:
    major, minor = code >> 16, code & 0xFFFF
    if major != MAJOR:
        raise UnsupportedVersionError(
            f"protocol {major}.{minor} is not spoken here: use {MAJOR}.0 to {MAJOR}.{MINOR_MAX}"
        )
    parameters: dict[str, str] = {}
    while name := reader.string():
        if name in parameters:
            raise ProtocolError("a start-up parameter is given twice")
        parameters[name] = reader.string()
    return StartupMessage(major, minor, parameters)


def _startup_packet(code: int, parameters: Mapping[str, str]) -> bytes:
    if "" in parameters:
        raise ValueError("a start-up parameter needs a name")
    pairs = (write_string(name) + write_string(value) for name, value in parameters.items())
    body = b"".join(pairs) + b"\0"
    if _PACKET.size + len(body) > PACKET_BYTES_MAX:
        raise ValueError(f"the start-up parameters exceed {PACKET_BYTES_MAX} bytes: use fewer")
    return _PACKET.pack(_PACKET.size + len(body), code) + body
