"""Frames: any cut of a stream gives the same frames, and no length makes us hold what never came.

The skimmer is compared with the reader, which is simpler.
"""

import tracemalloc
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.pgwire.wire_values import ANY_BACKEND, ANY_FRONTEND, PLACES, STARTUP, cut

from pgwire.backend import BackendMessage, DataRow, ReadyForQuery
from pgwire.copying import CopyData
from pgwire.errors import ProtocolError
from pgwire.frames import PACKET_KIND, FrameReader, FrameSkimmer, capped
from pgwire.frontend import FrontendMessage, Query, Sync
from pgwire.messages import BACKEND_LIMITS, FRONTEND_LIMITS, decode_backend, encode, kind_of
from pgwire.startup import (
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    StartupPacket,
    decode_startup,
    encode_startup,
)

START = StartupMessage(3, 0, {"user": "u"})


@given(st.lists(ANY_BACKEND, max_size=8), PLACES)
def test_any_cut_gives_the_same_frames(messages: list[BackendMessage], places: list[int]) -> None:
    reader = FrameReader(BACKEND_LIMITS)
    found = []
    for piece in cut(b"".join(map(encode, messages)), places):
        reader.feed(piece)
        found += [decode_backend(kind, body) for kind, body in reader]
    assert found == messages
    assert reader.is_between_frames


@given(st.lists(ANY_BACKEND, max_size=8), PLACES)
def test_body_stays_valid_when_bytes_were_fed(
    messages: list[BackendMessage], places: list[int]
) -> None:
    reader = FrameReader(BACKEND_LIMITS)
    frames = []
    for piece in cut(b"".join(map(encode, messages)), places):
        reader.feed(piece)
        frames += list(reader)
    assert [decode_backend(kind, body) for kind, body in frames] == messages


@given(st.lists(ANY_BACKEND, max_size=8), PLACES)
def test_frames_wait_until_they_are_taken(
    messages: list[BackendMessage], places: list[int]
) -> None:
    reader = FrameReader(BACKEND_LIMITS)
    found: list[tuple[int, memoryview]] = []
    for piece in cut(b"".join(map(encode, messages)), places):
        reader.feed(piece)
        found += islice(reader, 1)
    found += list(reader)
    assert [decode_backend(kind, body) for kind, body in found] == messages


@given(st.lists(STARTUP, max_size=3), st.lists(ANY_FRONTEND, max_size=4), PLACES)
def test_packets_come_first_at_a_server(
    packets: list[StartupPacket], messages: list[FrontendMessage], places: list[int]
) -> None:
    asks_for_encryption = [p for p in packets if isinstance(p, (SslRequest, GssRequest))]
    opening: list[StartupPacket] = [*asks_for_encryption, START]
    stream = b"".join([*map(encode_startup, opening), *map(encode, messages)])
    reader = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    frames = []
    for piece in cut(stream, places):
        reader.feed(piece)
        frames += list(reader)
    count = len(opening)
    assert [decode_startup(body) for _, body in frames[:count]] == opening
    assert {kind for kind, _ in frames[:count]} == {PACKET_KIND}
    assert [kind for kind, _ in frames[count:]] == [kind_of(type(m)) for m in messages]


@given(st.binary(max_size=200), PLACES)
def test_garbage_is_refused_or_waited_for(data: bytes, places: list[int]) -> None:
    for reader in (
        FrameReader(BACKEND_LIMITS),
        FrameReader(FRONTEND_LIMITS),
        FrameReader(FRONTEND_LIMITS, starts_with_packet=True),
    ):
        taken_bytes = 0
        try:
            for piece in cut(data, places):
                reader.feed(piece)
                taken_bytes += sum(len(body) for _, body in reader)
        except ProtocolError:
            continue
        assert taken_bytes <= len(data)


def test_whole_frame_is_not_copied() -> None:
    data = bytearray(encode(CopyData(b"wal")) * 2)
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(data)
    bodies = [body for _, body in reader]
    data[5:8] = b"WAL"
    assert bodies == [b"WAL", b"wal"]


def test_reader_lets_go_of_a_buffer_that_is_used_up() -> None:
    reader = FrameReader(FRONTEND_LIMITS)
    for part in (encode(Sync()) + b"Q", b"\0\0", b"\0\x06a", b"\0"):
        data = bytearray(part)
        reader.feed(data)
        assert len(list(reader)) <= 1
        data.append(0)  # refused while anybody has a view of it
    assert reader.is_between_frames


@pytest.mark.parametrize("size", [2**31, 2**32 - 1, 30_005])
def test_announced_length_is_refused_before_the_body_comes(size: int) -> None:
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(b"S" + size.to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="the limit is 30004"):
        list(reader)


@pytest.mark.parametrize("length", [0, 3])
def test_length_that_does_not_hold_itself_is_refused(length: int) -> None:
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(bytes([ord("D"), 0, 0, 0, length]))
    with pytest.raises(ProtocolError, match=f"length of {length} bytes"):
        list(reader)


