"""One connection of an RPC server: its calls, from the REQUEST frame to the answer.

Every call is a task in `_running` from the moment it is accepted until the task is done, and leaves
through `_finished`, whatever happened to it: a task that is cancelled before its first step runs no
code of its own.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import msgspec
import structlog

from .frames import MESSAGE, Frame, FrameError, Kind, byte_count, payload_byte_count
from .ids import Role
from .rpc import (
    REQUEST_DECODER,
    Call,
    Channel,
    Handler,
    Hello,
    Method,
    Peer,
    Reply,
    RequestHeader,
    RpcSettings,
    encode_error,
    encode_header,
)
from .rpc_connection import Connection, ReadHold
from .rpc_errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    DeniedError,
    FailedError,
    RpcError,
    UnknownMethodError,
)
from .tls import IdentityError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """A method, who serves it and who may call it over TLS."""

    method: Method[Any, Any]
    handler: Handler[Any, Any]
    roles: frozenset[Role]


@dataclass(frozen=True, slots=True)
class ChannelRoute:
    """A channel for one-way messages, and who may post to it over TLS."""

    channel: Channel
    roles: frozenset[Role]


class _Fate(Enum):
    """What cut a call short."""

    NONE = auto()
    EXPIRED = auto()
    UNWANTED = auto()


@dataclass(slots=True)
class _Running:
    """A call under way."""

    task: asyncio.Task[None]
    timer: asyncio.TimerHandle
    method_name: str
    payload_bytes: int
    fate: _Fate = _Fate.NONE


class ServedConnection:
    """The server's part of a connection.

    `admit` decides whether the connection is taken and says who the peer is; `forget` is called
    when it is gone and its last handler has ended, and then `gone` is done too.
    """

    def __init__(
        self,
        *,
        settings: RpcSettings,
        routes: Mapping[str, Route],
        channels: Mapping[int, ChannelRoute],
        number: int,
        admit: Callable[["ServedConnection", asyncio.Transport], Peer],
        forget: Callable[["ServedConnection"], None],
    ) -> None:
        self._settings = settings
        self._routes = routes
        self._channels = channels
        self._channels_used: dict[int, Channel] = {}
        self._number = number
        self._admit = admit
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._running: dict[int, _Running] = {}
        self._queued_bytes = 0
        self._refusal = ""
        self._is_lost = False
        self._connection: Connection | None = None
        self._peer: Peer | None = None

    def drain(self, reason: str) -> None:
        """Refuse further calls and ask the peer to leave when it has its answers."""
        self._refusal = reason
        self._open.send(Kind.GOODBYE, header=encode_header(reason))

    def abort(self, reason: str) -> None:
        """Cut the connection and cancel its calls."""
        self._open.abort(reason)

    def calls_under_way(self) -> list[str]:
        """Return the methods whose handlers have not ended."""
        return [running.method_name for running in self._running.values()]

    # The connection's owner.

    def connection_opened(self, connection: Connection) -> None:
        """Greet the peer with our limits, or say why it is not wanted."""
        self._connection = connection
        try:
            self._peer = self._admit(self, connection.transport)
        except (IdentityError, ConnectionRefusedError) as error:
            log.info("rpc connection refused", reason=str(error))
            connection.close(str(error), tell_peer=True)
            return
        settings = self._settings
        hello = Hello(
            settings.header_bytes_max,
            settings.payload_bytes_max,
            settings.calls_per_connection_max,
        )
        connection.send(Kind.HELLO, header=encode_header(hello))

    def frame_received(self, frame: Frame) -> None:
        """Begin a call, stop one, or hand on a message."""
        if frame.kind is MESSAGE:
            assert self._peer is not None
            channel = self._channels_used.get(frame.call_id)
            if channel is None:
                channel = self._use_channel(frame.call_id)
            channel.received(self._peer, self._number, frame.header, frame.payload)
        elif frame.kind is Kind.REQUEST:
            self._request(frame)
        elif frame.kind is Kind.CANCEL:
            self._stop(frame.call_id, _Fate.UNWANTED)
        elif frame.kind is not Kind.GOODBYE:
            raise FrameError(f"a client sent a {frame.kind.name} frame, which only servers do")

    def connection_lost(self, reason: str) -> None:
        """Cancel what nobody waits for any more."""
        self._is_lost = True
        for channel in self._channels_used.values():
            channel.lost(self._number)
        log.debug("rpc connection ended", peer=str(self._peer), reason=reason)
        for call_id in list(self._running):
            self._stop(call_id, _Fate.UNWANTED)
        self._leave_if_done()

    def _use_channel(self, number: int) -> Channel:
        """Check, once a connection, that the peer may post to a channel: neither will change."""
        assert self._peer is not None
        route = self._channels.get(number)
        if route is None:
            raise FrameError(f"there is no channel {number} here")
        if self._peer.identity is not None and self._peer.identity.role not in route.roles:
            raise FrameError(f"{self._peer.identity} may not post to channel {number}")
        self._channels_used[number] = route.channel
        return route.channel

    # A call, in the order of its life.

    def _request(self, frame: Frame) -> None:
        if frame.call_id in self._running:
            raise FrameError(f"call {frame.call_id} was begun twice")
        try:
            header = REQUEST_DECODER.decode(frame.header)
        except (msgspec.DecodeError, RecursionError) as error:
            raise FrameError(f"a request header is wrong: {error}") from error
        try:
            self._begin(frame, header, self._route(header.method))
        except RpcError as error:
            self._open.send(Kind.ERROR, frame.call_id, encode_error(error))

    def _route(self, name: str) -> Route:
        """Return the route of a method if the peer may have it now."""
        assert self._peer is not None
        if self._refusal:
            raise BusyError(self._refusal)
        if len(self._running) >= self._settings.calls_per_connection_max:
            raise BusyError(
                f"the connection is at its limit of {self._settings.calls_per_connection_max} calls"
            )
        route = self._routes.get(name)
        if route is None:
            raise UnknownMethodError(f"there is no method {name!r} here")
        if self._peer.identity is not None and self._peer.identity.role not in route.roles:
            raise DeniedError(f"{self._peer.identity} may not call {name}")
        return route

    def _begin(self, frame: Frame, header: RequestHeader, route: Route) -> None:
        assert self._peer is not None
        if header.timeout_ms > self._settings.timeout_ms_max:
            raise BadRequestError(
                f"a timeout of {header.timeout_ms} ms exceeds the limit of "
                f"{self._settings.timeout_ms_max} ms"
            )
        request = route.method.decode_request(header.request)
        call, call_id = Call(self._peer, frame.payload), frame.call_id
        task = self._loop.create_task(self._run(route.handler, call, request, call_id))
        timer = self._loop.call_later(header.timeout_ms / 1000, self._stop, call_id, _Fate.EXPIRED)
        payload_bytes = byte_count(frame.payload)
        self._running[call_id] = _Running(task, timer, header.method, payload_bytes)
        self._queued_bytes += payload_bytes
        if self._queued_bytes > self._settings.queued_bytes_max:
            self._open.hold_reading(ReadHold.REQUESTS_QUEUED)
        task.add_done_callback(lambda done: self._finished(call_id, done))

    async def _run(
        self, handler: Handler[Any, Any], call: Call, request: Any, call_id: int
    ) -> None:
        reply: Reply[Any] = await handler(call, request)
        if not self._open.is_writable:
            await self._open.until_writable()
        header = encode_header(reply.response)
        self._check_size(header, reply)
        self._open.send(Kind.RESPONSE, call_id, header, reply.payload)

    def _check_size(self, header: bytes, reply: Reply[Any]) -> None:
        # Our limits are those of every node of the system: what we would not take, we do not send.
        if len(header) > self._settings.header_bytes_max:
            raise FailedError(f"the answer has a header of {len(header)} bytes: ask for less")
        payload_bytes = payload_byte_count(reply.payload)
        if payload_bytes > self._settings.payload_bytes_max:
            raise FailedError(f"the answer has a payload of {payload_bytes} bytes: ask for less")

    def _stop(self, call_id: int, fate: _Fate) -> None:
        running = self._running.get(call_id)
        # A call that has ended meanwhile crossed its cancel on the way.
        if running is not None and running.fate is _Fate.NONE:
            running.fate = fate
            running.task.cancel()

    def _finished(self, call_id: int, task: asyncio.Task[None]) -> None:
        running = self._running.pop(call_id)
        running.timer.cancel()
        self._queued_bytes -= running.payload_bytes
        if self._queued_bytes <= self._settings.queued_bytes_max:
            self._open.release_reading(ReadHold.REQUESTS_QUEUED)
        error = self._error_of(running, task)
        if error is not None:
            self._open.send(Kind.ERROR, call_id, encode_error(error))
        self._leave_if_done()

    def _error_of(self, running: _Running, task: asyncio.Task[None]) -> RpcError | None:
        """Return what the caller is told; None if it has its answer or does not want one."""
        if not task.cancelled() and task.exception() is None:
            return None
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        was_stopped = task.cancelled() and running.fate is not _Fate.NONE
        if not was_stopped and not isinstance(failure, RpcError):
            # Even when nobody waits: a handler must not fail with anything else.
            log.error("rpc handler failed", method=running.method_name, exc_info=failure)
        if running.fate is _Fate.UNWANTED:
            return None
        if running.fate is _Fate.EXPIRED:
            return DeadlineError(f"{running.method_name} did not finish in time")
        if isinstance(failure, RpcError):
            return failure
        return FailedError(f"{running.method_name} failed: see the log of the peer")

    def _leave_if_done(self) -> None:
        if self._is_lost and not self._running and not self.gone.done():
            self._forget(self)
            self.gone.set_result(None)

    @property
    def _open(self) -> Connection:
        assert self._connection is not None
        return self._connection
