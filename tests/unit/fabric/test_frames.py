"""The frame format: what is encoded is decoded, however the stream is cut, and nothing else is.

The worked example of docs/formats/rpc_frame.md is checked here, byte for byte.
"""

import re
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.buffers import BufferPool
from fabric.frames import (
    PREFIX,
    PREFIX_BYTES,
    RECEIVE_BUFFER_BYTES,
    VERSION,
    Frame,
    FrameDecoder,
    FrameError,
    FrameLimits,
    Kind,
    encode_frame,
    payload_byte_count,
)
from fabric.lsn import Lsn
from fabric.rpc import encode_error, encode_header, encode_request
from fabric.rpc_errors import BusyError

LIMITS = FrameLimits(header_bytes_max=100_000, payload_bytes_max=200_000)
SPECIFICATION = Path(__file__).parents[3] / "docs" / "formats" / "rpc_frame.md"

# Sizes around the edges: empty, small, and just below and above the receive buffer.
SIZES = (
    st.integers(0, 300)
    | st.integers(RECEIVE_BUFFER_BYTES - 100, RECEIVE_BUFFER_BYTES + 100)
    | st.just(90_000)
)
frames = st.builds(
    lambda kind, call_id, header, payload: Frame(
        kind, call_id, b"h" * header, bytes(range(256)) * (payload // 256) + b"p" * (payload % 256)
    ),
    st.sampled_from(Kind),
    st.integers(0, 2**64 - 1),
    SIZES,
    SIZES,
)


class Ping(msgspec.Struct, frozen=True):
    """The request and the response of the worked example."""

    branch: str
    lsn: Lsn


def decoder(limits: FrameLimits = LIMITS) -> FrameDecoder:
    return FrameDecoder(limits, BufferPool(kept_bytes_max=1024 * 1024))


def encoded(frame: Frame) -> bytes:
    return b"".join(encode_frame(frame.kind, frame.call_id, frame.header, frame.payload))


def plain(decoded: list[Frame]) -> list[Frame]:
    return [Frame(f.kind, f.call_id, f.header, bytes(f.payload)) for f in decoded]


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 300_000), max_size=40))
def test_any_cut_of_the_stream_gives_the_same_frames(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(map(encoded, sent))
    target, received, start = decoder(), [], 0
    for stop in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        received += target.feed(stream[start:stop])
        start = stop
    assert plain(received) == sent
    assert target.is_between_frames


def test_one_byte_at_a_time_gives_the_same_frames() -> None:
    sent = [Frame(Kind.REQUEST, 1, b"header", b"payload"), Frame(Kind.CANCEL, 1, b"", b"")]
    target = decoder()
    received = [f for byte in b"".join(map(encoded, sent)) for f in target.feed(bytes([byte]))]
    assert received == sent


@given(st.binary(max_size=400))
def test_garbage_is_a_frame_error_or_an_unfinished_frame(data: bytes) -> None:
    target = decoder()
    try:
        target.feed(data)
    except FrameError as error:
        assert "\n" not in str(error)  # noqa: PT017 - any outcome but another exception will do


@given(st.binary(max_size=60), st.integers(0, 60), frames)
def test_garbage_after_a_frame_does_not_change_the_frame(
    garbage: bytes, position: int, frame: Frame
) -> None:
    stream = encoded(frame) + garbage[:position]
    target = decoder()
    try:
        received = target.feed(stream)
    except FrameError:
        received = decoder().feed(encoded(frame))
    assert plain(received[:1]) == [frame]


@pytest.mark.parametrize(
    ("prefix", "complaint"),
    [
        (PREFIX.pack(0, Kind.REQUEST, 1, 0, 0), "version 0"),
        (PREFIX.pack(VERSION + 1, Kind.REQUEST, 1, 0, 0), "version 2"),
        (PREFIX.pack(VERSION, 0, 1, 0, 0), "kind 0"),
        (PREFIX.pack(VERSION, 9, 1, 0, 0), "kind 9"),
        (PREFIX.pack(VERSION, Kind.REQUEST, 1, LIMITS.header_bytes_max + 1, 0), "header"),
        (PREFIX.pack(VERSION, Kind.REQUEST, 1, 0, LIMITS.payload_bytes_max + 1), "payload"),
    ],
)
def test_a_prefix_that_is_wrong_is_refused_before_its_body_arrives(
    prefix: bytes, complaint: str
) -> None:
    with pytest.raises(FrameError, match=complaint):
        decoder().feed(prefix)


def test_a_frame_of_exactly_the_limits_is_taken() -> None:
    frame = Frame(Kind.REQUEST, 1, b"h" * 100_000, b"p" * 200_000)
    assert plain(decoder().feed(encoded(frame))) == [frame]


def test_a_body_that_its_reader_has_let_go_of_is_used_again() -> None:
    stream = encoded(Frame(Kind.RESPONSE, 1, b"h", b"p" * 150_000))
    target = decoder()
    (frame,) = target.feed(stream)
    assert isinstance(frame.payload, memoryview)
    memory = frame.payload.obj
    del frame
    (frame,) = target.feed(stream)
    assert isinstance(frame.payload, memoryview)
    assert frame.payload.obj is memory


@pytest.mark.parametrize("step", [PREFIX_BYTES, 1000, RECEIVE_BUFFER_BYTES - 1, 200_000])
def test_there_is_always_room_for_the_next_bytes(step: int) -> None:
    whole = RECEIVE_BUFFER_BYTES - PREFIX_BYTES  # the largest payload that fits the buffer
    sizes = [0, 5, whole, whole + 1, 150_000, 7]
    stream = b"".join(encoded(Frame(Kind.RESPONSE, 1, b"", bytes(size))) for size in sizes)
    target, received = decoder(), []
    while stream:
        count = min(step, len(target.room), len(stream))
        assert count > 0
        target.room[:count] = stream[:count]
        received += [len(frame.payload) for frame in target.received(count)]
        stream = stream[count:]
    assert received == sizes
    assert target.room


def test_memory_is_bounded_by_one_frame_however_much_is_received() -> None:
    stream = encoded(Frame(Kind.REQUEST, 1, b"", b"p" * 150_000))
    target = decoder()
    tracemalloc.start()
    try:
        for _ in range(200):
            target.feed(stream)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * (LIMITS.header_bytes_max + LIMITS.payload_bytes_max)


def test_a_large_payload_is_sent_without_a_copy() -> None:
    payload = bytes(100_000)
    buffers = encode_frame(Kind.RESPONSE, 1, b"", [memoryview(payload), payload])
    assert buffers[2] is payload
    assert payload_byte_count([memoryview(payload).cast("I"), payload]) == 200_000


def test_a_view_of_wide_elements_is_counted_in_bytes() -> None:
    wide = memoryview(bytes(80_000)).cast("Q")
    (frame,) = decoder().feed(b"".join(encode_frame(Kind.RESPONSE, 1, b"", wide)))
    assert len(frame.payload) == 80_000


def test_the_worked_examples_of_the_specification_are_true() -> None:
    text = SPECIFICATION.read_text()
    examples = dict(re.findall(r"^### (.+?)\n.*?```hex\n(.*?)```", text, re.DOTALL | re.MULTILINE))
    request = encode_request("storage.ping", timeout_ms=500, request=_ping())
    written = {
        "A request": encode_frame(Kind.REQUEST, 7, request, b"page"),
        "Its answer": encode_frame(Kind.RESPONSE, 7, encode_header(_ping())),
        "Or its error": encode_frame(Kind.ERROR, 7, encode_error(BusyError("full"))),
        "A heartbeat": encode_frame(Kind.HEARTBEAT, 0),
    }
    read = {title: bytes.fromhex(re.sub(r"#.*", "", dump)) for title, dump in examples.items()}
    assert read == {title: b"".join(buffers) for title, buffers in written.items()}
    assert f"{PREFIX_BYTES} bytes" in text


def _ping() -> Ping:
    return Ping(branch="main", lsn=Lsn.parse("0/1000028"))
