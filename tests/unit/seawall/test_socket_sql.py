"""Statements over a Unix socket: what a server may answer, and what becomes of it.

In scope: seawall/local/socket_sql.py against a server made here. Out of scope: PostgreSQL itself,
which every start of a local cluster talks to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pgwire.backend import CommandComplete, ErrorResponse
from pgwire.messages import encode
from seawall.local import socket_sql
from seawall.local.socket_sql import SqlError, execute

if TYPE_CHECKING:
    from pathlib import Path

LET_IN = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"
READY = b"Z\0\0\0\x05I"
DONE = encode(CommandComplete("ALTER ROLE"))
NO = encode(ErrorResponse.of("ERROR", "42501", "permission denied"))


def carry_out(tmp_path: Path, *answers: bytes) -> list[bytes]:
    """Execute something at a server that answers so; return what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            heard.append(await reader.read(10_000))
            writer.write(answer)
        if len(answers) < 2:
            await asyncio.sleep(0.05)
        else:
            heard.append(await reader.read(10_000))
        writer.close()

    async def run() -> None:
        path = str(tmp_path / "s")
        async with await asyncio.start_unix_server(serve, path):
            try:
                await execute(path, "alter role x", user="postgres", database="postgres")
            finally:
                await asyncio.sleep(0.1)

    asyncio.run(run())
    return heard


def test_statements_are_sent_once_the_server_has_let_us_in(tmp_path: Path) -> None:
    first, second, last = carry_out(tmp_path, LET_IN, DONE + READY)
    assert b"user\0postgres\0" in first
    assert b"alter role x" not in first
    assert b"alter role x\0" in second
    assert last.startswith(b"X"), "it says goodbye"


def test_a_refusal_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SqlError, match="42501: permission denied"):
        carry_out(tmp_path, LET_IN, DONE + NO + READY)
    (tmp_path / "s").unlink(missing_ok=True)
    with pytest.raises(SqlError, match="42501"):
        carry_out(tmp_path, NO)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"R\0\0\0\x08\0\0\0\x03",  # the password in clear text
        b"E\xff\xff\xff\xff",
    ],
)
def test_a_server_that_is_none_is_a_sentence(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(SqlError):
        carry_out(tmp_path, answer)


def test_a_server_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_sql, "TIMEOUT_S", 0.05)
    with pytest.raises(SqlError, match="did not answer within"):
        carry_out(tmp_path, LET_IN, b"")


def test_nobody_at_the_socket_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SqlError, match="No such file"):
        asyncio.run(execute(str(tmp_path / "x"), "select", user="a", database="b"))
