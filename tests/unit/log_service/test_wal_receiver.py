"""Bytes of a replication stream become pieces of WAL: all of them, in order, in memory that stays.

In scope: any way the stream may be cut, ownership of the bytes, gaps, lengths, strange messages.
Out of scope: connections (tests/integration/test_replication_client.py).
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.buffers import BufferPool
from fabric.lsn import LSN_MAX, Lsn
from log_service.wal_receiver import (
    CHUNK_BYTES_MIN,
    FRAME_BYTES_MAX,
    ROOM_BYTES_MIN,
    WAL_BYTES_MAX,
    Piece,
    WalReceiver,
)
from pgwire.backend import CommandComplete, NotificationResponse
from pgwire.copying import CopyData, CopyDone
from pgwire.errors import ProtocolError
from pgwire.messages import encode
from pgwire.replication import (
    encode_keepalive,
    encode_status_update,
    encode_xlog_data_header,
)

START = Lsn(0x1000000)


def wal_frame(start: Lsn, data: bytes) -> bytes:
    return encode_xlog_data_header(start, start + len(data), 0, len(data)) + data


def stream_of(pieces: list[bytes]) -> bytes:
    frames, lsn = [], START
    for data in pieces:
        frames.append(wal_frame(lsn, data))
        lsn += len(data)
    return b"".join(frames)


def receiver(*, kept_bytes_max: int = 0) -> WalReceiver:
    made = WalReceiver(BufferPool(kept_bytes_max=kept_bytes_max), chunk_bytes=CHUNK_BYTES_MIN)
    made.expect(START)
    return made


def write(into: WalReceiver, data: bytes) -> int:
    """What the kernel does: as many bytes as there is room for; return how many."""
    room = into.room()
    count = min(len(room), len(data))
    assert count, "there is always room"
    room[:count] = data[:count]
    into.received(count)
    return count


def receive(into: WalReceiver, data: bytes, cuts: list[int]) -> list[Piece]:
    """Feed in reads of these sizes, over and over; return all pieces."""
    pieces: list[Piece] = []
    at = turn = 0
    while at < len(data):
        at += write(into, data[at : at + cuts[turn % len(cuts)]])
        turn += 1
        pieces += into.wal()
        assert into.frame() is None
    return pieces


@given(
    sizes=st.lists(st.sampled_from([1, 7, 1000, 30_000, WAL_BYTES_MAX]), min_size=1, max_size=12),
    cuts=st.lists(st.sampled_from([3, 29, 31, 4096, 100_000, 10**6]), min_size=1, max_size=6),
)
def test_any_cut_of_the_stream_gives_the_same_wal(sizes: list[int], cuts: list[int]) -> None:
    rng = random.Random(len(sizes))
    sent = [rng.randbytes(size) for size in sizes]
    cuts = [*cuts, 70_000]  # so that tiny reads do not take for ever
    into = receiver()
    pieces = receive(into, stream_of(sent), cuts)
    assert [bytes(data) for _, data in pieces] == sent
    assert into.is_empty
    lsn = START
    for start, data in pieces:
        assert start == lsn
        lsn += len(data)
    assert into.position == lsn


def test_one_burst_is_one_list() -> None:
    into = receiver()
    write(into, stream_of([b"one", b"two", b"three"]))
    assert [bytes(data) for _, data in into.wal()] == [b"one", b"two", b"three"]
    assert into.wal() == []


def test_bytes_that_somebody_holds_are_never_written_again() -> None:
    into = receiver(kept_bytes_max=4 * CHUNK_BYTES_MIN)
    sent = [bytes([number]) * 50_000 for number in range(200)]
    pieces = receive(into, stream_of(sent), [60_000])
    assert [bytes(data) for _, data in pieces] == sent


def test_memory_that_nobody_holds_is_used_again() -> None:
    pool = BufferPool(kept_bytes_max=3 * CHUNK_BYTES_MIN)
    into = WalReceiver(pool, chunk_bytes=CHUNK_BYTES_MIN)
    into.expect(START)
    chunks = set()
    data = stream_of([bytes(50_000)] * 100)
    while data:
        data = data[write(into, data[:60_000]) :]
        chunks |= {id(piece.obj) for _, piece in into.wal()}
    assert len(chunks) <= 3


def test_piece_is_a_view_and_no_copy() -> None:
    into = receiver()
    room = into.room()
    write(into, stream_of([b"abc"]))
    ((_, piece),) = into.wal()
    assert piece.obj is room.obj


def test_keepalive_between_pieces_is_noted() -> None:
    into = receiver()
    one, two = wal_frame(START, b"one"), wal_frame(START + 3, b"two")
    write(into, one + encode_keepalive(START, 0, True) + two + encode_keepalive(START, 0, False))
    assert [bytes(data) for _, data in into.wal()] == [b"one", b"two"]
    assert into.take_reply_request()
    assert not into.take_reply_request()


def test_keepalive_that_wants_nothing_asks_for_nothing() -> None:
    into = receiver()
    write(into, encode_keepalive(START, 0, False))
    assert into.wal() == []
    assert not into.take_reply_request()


def test_other_messages_keep_their_place_between_the_pieces() -> None:
    into = receiver()
    news = NotificationResponse(1, "channel", "payload")
    data = (
        wal_frame(START, b"one") + encode(news) + wal_frame(START + 3, b"two") + encode(CopyDone())
    )
    write(into, data)
    assert [bytes(data) for _, data in into.wal()] == [b"one"]
    frame = into.frame()
    assert frame is not None
    assert frame[0] == ord("A")
    assert [bytes(data) for _, data in into.wal()] == [b"two"]
    assert frame_of(into) == (ord("c"), b"")
    assert into.frame() is None


def test_there_is_room_for_the_rest_of_a_frame_and_never_just_a_little() -> None:
    into = receiver()
    data = stream_of([bytes(100_000)] * 20)
    beginning = len(wal_frame(START, b""))
    while data:
        assert len(into.room()) >= ROOM_BYTES_MIN
        data = data[write(into, data[:beginning]) :]
        assert not into.wal()
        assert len(into.room()) >= 100_000
        data = data[write(into, data[:100_000]) :]
        assert len(into.wal()) == 1


def test_frame_is_not_taken_before_it_is_whole() -> None:
    into = receiver()
    data = encode(CommandComplete("SELECT 1"))
    for byte in data[:-1]:
        write(into, bytes([byte]))
        assert into.frame() is None
    write(into, data[-1:])
    assert frame_of(into) == (ord("C"), b"SELECT 1\0")


def frame_of(into: WalReceiver) -> tuple[int, bytes] | None:
    frame = into.frame()
    return None if frame is None else (frame[0], bytes(frame[1]))


@pytest.mark.parametrize("other", [START - 1, START + 1, Lsn(0), Lsn(LSN_MAX)])
def test_gap_is_refused(other: Lsn) -> None:
    into = receiver()
    write(into, wal_frame(other, b"x") if other < LSN_MAX else _frame_at_the_end())
    with pytest.raises(ProtocolError, match=r"goes on at .* where 0/1000000 was expected"):
        into.wal()


def _frame_at_the_end() -> bytes:
    return encode_xlog_data_header(Lsn(LSN_MAX), Lsn(LSN_MAX), 0, 1) + b"x"


def test_gap_behind_a_piece_is_refused() -> None:
    into = receiver()
    write(into, wal_frame(START, b"one") + wal_frame(START + 4, b"two"))
    with pytest.raises(ProtocolError, match="0/1000004, where 0/1000003 was expected"):
        into.wal()


def test_wal_beyond_the_last_position_is_refused() -> None:
    into = receiver()
    into.expect(Lsn(LSN_MAX))
    write(into, _frame_at_the_end())
    with pytest.raises(ProtocolError, match="beyond"):
        into.wal()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (wal_frame(START, b""), "nothing in it"),
        (wal_frame(START, bytes(WAL_BYTES_MAX + 1))[:30], "length of 131102 bytes, the limit"),
        (b"d\xff\xff\xff\xffw" + bytes(24), "the limit is"),
        (b"d\0\0\0\3w" + bytes(24), "length of 3 bytes"),
        (b"d\0\0\0\4" + bytes(24), "length of 4 bytes"),
        (encode(CopyData(b"w" + bytes(20))), "goes on at|nothing in it"),
        (encode(CopyData(b"k" + bytes(20))), "cannot have 21 bytes"),
        (encode(CopyData(b"q" + bytes(20))), "unknown"),
        (encode_status_update(START, START, START, 0, False), "does not send a StatusUpdate"),
    ],
)
def test_copy_data_is_refused(data: bytes, sentence: str) -> None:
    into = receiver()
    write(into, data)
    with pytest.raises(ProtocolError, match=sentence):
        into.wal()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"?\0\0\0\4", "no messages of kind 0x3F"),
        (b"Z\0\0\0\3", "length of 3 bytes"),
        (b"D" + (FRAME_BYTES_MAX + 5).to_bytes(4), "the limit is"),
        (b"c\0\0\0\5", "the limit is 4"),
    ],
)
def test_other_frame_is_refused_by_its_header(data: bytes, sentence: str) -> None:
    into = receiver()
    write(into, data)
    with pytest.raises(ProtocolError, match=sentence):
        into.frame()


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_garbage_only_ever_breaks_the_protocol(reads: list[bytes]) -> None:
    into = receiver()
    try:
        for data in filter(None, reads):
            write(into, data)
            into.wal()
            while into.frame() is not None:
                pass
    except ProtocolError:
        pass
