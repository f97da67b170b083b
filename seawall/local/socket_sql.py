"""Statements for a server of this machine, over its Unix socket, as its superuser.

All that the start of a cluster has to say in SQL is two texts without any answer: not worth the
loading of a driver, which would stay in the supervisor's memory for its whole life.
"""

import asyncio
import os
from typing import Final

from pgwire.backend import ErrorResponse, ReadyForQuery
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.frames import FrameReader, capped
from pgwire.frontend import Query, Terminate
from pgwire.messages import BACKEND_LIMITS, decode_backend, encode
from pgwire.scram import ScramError

TIMEOUT_S: Final = 10.0
READ_BYTES: Final = 16 * 1024
FRAME_BYTES_MAX: Final = 64 * 1024
_LIMITS: Final = capped(BACKEND_LIMITS, FRAME_BYTES_MAX)


class SqlError(Exception):
    """The statements were not carried out: the sentence says why."""


async def execute(socket: str, sql: str, *, user: str, database: str) -> None:
    """Carry out statements, all of them or none; what they return is thrown away."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                await _execute(reader, writer, sql, {"user": user, "database": database})
            finally:
                writer.close()
    except TimeoutError as error:
        raise SqlError(f"the server did not answer within {TIMEOUT_S:g} s") from error
    except (OSError, ProtocolError, ScramError, ServerRefusedError) as error:
        raise SqlError(str(error)) from error


async def _execute(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    sql: str,
    parameters: dict[str, str],
) -> None:
    handshake = ClientHandshake(parameters, random_bytes=os.urandom)
    frames = FrameReader(_LIMITS)
    writer.write(handshake.start())
    is_asked = False
    while True:
        data = await reader.read(READ_BYTES)
        if not data:
            raise ProtocolError("the server closed the connection")
        frames.feed(data)
        for kind, body in frames:
            if not is_asked:
                writer.write(handshake.receive(kind, body))
                if handshake.is_done:
                    writer.write(encode(Query(sql)))
                    is_asked = True
                continue
            message = decode_backend(kind, body)
            if isinstance(message, ErrorResponse):
                raise ServerRefusedError(message)
            if isinstance(message, ReadyForQuery):
                writer.write(encode(Terminate()))
                return
