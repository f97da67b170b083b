"""The calling side of RPC: one peer, one connection, remade for ever with full-jitter backoff.

    async with RpcClient(address, rng=rng) as client:
        answer = await client.call(GET_PAGES, GetPages(...), timeout_ms=500)

Answers come in any order; every call has a deadline, which travels with it; cancelling the caller
cancels the handler. When the connection breaks, calls under way fail with ConnectionLostError and
the client reconnects by itself. A call waits for an attempt to connect that is under way for the
first time; once an attempt has failed, calls fail at once with UnreachableError until one succeeds,
so that a caller with another node to ask can ask it without delay.
"""

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from .addresses import Address, TcpAddress, UnixAddress, host_is_loopback
from .backoff import full_jitter_ms
from .buffers import BufferPool
from .frames import Payload
from .rpc import Answer, Method, Q, R, RpcSettings
from .rpc_connection import Connection
from .rpc_errors import CallError, DeadlineError, UnreachableError
from .rpc_session import Session
from .tls import ClientTls

log = structlog.get_logger()


class RpcClient:
    """Calls methods of one peer. Invariant: `_session` takes calls, or is None."""

    def __init__(
        self,
        address: Address,
        *,
        rng: random.Random,
        tls: ClientTls | None = None,
        settings: RpcSettings | None = None,
        on_change: Callable[[bool], None] | None = None,
    ) -> None:
        """`on_change` is told when a connection begins (True) and when it has ended (False)."""
        if isinstance(address, TcpAddress) and tls is None and not host_is_loopback(address.host):
            raise ValueError(f"{address} is not loopback: give it TLS certificates")
        self._address = address
        self._rng = rng
        self._tls = tls
        self._settings = settings or RpcSettings()
        self._on_change = on_change or (lambda _: None)
        self._pool = BufferPool(kept_bytes_max=self._settings.pooled_bytes_max)
        self._session: Session | None = None
        self._sessions: set[Session] = set()  # also those that only wait for their last answers
        self._failure = ""
        # Whether the outcome of an attempt is known: a session or a failure.
        self._settled = asyncio.Event()
        self._connected = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._connector = asyncio.create_task(self._keep_connected())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop reconnecting and cut the connection; calls under way fail as lost."""
        assert self._connector is not None
        self._connector.cancel()
        await asyncio.wait([self._connector])
        self._session = None
        self._failure = "the client is closed"
        self._settled.set()
        for session in list(self._sessions):
            session.abort("the client is closed")
            await session.gone
        if not self._connector.cancelled():
            self._connector.result()  # a bug of ours must not stay silent

    async def call(
        self,
        method: Method[Q, R],
        request: Q,
        payload: Payload = b"",
        *,
        timeout_ms: int | None = None,
    ) -> Answer[R]:
        """Call a method and return its answer; see `rpc_errors` for what can go wrong.

        The buffers of the payload must not change until the call is over.
        """
        timeout_ms = self._settings.timeout_ms if timeout_ms is None else timeout_ms
        if not 1 <= timeout_ms <= self._settings.timeout_ms_max:
            raise CallError(
                f"the timeout of {method.name} must be 1 .. {self._settings.timeout_ms_max} ms, "
                f"not {timeout_ms}"
            )
        deadline = asyncio.get_running_loop().time() + timeout_ms / 1000
        session = self._session or await self._next_session(method.name, deadline)
        return await session.call(method, request, payload, deadline=deadline)

    def post(self, channel: int, header: bytes, payload: Payload = b"") -> bool:
        """Send a one-way message now, or return False: no connection, or the peer does not read.

        True promises nothing but order. The buffers of the payload must not change any more.
        """
        session = self._session
        return session is not None and session.post(channel, header, payload)

    async def until_connected(self) -> None:
        """Wait until calls can be made; bound the wait with `asyncio.timeout`."""
        await self._connected.wait()

    async def _next_session(self, name: str, deadline: float) -> Session:
        try:
            async with asyncio.timeout_at(deadline):
                await self._settled.wait()
        except TimeoutError:
            raise DeadlineError(f"{name} was not sent: no connection to {self._address}") from None
        if self._session is None:
            raise UnreachableError(f"{name} was not sent to {self._address}: {self._failure}")
        return self._session

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            try:
                session = await self._connect()
            except UnreachableError as error:
                failures += 1
                self._failed(str(error), is_first=failures == 1)
            else:
                failures = 0
                await self._use_until_ended(session)
            wait_ms = full_jitter_ms(
                self._rng,
                failures=failures,
                base_ms=self._settings.backoff_base_ms,
                cap_ms=self._settings.backoff_cap_ms,
            )
            await asyncio.sleep(wait_ms / 1000)

    # Shields, because cancelling the one who awaits a future cancels the future.

    async def _connect(self) -> Session:
        """Return a greeted session, or raise UnreachableError."""
        session = Session(self._settings, self._tls)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_ms / 1000):
                await self._open(lambda: Connection(session, self._settings, self._pool))
                self._remember(session)
                refusal = await asyncio.shield(session.greeted)
        except TimeoutError:
            session.abort("the server did not greet in time")
            raise UnreachableError("the server did not greet in time") from None
        except OSError as error:
            raise UnreachableError(str(error) or type(error).__name__) from error
        if refusal is not None:
            raise UnreachableError(refusal)
        return session

    async def _open(self, factory: Callable[[], Connection]) -> None:
        loop = asyncio.get_running_loop()
        match self._address:
            case UnixAddress(path):
                await loop.create_unix_connection(factory, path)
            case TcpAddress(host, port):
                await loop.create_connection(
                    factory,
                    host,
                    port,
                    ssl=self._tls.context if self._tls else None,
                    server_hostname=host if self._tls else None,
                )

    def _remember(self, session: Session) -> None:
        self._sessions.add(session)
        session.gone.add_done_callback(lambda _: self._sessions.discard(session))

    def _failed(self, reason: str, *, is_first: bool) -> None:
        if is_first:
            log.info("rpc peer unreachable", address=str(self._address), reason=reason)
        self._failure = reason
        self._settled.set()

    async def _use_until_ended(self, session: Session) -> None:
        log.debug("rpc connected", address=str(self._address))
        self._session = session
        self._settled.set()
        self._connected.set()
        self._on_change(True)
        reason = await asyncio.shield(session.ended)
        log.info("rpc connection ended", address=str(self._address), reason=reason)
        self._session = None
        self._settled.clear()
        self._connected.clear()
        self._on_change(False)
