"""Calls that go well, or fail for a reason of their own: in scope are requests, answers, payloads,
deadlines and cancellation over real sockets. Broken peers are in test_rpc_failures.py, limits in
test_rpc_limits.py, certificates in test_rpc_tls.py.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from unit.fabric.rpc_world import (
    ANY_PORT,
    ECHO,
    FAIL,
    FETCH,
    MOVE,
    WAIT,
    WHO,
    Position,
    Size,
    Text,
    in_loop,
    raw_peer,
    serving,
)

from fabric.addresses import UnixAddress
from fabric.frames import Kind, Payload, encode_frame
from fabric.ids import BranchName
from fabric.lsn import Lsn
from fabric.rpc import ERROR_DECODER, Method, RpcSettings
from fabric.rpc_errors import (
    BadRequestError,
    BusyError,
    CallError,
    DeadlineError,
    DeniedError,
    FailedError,
    GiveUpError,
    RetryError,
    RpcError,
    UnknownMethodError,
    UnreachableError,
)

PAYLOADS: list[Payload] = [
    b"",
    b"small",
    bytes(range(256)) * 32,
    bytes(range(256)) * 300,
    memoryview(bytes(range(256)) * 4096),
    [b"several", bytearray(b" buffers "), memoryview(b"in a row" * 10_000)],
]


def joined(payload: Payload) -> bytes:
    if isinstance(payload, list):
        return b"".join(payload)
    return bytes(payload)  # type: ignore[arg-type]  # a sequence is a list in these tests


async def echo_everything(address: Any) -> None:
    async with serving(address) as world, world.client() as client:
        for payload in PAYLOADS:
            answer = await client.call(ECHO, Text("hello"), payload)
            assert answer.response == Text("hello")
            assert bytes(answer.payload) == joined(payload)


@in_loop
async def test_payloads_of_every_size_come_back_over_tcp() -> None:
    await echo_everything(ANY_PORT)


@in_loop
async def test_payloads_of_every_size_come_back_over_a_unix_socket(tmp_path: Path) -> None:
    await echo_everything(UnixAddress(str(tmp_path / "rpc")))


def test_it_works_on_the_stock_event_loop_too() -> None:
    asyncio.run(echo_everything(ANY_PORT))


@in_loop
async def test_payloads_that_are_kept_are_not_overwritten_by_later_answers() -> None:
    async with serving() as world, world.client() as client:
        sent = [bytes([number]) * 100_000 for number in range(20)]
        kept = [(await client.call(ECHO, Text(""), payload)).payload for payload in sent]
        assert [bytes(payload) for payload in kept] == sent


@in_loop
async def test_vocabulary_types_cross_the_wire() -> None:
    async with serving() as world, world.client() as client:
        answer = await client.call(MOVE, Position(BranchName("main"), Lsn.parse("1/FF")))
        assert answer.response == Position(BranchName("main"), Lsn.parse("1/100"))
        assert type(answer.response.lsn) is Lsn
        assert type(answer.response.branch) is BranchName


@in_loop
async def test_the_handler_sees_how_the_peer_is_connected(tmp_path: Path) -> None:
    for address, link in ((ANY_PORT, "loopback"), (UnixAddress(str(tmp_path / "s")), "unix")):
        async with serving(address) as world, world.client() as client:
            assert (await client.call(WHO, Text(""))).response == Text(link)


@in_loop
async def test_answers_come_in_the_order_in_which_they_are_ready() -> None:
    async with serving() as world, world.client() as client:
        slow = asyncio.create_task(client.call(WAIT, Text("slow")))
        await world.handlers.began.get()
        await client.call(ECHO, Text("quick"))
        assert not slow.done()
        world.handlers.gate.set()
        assert (await slow).response == Text("slow")


@in_loop
async def test_a_thousand_calls_are_under_way_at_once() -> None:
    async with serving() as world, world.client() as client:
        calls = [asyncio.create_task(client.call(WAIT, Text(str(n)))) for n in range(1000)]
        began = {await world.handlers.began.get() for _ in calls}
        assert len(began) == 1000
        world.handlers.gate.set()
        answers = await asyncio.gather(*calls)
        assert [answer.response.text for answer in answers] == [str(n) for n in range(1000)]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (BusyError("no room"), BusyError),
        (RetryError("no such cut yet"), RetryError),
        (DeniedError("not your branch"), DeniedError),
        (BadRequestError("page beyond the end"), BadRequestError),
        (GiveUpError("the branch is gone"), GiveUpError),
        (UnreachableError("the node behind is down"), RetryError),
    ],
)
@in_loop
async def test_an_error_raised_on_purpose_reaches_the_caller(
    raised: RpcError, seen: type[RpcError]
) -> None:
    async with serving() as world, world.client() as client:
        world.handlers.error = raised
        with pytest.raises(seen, match=str(raised)) as caught:
            await client.call(FAIL, Text(""))
        assert type(caught.value) is seen


@in_loop
async def test_an_unexpected_error_is_logged_here_and_named_to_nobody() -> None:
    async with serving() as world, world.client() as client:
        world.handlers.error = RuntimeError("the password is hunter2")
        with capture_logs() as logs, pytest.raises(FailedError) as caught:
            await client.call(FAIL, Text(""))
    assert "hunter2" not in str(caught.value)
    failures = [line for line in logs if line["log_level"] == "error"]
    assert [line["exc_info"] for line in failures] == [world.handlers.error]


@in_loop
async def test_an_unknown_method_is_the_callers_mistake() -> None:
    unknown = Method("test.unknown", Text, Text)
    async with serving() as world, world.client() as client:
        with pytest.raises(UnknownMethodError, match=r"test\.unknown"):
            await client.call(unknown, Text(""))


class Other(msgspec.Struct, frozen=True):
    """Not what any method takes."""

    branch: str
    lsn: int


@pytest.mark.parametrize("request_", [Other("-bad-", 1), Other("main", -1), Other("", 0)])
@in_loop
async def test_a_request_with_a_value_out_of_range_does_not_reach_the_handler(
    request_: Other,
) -> None:
    wrong = Method("test.move", Other, Other)
    async with serving() as world, world.client() as client:
        with pytest.raises(BadRequestError, match=r"test\.move"):
            await client.call(wrong, request_)


@in_loop
async def test_an_answer_of_another_type_is_not_believed() -> None:
    wrong = Method("test.echo", Text, Size)
    async with serving() as world, world.client() as client:
        with pytest.raises(FailedError, match="answer"):
            await client.call(wrong, Text(""))


@in_loop
async def test_a_deadline_fails_the_call_and_cancels_the_handler() -> None:
    async with serving() as world, world.client() as client:
        await client.until_connected()
        with pytest.raises(DeadlineError):
            await client.call(WAIT, Text("late"), timeout_ms=100)
        assert await world.handlers.cancelled.get() == "late"
        assert (await client.call(ECHO, Text("next"))).response == Text("next")


@in_loop
async def test_the_server_enforces_the_deadline_by_itself() -> None:
    async with serving() as world, raw_peer(world.address) as peer:
        peer.request(7, "test.wait", Text("late"), timeout_ms=20)
        frame = await peer.frame()
        assert (frame.kind, frame.call_id) == (Kind.ERROR, 7)
        assert ERROR_DECODER.decode(frame.header).code == DeadlineError.code
        assert await world.handlers.cancelled.get() == "late"


@pytest.mark.parametrize("timeout_ms", [0, -1, 300_001])
@in_loop
async def test_a_timeout_out_of_range_is_the_callers_mistake(timeout_ms: int) -> None:
    async with serving() as world, world.client() as client:
        with pytest.raises(CallError, match="timeout"):
            await client.call(ECHO, Text(""), timeout_ms=timeout_ms)


@in_loop
async def test_cancelling_the_caller_cancels_the_handler() -> None:
    async with serving() as world, world.client() as client:
        call = asyncio.create_task(client.call(WAIT, Text("unwanted")))
        await world.handlers.began.get()
        call.cancel()
        assert await world.handlers.cancelled.get() == "unwanted"
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.call(ECHO, Text("next"))).response == Text("next")


@in_loop
async def test_a_cancel_that_comes_with_its_request_ends_the_call_before_it_begins() -> None:
    async with serving() as world, raw_peer(world.address) as peer:
        peer.request(1, "test.wait", Text("never"))
        peer.send(*encode_frame(Kind.CANCEL, 1), *encode_frame(Kind.CANCEL, 99))
        peer.request(2, "test.echo", Text("next"))
        frame = await peer.frame()
        assert (frame.kind, frame.call_id) == (Kind.RESPONSE, 2)
        assert world.handlers.began.empty()


@in_loop
async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    small = RpcSettings(payload_bytes_max=1000, header_bytes_max=1000)
    async with serving(settings=small) as world, world.client() as client:
        with pytest.raises(CallError, match="payload"):
            await client.call(ECHO, Text(""), bytes(1001))
        with pytest.raises(CallError, match="split"):
            await client.call(ECHO, Text("x" * 1001))
        with pytest.raises(FailedError, match="ask for less"):
            await client.call(FETCH, Size(1001))
        assert (await client.call(ECHO, Text(""), bytes(1000))).payload == bytes(1000)
