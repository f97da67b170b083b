"""Peers that break, lie, vanish or say nothing: the other side notices, says why, and goes on.

Out of scope: calls that fail for a reason of their own (test_rpc_calls.py).
"""

import asyncio
import socket
import stat
from pathlib import Path

import pytest
from unit.fabric.rpc_world import (
    ECHO,
    IMPATIENT,
    WAIT,
    RawPeer,
    Size,
    Text,
    in_loop,
    make_client,
    raw_peer,
    raw_server,
    serving,
)

from fabric.addresses import TcpAddress, UnixAddress
from fabric.frames import PREFIX, Kind, encode_frame
from fabric.rpc import (
    ERROR_DECODER,
    Hello,
    RpcSettings,
    decode_reason,
    encode_header,
    encode_request,
)
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import (
    BusyError,
    ConnectionLostError,
    DeadlineError,
    RetryError,
    UnreachableError,
)
from fabric.rpc_server import RpcServer

HELLO = b"".join(encode_frame(Kind.HELLO, 0, encode_header(Hello(1000, 1_000_000, 10))))
REQUEST_HEADER = encode_request("test.wait", timeout_ms=1000, request=Text("twice"))
ONE_REQUEST = b"".join(encode_frame(Kind.REQUEST, 1, REQUEST_HEADER))

BROKEN = {
    "another version": (b"\x02" + ONE_REQUEST[1:], "version 2"),
    "another protocol": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "version"),
    "unknown kind": (PREFIX.pack(1, 200, 0, 0, 0), "kind 200"),
    "oversized header": (PREFIX.pack(1, Kind.REQUEST, 1, 2**32 - 1, 0), "header"),
    "oversized payload": (PREFIX.pack(1, Kind.REQUEST, 1, 0, 2**32 - 1), "payload"),
    "frame of a server": (PREFIX.pack(1, Kind.RESPONSE, 1, 0, 0), "RESPONSE"),
    "request without header": (PREFIX.pack(1, Kind.REQUEST, 1, 0, 0), "request header"),
    "one id twice": (ONE_REQUEST + ONE_REQUEST, "twice"),
}


@pytest.mark.parametrize(("sent", "complaint"), BROKEN.values(), ids=BROKEN)
@in_loop
async def test_a_client_that_breaks_the_protocol_is_told_and_cut(
    sent: bytes, complaint: str
) -> None:
    async with serving() as world, raw_peer(world.address) as peer:
        peer.send(sent)
        frame = await peer.frame()
        assert frame.kind is Kind.GOODBYE
        assert complaint in decode_reason(frame.header)
        await peer.closed()
        await world.prove_liveness()


@in_loop
async def test_a_client_that_dies_in_the_middle_of_a_frame_leaves_nothing_behind() -> None:
    async with serving() as world:
        async with raw_peer(world.address) as peer:
            peer.send(ONE_REQUEST, ONE_REQUEST[:20])
            await world.handlers.began.get()
        assert await world.handlers.cancelled.get() == "twice"
        await world.prove_liveness()


@in_loop
async def test_a_client_that_says_nothing_is_cut() -> None:
    async with serving(settings=IMPATIENT) as world, raw_peer(world.address) as peer:
        await peer.closed()


@in_loop
async def test_a_client_that_reads_nothing_is_cut() -> None:
    async with serving(settings=IMPATIENT) as world, raw_peer(world.address) as peer:
        peer.request(1, "test.wait", Text("waiting"))
        for call_id in range(2, 34):  # 32 MiB are more than the buffers of the kernel take
            peer.request(call_id, "test.fetch", Size(1024 * 1024))
        assert await world.handlers.cancelled.get() == "waiting"


@in_loop
async def test_heartbeats_keep_an_idle_connection_alive() -> None:
    async with serving(settings=IMPATIENT) as world:
        async with world.client(settings=IMPATIENT) as client:
            # Many times longer than a silent connection lives.
            with pytest.raises(DeadlineError):
                await client.call(WAIT, Text("long"), timeout_ms=1000)
            assert (await client.call(ECHO, Text("same"))).response == Text("same")
        assert world.handlers.began.qsize() == 1


@in_loop
async def test_a_server_that_dies_in_the_middle_of_a_frame_fails_the_call(tmp_path: Path) -> None:
    async def half_an_answer(peer: RawPeer) -> None:
        peer.send(HELLO)
        request = await peer.frame()
        peer.send(b"".join(encode_frame(Kind.RESPONSE, request.call_id, b"\x80"))[:-1])

    async with (
        raw_server(tmp_path / "s", half_an_answer) as address,
        make_client(address) as client,
    ):
        with pytest.raises(ConnectionLostError, match="middle of a frame"):
            await client.call(ECHO, Text(""))


LIES = {
    "no hello": (encode_frame(Kind.RESPONSE, 1), "hello"),
    "hello twice": ([HELLO, HELLO], "twice"),
    "bad hello": (encode_frame(Kind.HELLO, 0, b"\xc1"), "hello is wrong"),
    "answer to nobody": ([HELLO, *encode_frame(Kind.RESPONSE, 5)], "never made"),
    "bad error": ([HELLO, *encode_frame(Kind.ERROR, 1, b"\xc1")], "error header"),
    "frame of a client": ([HELLO, *encode_frame(Kind.CANCEL, 1)], "CANCEL"),
    "another version": ([HELLO, b"\x07" * 18], "version 7"),
}


