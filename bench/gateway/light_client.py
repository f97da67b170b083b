"""A client that weighs little: it logs in, asks simple queries, says goodbye.

    client = await LightClient.open(port, keys)
    await client.ask("select 1")
    client.close()

For thousands of connections at a time, and thousands of logins a minute, where a driver would be
most of what is measured.
"""

import asyncio
import contextlib
import os
import resource
import ssl
import struct
from dataclasses import dataclass
from typing import Final, Self

from pgwire.backend import ErrorResponse, ReadyForQuery
from pgwire.channel_binding import tls_server_end_point
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.frontend import Query, Terminate
from pgwire.messages import decode_backend, encode, kind_of
from pgwire.scram import ScramError, ScramKeys
from pgwire.startup import ACCEPTED, SslRequest, encode_startup

from .credentials import DATABASE, HOST, USER

DEADLINE_S: Final = 60.0
BODY_BYTES_MAX: Final = 1 << 20
BROKEN: Final = (OSError, EOFError, TimeoutError)

_HEADER: Final = struct.Struct(">BI")
_ERROR: Final = kind_of(ErrorResponse)
_READY: Final = kind_of(ReadyForQuery)


class LightClientError(Exception):
    """The server said no, or something else than was expected, or nothing at all."""


@dataclass(slots=True)
class LightClient:
    """A session. Invariant: between two calls the server waits for a query."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(
        cls,
        port: int,
        keys: ScramKeys,
        *,
        tls: ssl.SSLContext | None = None,
        local_host: str = HOST,
    ) -> Self:
        """Log in. `local_host` is where from: each address of loopback has ports of its own."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection(
                    HOST, port, local_addr=(local_host, 0)
                )
                client = cls(reader, writer)
                try:
                    await client._log_in(keys, tls)
                except BaseException:
                    client.close()
                    raise
        except (*BROKEN, ServerRefusedError, ScramError, ProtocolError) as error:
            raise LightClientError(
                f"no login at port {port}: {str(error) or repr(error)}"
            ) from error
        return client

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed the connection."""
        return not (self.reader.at_eof() or self.reader.exception() or self.writer.is_closing())

    async def ask(self, sql: str) -> None:
        """Wait for the end of the answer, and forget it."""
        self.writer.write(encode(Query(sql)))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    kind, body = await self._frame()
                    if kind == _ERROR:
                        error = decode_backend(kind, body)
                        assert isinstance(error, ErrorResponse), "the kind says so"
                        raise LightClientError(f"{sql} failed: {error.sqlstate} {error.message}")
                    if kind == _READY:
                        return
        except BROKEN as error:
            raise LightClientError(f"{sql} got no answer: {str(error) or repr(error)}") from error

    def close(self) -> None:
        """Say goodbye, if there is still somebody."""
        if not self.writer.is_closing():
            self.writer.write(encode(Terminate()))
            self.writer.close()

    async def leave(self) -> None:
        """Say goodbye, and wait until the connection is closed."""
        self.close()
        with contextlib.suppress(*BROKEN):
            await self.writer.wait_closed()

    async def _log_in(self, keys: ScramKeys, tls: ssl.SSLContext | None) -> None:
        binding_data = None if tls is None else await self._encrypted(tls)
        handshake = ClientHandshake(
            {"user": USER, "database": DATABASE},
            keys,
            random_bytes=os.urandom,
            binding_data=binding_data,
        )
        self.writer.write(handshake.start())
        while not handshake.is_done:
            if answer := handshake.receive(*await self._frame()):
                self.writer.write(answer)

    async def _encrypted(self, tls: ssl.SSLContext) -> bytes | None:
        """Go on in TLS; what ties the login to it."""
        self.writer.write(encode_startup(SslRequest()))
        if await self.reader.readexactly(1) != ACCEPTED:
            raise LightClientError("the server does no TLS")
        await self.writer.start_tls(tls, server_hostname=HOST)
        certificate = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return tls_server_end_point(certificate)

    async def _frame(self) -> tuple[int, bytes]:
        kind, length = _HEADER.unpack(await self.reader.readexactly(_HEADER.size))
        if not 4 <= length <= BODY_BYTES_MAX:  # noqa: PLR2004  # a length counts itself
            raise LightClientError(f"the server sent a message of {length} bytes")
        return kind, await self.reader.readexactly(length - 4)


def raise_descriptor_limit(wanted: int) -> None:
    """Have room for so many connections; LightClientError if the machine has not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise LightClientError(
            f"this user may open {hard} files, and {wanted} are needed: ulimit -n"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
