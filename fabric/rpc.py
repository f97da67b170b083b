"""The vocabulary of RPC: methods, replies, peers, settings and the headers inside frames. No I/O.

A component declares its methods once, in its `client` module, and both sides use the declaration:

    GET_PAGES = Method("storage.get_pages", GetPages, Pages)

    server.add(GET_PAGES, pages.get, roles={Role.COMPUTE})     # rpc_server.py
    answer = await client.call(GET_PAGES, GetPages(...))       # rpc_client.py

Requests and responses are `msgspec.Struct` types; their fields may be of our vocabulary types
(`Lsn`, `BranchName`, ...). What is large, pages and WAL, goes beside them as payload.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from .codec import decode_hook, encode_hook
from .frames import Payload
from .rpc_errors import MESSAGE_CHARACTERS_MAX, BadRequestError, FailedError, RpcError
from .tls import Identity

METHOD_NAME_CHARACTERS_MAX: Final = 100

Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

ReceivedPayload: TypeAlias = bytes | memoryview
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcSettings:
    """What a user may tune, the same for servers and clients of a component."""

    header_bytes_max: _Count = 128 * 1024
    """A thousand page keys of some 50 bytes, and room."""

    payload_bytes_max: _Count = 16 * 1024 * 1024
    """Several times the largest single transfer, 1 MiB of a widened sequential scan."""

    calls_per_connection_max: _Count = 1024
    """Under way at one time; a client waits with more, a server answers that it is busy."""

    connections_max: _Count = 1000
    """Of one server. Each costs 64 KiB of receive buffer, so 64 MB at the limit."""

    queued_bytes_max: _Count = 64 * 1024 * 1024
    """Payload of the requests of one connection that are under way; above it nothing is read."""

    pooled_bytes_max: _Count = 32 * 1024 * 1024
    """Of receive buffers for large payloads, kept for reuse by a server or a client."""

    write_buffer_bytes_max: _Count = 1024 * 1024
    """Written but not yet taken by the kernel; above it senders wait."""

    timeout_ms: _Count = 10_000
    """Of a call that names none."""

    timeout_ms_max: _Count = 300_000
    """Of any call; it bounds how long a forgotten handler lives. Long polls stay below it."""

    connect_timeout_ms: _Count = 3_000
    """From the first packet to the greeting of the server, TLS included."""

    heartbeat_ms: _Count = 2_000
    """A side that has sent nothing for so long sends a heartbeat; each wakes up two processes. The
    same on both sides: who is less patient than the other speaks takes it for dead."""

    dead_after_heartbeats: _Count = 3
    """Intervals without a byte from the peer, or without the peer taking one, until it is dead."""

    drain_timeout_ms: _Count = 10_000
    """How long a closing server waits for the calls under way."""

    backoff_base_ms: _Count = 50
    """The longest wait before the first reconnection; it doubles with each failure."""

    backoff_cap_ms: _Count = 2_000
    """The longest wait between attempts: the time a restarted peer may stay unnoticed."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end. Only TLS proves an identity; the other two are on this machine."""

    link: Literal["tls", "loopback", "unix"]
    address: str
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets besides the request."""

    peer: Peer
    payload: ReceivedPayload


@dataclass(frozen=True, slots=True)
class Reply(Generic[R]):
    """What a handler returns. The buffers must not change until they have been sent."""

    response: R
    payload: Payload = b""


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """What a caller gets. A large payload is a view of a buffer that belongs to the answer."""

    response: R
    payload: ReceivedPayload


class Channel(Protocol):
    """Takes one-way messages: for streams whose protocol has acknowledgements of its own.

    Header and payload are raw. Messages of one connection arrive in the order they were posted, and
    are lost with it. Both methods are called by the event loop and must not block.
    """

    def received(
        self, peer: Peer, connection_number: int, header: bytes, payload: ReceivedPayload
    ) -> None:
        """Take a message; FrameError says that the peer broke the protocol."""

    def lost(self, connection_number: int) -> None:
        """A connection that a message came from has ended."""


# Serves one method. It is cancelled when the caller has gone or the deadline has passed.
Handler: TypeAlias = Callable[[Call, Q], Coroutine[Any, Any, Reply[R]]]


class Method(Generic[Q, R]):
    """The declaration of a method: its name on the wire and the types of both directions."""

    __slots__ = ("_request_decoder", "_response_decoder", "name")

    def __init__(self, name: str, request: type[Q], response: type[R]) -> None:
        if not 1 <= len(name) <= METHOD_NAME_CHARACTERS_MAX:
            raise ValueError(f"a method name has 1 to {METHOD_NAME_CHARACTERS_MAX} characters")
        self.name = name
        self._request_decoder = msgspec.msgpack.Decoder(request, dec_hook=decode_hook)
        self._response_decoder = msgspec.msgpack.Decoder(response, dec_hook=decode_hook)

    def decode_request(self, data: msgspec.Raw) -> Q:
        """Validate what a client sent."""
        try:
            return self._request_decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadRequestError(f"the request of {self.name} is wrong: {error}") from error

    def decode_response(self, data: bytes) -> R:
        """Validate what a server answered."""
        try:
            return self._response_decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FailedError(f"the answer of {self.name} is wrong: {error}") from error


class RequestHeader(msgspec.Struct, frozen=True, array_like=True):
    """The header of a REQUEST frame, as it is decoded: the parameters wait for their method."""

    method: Annotated[str, msgspec.Meta(max_length=METHOD_NAME_CHARACTERS_MAX)]
    timeout_ms: _Count
    request: msgspec.Raw


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The header of a HELLO frame: what this server accepts."""

    header_bytes_max: _Count
    payload_bytes_max: _Count
    calls_max: _Count


class ErrorHeader(msgspec.Struct, frozen=True, array_like=True):
    """The header of an ERROR frame."""

    code: int
    message: str


def encode_request(method: str, *, timeout_ms: int, request: msgspec.Struct) -> bytes:
    """Return the header of a REQUEST frame."""
    return _ENCODER.encode((method, timeout_ms, request))


def encode_header(header: msgspec.Struct | str) -> bytes:
    """Return a response, a `Hello` or the reason of a GOODBYE as the header of its frame."""
    return _ENCODER.encode(header)


def encode_error(error: RpcError) -> bytes:
    """Return the header of an ERROR frame."""
    return _ENCODER.encode(ErrorHeader(error.code, str(error)[:MESSAGE_CHARACTERS_MAX]))


def decode_reason(header: bytes) -> str:
    """Return why the peer said goodbye, for a log or an error; whatever it sent is tolerated."""
    try:
        return _REASON_DECODER.decode(header)[:MESSAGE_CHARACTERS_MAX]
    except msgspec.DecodeError:
        return "it gave no reason"


REQUEST_DECODER: Final = msgspec.msgpack.Decoder(RequestHeader)
HELLO_DECODER: Final = msgspec.msgpack.Decoder(Hello)
ERROR_DECODER: Final = msgspec.msgpack.Decoder(ErrorHeader)
_REASON_DECODER: Final = msgspec.msgpack.Decoder(str)
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=encode_hook)
