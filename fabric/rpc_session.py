"""One connection of an RPC client: the calls that wait for their answers on it.

A session begins when the server has greeted. It takes no further calls once the server has said
goodbye, closes when the last answer has arrived, and fails what still waits when the connection
breaks.

A waiting call is a future whose result is a frame or an error. An error is never set as the
future's exception: nobody would retrieve it if the caller were cancelled at the same moment.
"""

import asyncio
import math

import msgspec

from .frames import MESSAGE, Frame, FrameError, Kind, Payload, payload_byte_count
from .rpc import (
    ERROR_DECODER,
    HELLO_DECODER,
    Answer,
    Hello,
    Method,
    Q,
    R,
    RpcSettings,
    decode_reason,
    encode_request,
)
from .rpc_connection import Connection, peer_of
from .rpc_errors import (
    CallError,
    ConnectionLostError,
    DeadlineError,
    RpcError,
    UnreachableError,
    error_from_wire,
)
from .tls import ClientTls, IdentityError


class Session:
    """The client's part of a connection.

    `greeted` brings None when calls may be made, or the reason why they never will; `ended` the
    reason why no further call is taken; `gone` is done when the transport is gone.
    """

    def __init__(self, settings: RpcSettings, tls: ClientTls | None) -> None:
        self._settings = settings
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[str | None] = self._loop.create_future()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._hello: Hello | None = None
        self._slots = asyncio.Semaphore(0)  # none until the server has greeted
        self._waiting: dict[int, asyncio.Future[Frame | RpcError]] = {}
        self._last_call_id = 0
        self._connection: Connection | None = None

    # What the client uses.

    async def call(
        self, method: Method[Q, R], request: Q, payload: Payload, *, deadline: float
    ) -> Answer[R]:
        """Send a request and return its answer; `deadline` is a time of the event loop."""
        if self._slots.locked() or not self._open.is_writable:
            await self._until_admitted(method.name, deadline)
        else:
            await self._slots.acquire()  # does not wait
        try:
            outcome = await self._exchange(method.name, request, payload, deadline)
        finally:
            self._slots.release()
            self._leave_if_done()
        if isinstance(outcome, RpcError):
            raise outcome
        return Answer(method.decode_response(outcome.header), outcome.payload)

    def post(self, channel: int, header: bytes, payload: Payload) -> bool:
        """Send a one-way message unless the connection is ending or its write buffer is full."""
        connection, hello = self._connection, self._hello
        assert connection is not None
        assert hello is not None
        if self.ended.done() or not connection.is_writable:
            return False
        payload_bytes = payload_byte_count(payload) if payload else 0
        if len(header) > hello.header_bytes_max or payload_bytes > hello.payload_bytes_max:
            self._check_size(f"channel {channel}", header, payload)  # raises, and says which
        connection.send(MESSAGE, channel, header, payload)
        return True

    def abort(self, reason: str) -> None:
        """Cut the connection; calls under way fail as lost."""
        if self._connection is not None:
            self._connection.abort(reason)

    # The connection's owner.

    def connection_opened(self, connection: Connection) -> None:
        """Check who the server is, before anything is sent to it."""
        self._connection = connection
        try:
            peer = peer_of(connection.transport)
            if self._tls is not None:
                self._tls.check_server(peer.identity)
        except IdentityError as error:
            connection.abort(str(error))

    def frame_received(self, frame: Frame) -> None:
        """Give an answer to the call that waits for it."""
        if self._hello is None and frame.kind not in {Kind.HELLO, Kind.GOODBYE}:
            raise FrameError(f"a server began with a {frame.kind.name} frame, not with its hello")
        match frame.kind:
            case Kind.RESPONSE:
                self._answer(frame.call_id, frame)
            case Kind.ERROR:
                self._answer(frame.call_id, _reported_error(frame))
            case Kind.HELLO:
                self._greet(frame)
            case Kind.GOODBYE:
                self._end(decode_reason(frame.header))
                self._leave_if_done()
            case _:
                raise FrameError(f"a server sent a {frame.kind.name} frame, which only clients do")

    def connection_lost(self, reason: str) -> None:
        """Fail what still waits: whether it was executed, nobody knows."""
        self._end(reason)
        for future in self._waiting.values():
            if not future.done():
                future.set_result(ConnectionLostError(reason))
        self._waiting.clear()
        self.gone.set_result(None)

    # Helpers, in the order of a session's life.

    def _greet(self, frame: Frame) -> None:
        if self._hello is not None:
            raise FrameError("a server said hello twice")
        try:
            self._hello = HELLO_DECODER.decode(frame.header)
        except msgspec.DecodeError as error:
            raise FrameError(f"a hello is wrong: {error}") from error
        self._slots = asyncio.Semaphore(
            min(self._hello.calls_max, self._settings.calls_per_connection_max)
        )
        self.greeted.set_result(None)

    async def _until_admitted(self, name: str, deadline: float) -> None:
        """Take a slot when there is one and the server reads."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
                try:
                    await self._open.until_writable()
                except asyncio.CancelledError:
                    self._slots.release()
                    raise
        except TimeoutError:
            raise DeadlineError(
                f"{name} was not sent in time: the peer takes no more calls"
            ) from None

    async def _exchange(
        self, name: str, request: msgspec.Struct, payload: Payload, deadline: float
    ) -> Frame | RpcError:
        if self.ended.done():
            return UnreachableError(f"{name} was not sent: {self.ended.result()}")
        # Rounded up: zero would mean that there is no time left, and it is checked below.
        timeout_ms = math.ceil((deadline - self._loop.time()) * 1000)
        if timeout_ms <= 0:
            return DeadlineError(f"{name} was not sent: its time is up")
        header = encode_request(name, timeout_ms=timeout_ms, request=request)
        self._check_size(name, header, payload)
        self._last_call_id = call_id = self._last_call_id + 1
        future: asyncio.Future[Frame | RpcError] = self._loop.create_future()
        self._waiting[call_id] = future
        timer = self._loop.call_at(deadline, self._expire, call_id, name)
        self._open.send(Kind.REQUEST, call_id, header, payload)
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(call_id)
            raise
        finally:
            timer.cancel()

    def _check_size(self, name: str, header: bytes, payload: Payload) -> None:
        assert self._hello is not None
        if len(header) > self._hello.header_bytes_max:
            raise CallError(f"the request of {name} has {len(header)} bytes: split it")
        payload_bytes = payload_byte_count(payload)
        if payload_bytes > self._hello.payload_bytes_max:
            raise CallError(f"the payload of {name} has {payload_bytes} bytes: split it")

    def _answer(self, call_id: int, outcome: Frame | RpcError) -> None:
        if call_id > self._last_call_id:
            raise FrameError(f"a server answered call {call_id}, which was never made")
        future = self._waiting.pop(call_id, None)
        # An answer that nobody waits for crossed our cancel on the way.
        if future is not None and not future.done():
            future.set_result(outcome)

    def _expire(self, call_id: int, name: str) -> None:
        future = self._waiting.get(call_id)
        self._forget(call_id)
        if future is not None and not future.done():
            future.set_result(DeadlineError(f"{name} was not answered in time"))

    def _forget(self, call_id: int) -> None:
        if self._waiting.pop(call_id, None) is not None:
            self._open.send(Kind.CANCEL, call_id)

    def _end(self, reason: str) -> None:
        if not self.greeted.done():
            self.greeted.set_result(reason)
        if not self.ended.done():
            self.ended.set_result(reason)

    def _leave_if_done(self) -> None:
        if self.ended.done() and not self._waiting:
            self._open.close(self.ended.result())

    @property
    def _open(self) -> Connection:
        assert self._connection is not None
        return self._connection


def _reported_error(frame: Frame) -> RpcError:
    try:
        header = ERROR_DECODER.decode(frame.header)
    except msgspec.DecodeError as error:
        raise FrameError(f"an error header is wrong: {error}") from error
    return error_from_wire(header.code, header.message)
