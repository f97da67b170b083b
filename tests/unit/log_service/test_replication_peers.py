"""Peers that the replication server does not want: strangers, the slow, the silent, the malformed.

Also here: who is kept although it is quiet, and what happens beyond the limit of connections. The
server is real, and so are the sockets; the client is made of a few frames.
"""

from contextlib import suppress
from pathlib import Path

import pytest
from unit.log_service.replication_world import (
    START,
    MemorySource,
    fatal,
    in_loop,
    receive,
    serving,
    start,
    startup,
)

from log_service.replication_session import ReplicationSettings
from pgwire.backend import ReadyForQuery
from pgwire.copying import CopyData, CopyDone
from pgwire.frontend import Parse, Sync, Terminate
from pgwire.messages import encode
from pgwire.replication import Keepalive
from pgwire.startup import (
    REFUSED,
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    encode_startup,
)

# As short as a busy machine allows.
IMPATIENT = ReplicationSettings(
    keepalive_interval_ms=20, silence_timeout_ms=1000, idle_timeout_ms=100
)


@pytest.fixture
def source() -> MemorySource:
    return MemorySource(committed=START + 1000)


@in_loop
async def test_encryption_that_is_not_there_is_refused_and_the_login_goes_on(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.connect()
        for request in (GssRequest(), SslRequest()):
            client.send(encode_startup(request))
            assert await client.reader.readexactly(1) == REFUSED
        client.send(startup(minor=2))
        await client.messages(ReadyForQuery)
        again = await world.connect()
        again.send(encode_startup(SslRequest()))
        assert await again.reader.readexactly(1) == REFUSED
        again.send(encode_startup(SslRequest()))
        assert (await fatal(again))[0] == "08P01"


@in_loop
async def test_cancel_request_is_taken_without_an_answer(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.connect()
        client.send(encode_startup(CancelRequest(1, b"1234")))
        assert await client.at_eof()


@pytest.mark.parametrize(
    ("first", "sqlstate", "part"),
    [
        (startup(replication="false"), "0A000", "only physical replication"),
        (startup(replication="database"), "0A000", "only physical replication"),
        (startup(user="main"), "0A000", "cluster.branch"),
        (startup(user="demo.main.x"), "0A000", "cluster.branch"),
        (startup(user="demo.other"), "3D000", "demo.other is not on this node"),
        (encode_startup(StartupMessage(2, 0, {})), "0A000", "protocol 2.0"),
        (b"GET / HTTP/1.1\r\n\r\n", "08P01", "does not speak the PostgreSQL protocol"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "08P01", "does not speak the PostgreSQL protocol"),
        (b"\x00\x00\x00\x08\x00\x03\x00\x00", "08P01", ""),
    ],
)
@in_loop
async def test_login_of_a_stranger_is_refused(
    source: MemorySource, tmp_path: Path, first: bytes, sqlstate: str, part: str
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.connect()
        client.send(first)
        code, message = await fatal(client)
        assert code == sqlstate
        assert part in message


@pytest.mark.parametrize(
    "data",
    [
        encode(Parse("", "select 1")),
        encode(Sync()),
        encode(CopyDone()),
        encode(CopyData(b"r")),
        b"Q\x7f\xff\xff\xff",
        b"Q\x00\x00\x40\x00",
        b"Q\x00\x00\x00\x04",
        b"\x00\x00\x00\x00\x04",
    ],
)
@in_loop
async def test_frame_that_has_no_place_ends_an_idle_session(
    source: MemorySource, tmp_path: Path, data: bytes
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        client.send(data)
        assert (await fatal(client))[0] == "08P01"


@pytest.mark.parametrize(
    "data",
    [
        encode(CopyData(b"")),
        encode(CopyData(b"x")),
        encode(CopyData(b"r123")),
        encode(CopyData(b"k" + bytes(17))),
        b"f\x00\x00\x00\x06x\x00",
        b"d\x00\x01\x00\x00",
        b"Q\x00\x00\x00\x05\x00",
    ],
)
@in_loop
async def test_frame_that_has_no_place_ends_a_stream(
    source: MemorySource, tmp_path: Path, data: bytes
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        client.send(data)
        assert (await fatal(client))[0] == "08P01"
        assert world.server.standbys() == []


@in_loop
async def test_peer_that_is_slow_to_log_in_is_cut_off(source: MemorySource, tmp_path: Path) -> None:
    settings = ReplicationSettings(authentication_timeout_ms=50)
    async with serving(source, tmp_path, settings=settings) as world:
        silent, halting = await world.connect(), await world.connect()
        halting.send(startup()[:20])
        assert await silent.at_eof()
        assert await halting.at_eof()


@in_loop
async def test_idle_session_is_cut_off(source: MemorySource, tmp_path: Path) -> None:
    async with serving(source, tmp_path, settings=IMPATIENT) as world:
        client = await world.log_in()
        assert await client.at_eof()


@in_loop
async def test_silent_reader_is_asked_and_then_cut_off(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path, settings=IMPATIENT) as world:
        client = await world.log_in()
        await start(client, source.committed)
        asked = []
        with suppress(EOFError, ConnectionResetError):
            while True:
                message = await client.streamed()
                assert isinstance(message, Keepalive)
                asked.append(message.reply_requested)
        assert asked == sorted(asked)
        assert set(asked) == {False, True}


@in_loop
async def test_reader_that_answers_is_kept_though_it_gets_nothing(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path, settings=IMPATIENT) as world:
        client = await world.log_in()
        await start(client, source.committed)
        for _ in range(IMPATIENT.silence_timeout_ms // IMPATIENT.keepalive_interval_ms + 10):
            assert isinstance(await client.streamed(), Keepalive)
            client.report(source.committed)
        before = source.committed
        source.advance(before + 10)
        await receive(client, source, before, before + 10)


@in_loop
async def test_connections_beyond_the_limit_are_refused(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path, settings=ReplicationSettings(connections_max=2)) as world:
        first, _second = await world.log_in(), await world.log_in()
        third = await world.connect()
        assert await fatal(third) == ("53300", "the node is at its limit of 2 connections")
        first.send(encode(Terminate()))
        assert await first.at_eof()
        await world.log_in()