@pytest.mark.parametrize(("lies", "complaint"), LIES.values(), ids=LIES)
@in_loop
async def test_a_server_that_breaks_the_protocol_is_told_and_left(
    tmp_path: Path, lies: list[bytes], complaint: str
) -> None:
    complaints: asyncio.Queue[str] = asyncio.Queue()

    async def lie(peer: RawPeer) -> None:
        peer.send(*lies)
        frame = await peer.frame()
        while frame.kind is not Kind.GOODBYE:
            frame = await peer.frame()
        complaints.put_nowait(decode_reason(frame.header))

    async with raw_server(tmp_path / "s", lie) as address, make_client(address) as client:
        with pytest.raises((RetryError, DeadlineError)):
            await client.call(ECHO, Text(""))
        assert complaint in await complaints.get()


@in_loop
async def test_a_server_that_does_not_greet_is_unreachable(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def say_nothing(peer: RawPeer) -> None:
        del peer
        await done.wait()

    async with raw_server(tmp_path / "s", say_nothing) as address:
        settings = RpcSettings(connect_timeout_ms=20)
        async with make_client(address, settings=settings) as client:
            with pytest.raises(UnreachableError, match="greet"):
                await client.call(ECHO, Text(""))
        done.set()


@in_loop
async def test_a_server_that_falls_silent_is_dead(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def greet_only(peer: RawPeer) -> None:
        peer.send(HELLO)
        await done.wait()

    async with raw_server(tmp_path / "s", greet_only) as address:
        async with make_client(address, settings=IMPATIENT) as client:
            with pytest.raises(ConnectionLostError, match="silent"):
                await client.call(ECHO, Text(""))
        done.set()


async def until_refused(client: RpcClient) -> None:
    """Call until the goodbye of the server has arrived."""
    try:
        while True:
            await client.call(ECHO, Text(""))
    except RetryError:
        pass


@in_loop
async def test_calls_fail_at_once_while_the_server_is_away(tmp_path: Path) -> None:
    async with make_client(UnixAddress(str(tmp_path / "absent"))) as client:
        for _ in range(3):
            with pytest.raises(UnreachableError, match=r"absent"):
                await client.call(ECHO, Text(""))


@in_loop
async def test_a_client_reconnects_when_the_server_is_back(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    settings = RpcSettings(backoff_base_ms=5, backoff_cap_ms=10, drain_timeout_ms=1)
    async with make_client(address, settings=settings) as client:
        for _ in range(3):
            async with serving(address, settings=settings) as world:
                await client.until_connected()
                assert (await client.call(ECHO, Text("here"))).response == Text("here")
                lost = asyncio.create_task(client.call(WAIT, Text("lost")))
                await world.handlers.began.get()
                await world.server.close()
                with pytest.raises(ConnectionLostError):
                    await lost


@in_loop
async def test_closing_a_server_lets_the_calls_under_way_finish() -> None:
    async with serving() as world, world.client() as client:
        call = asyncio.create_task(client.call(WAIT, Text("last")))
        await world.handlers.began.get()
        closing = asyncio.create_task(world.server.close())
        await until_refused(client)
        assert not closing.done()
        world.handlers.gate.set()
        assert (await call).response == Text("last")
        await closing


@in_loop
async def test_a_call_that_crosses_the_goodbye_is_refused_as_not_executed() -> None:
    async with serving() as world, raw_peer(world.address) as peer:
        closing = asyncio.create_task(world.server.close())
        assert (await peer.frame()).kind is Kind.GOODBYE
        peer.request(1, "test.echo", Text("late"))
        frame = await peer.frame()
        assert frame.kind is Kind.ERROR
        assert ERROR_DECODER.decode(frame.header).code == BusyError.code
        peer.writer.transport.abort()
        await closing


@in_loop
async def test_a_server_cancels_what_does_not_finish_in_time_to_close() -> None:
    settings = RpcSettings(drain_timeout_ms=20)
    async with serving(settings=settings) as world, world.client() as client:
        call = asyncio.create_task(client.call(WAIT, Text("endless")))
        await world.handlers.began.get()
        await world.server.close()
        assert await world.handlers.cancelled.get() == "endless"
        with pytest.raises(ConnectionLostError):
            await call


@in_loop
async def test_closing_a_client_fails_its_calls_and_cancels_their_handlers() -> None:
    async with serving() as world:
        async with world.client() as client:
            call = asyncio.create_task(client.call(WAIT, Text("mine")))
            await world.handlers.began.get()
        with pytest.raises(ConnectionLostError, match="closed"):
            await call
        assert await world.handlers.cancelled.get() == "mine"
        with pytest.raises(UnreachableError, match="closed"):
            await client.call(ECHO, Text(""))


@in_loop
async def test_a_unix_socket_is_for_its_owner_alone_and_goes_with_the_server(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    async with serving(UnixAddress(str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@in_loop
async def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(UnixAddress(str(path))) as world:
        await world.prove_liveness()


@in_loop
async def test_the_socket_of_a_living_server_and_a_file_are_left_alone(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    async with serving(address) as world:
        with pytest.raises(OSError, match="another process"):
            await RpcServer(cluster=None).listen(address)
        await world.prove_liveness()
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        await RpcServer(cluster=None).listen(UnixAddress(str(file)))
    assert file.read_text() == "precious"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - it is refused
@in_loop
async def test_plain_tcp_is_refused_off_loopback(host: str) -> None:
    with pytest.raises(ValueError, match="TLS"):
        await RpcServer(cluster=None).listen(TcpAddress(host, 0))
    with pytest.raises(ValueError, match="TLS"):
        make_client(TcpAddress(host, 1))