def test_announced_length_reserves_no_memory() -> None:
    reader = FrameReader(BACKEND_LIMITS)
    tracemalloc.start()
    try:
        reader.feed(b"D" + (2**30).to_bytes(4, "big") + b"x" * 1000)
        assert list(reader) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_large_frame_in_small_pieces_is_copied_in_linear_time() -> None:
    body = bytes(range(256)) * 40_000  # 10 MB: 2,500 pieces; quadratic would be 12 GB
    stream = encode(CopyData(body))
    reader = FrameReader(BACKEND_LIMITS)
    found = []
    for start in range(0, len(stream), 4096):
        reader.feed(stream[start : start + 4096])
        found += list(reader)
    [(kind, found_body)] = found
    assert (kind, found_body == body) == (ord("d"), True)


def test_limits_can_be_capped() -> None:
    limits = capped(BACKEND_LIMITS, 100)
    assert max(limits.values()) == 100
    assert limits[ord("1")] == 0
    reader = FrameReader(limits)
    reader.feed(encode(CopyData(bytes(101))))
    with pytest.raises(ProtocolError, match="the limit is 104"):
        list(reader)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"\0\0\0\x07"]
)
def test_other_protocols_are_refused_by_their_first_bytes(data: bytes) -> None:
    reader = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    reader.feed(data)
    with pytest.raises(ProtocolError, match="does not speak the PostgreSQL protocol"):
        list(reader)


def test_bytes_behind_a_request_for_encryption_are_noticed() -> None:
    reader = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    reader.feed(encode_startup(SslRequest()) + encode_startup(START)[:3])
    frames = iter(reader)
    assert next(frames)[0] == PACKET_KIND
    assert not reader.is_between_frames


def test_cancel_request_is_a_packet() -> None:
    reader = FrameReader(FRONTEND_LIMITS, starts_with_packet=True)
    reader.feed(encode_startup(CancelRequest(1, b"1234")))
    [(kind, body)] = reader
    assert (kind, decode_startup(body)) == (PACKET_KIND, CancelRequest(1, b"1234"))


@given(st.lists(ANY_BACKEND, max_size=8), PLACES, st.sets(st.sampled_from("DTZESd1K")))
def test_skimmer_finds_what_the_reader_finds(
    messages: list[BackendMessage], places: list[int], letters: set[str]
) -> None:
    wanted = {ord(letter) for letter in letters}
    stream = b"".join(map(encode, messages))
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(stream)
    expected, end = [], 0
    for kind, body in reader:
        end += 5 + len(body)
        if kind in wanted:
            expected.append((kind, bytes(body), end))

    skimmer = FrameSkimmer(BACKEND_LIMITS, wanted)
    found, chunk_start = [], 0
    for chunk in cut(stream, places):
        found += [(kind, bytes(body), chunk_start + at) for kind, body, at in skimmer.skim(chunk)]
        chunk_start += len(chunk)
    assert found == expected
    assert skimmer.is_between_frames


@given(st.lists(ANY_BACKEND, min_size=1, max_size=8), PLACES)
def test_skimmer_knows_whether_a_frame_is_under_way(
    messages: list[BackendMessage], places: list[int]
) -> None:
    stream = b"".join(map(encode, messages))
    reader = FrameReader(BACKEND_LIMITS)
    skimmer = FrameSkimmer(BACKEND_LIMITS, {ord("Z")})
    for chunk in cut(stream, places):
        reader.feed(chunk)
        assert len(list(reader)) <= len(messages)
        skimmer.skim(chunk)
        assert skimmer.is_between_frames == reader.is_between_frames


@given(st.binary(max_size=200), PLACES)
def test_skimmer_refuses_garbage(data: bytes, places: list[int]) -> None:
    skimmer = FrameSkimmer(BACKEND_LIMITS, {ord("Z"), ord("D")})
    try:
        for chunk in cut(data, places):
            skimmer.skim(chunk)
    except ProtocolError:
        return


def test_skimmer_gathers_nothing_of_a_row() -> None:
    skimmer = FrameSkimmer(BACKEND_LIMITS, {kind_of(ReadyForQuery)})
    row = encode(DataRow((bytes(10_000_000),)))
    tracemalloc.start()
    try:
        for start in range(0, len(row), 65_536):
            assert skimmer.skim(memoryview(row)[start : start + 65_536]) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    [(kind, body, end)] = skimmer.skim(encode(ReadyForQuery()))
    assert (kind, bytes(body), end) == (ord("Z"), b"I", 6)


def test_skimmer_refuses_a_kind_that_has_no_place() -> None:
    with pytest.raises(ProtocolError, match="kind 0x51 has no place here"):
        FrameSkimmer(BACKEND_LIMITS, {ord("Z")}).skim(encode(Query("select 1")))
