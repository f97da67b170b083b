"""The stream of replication: layouts, no copying, lengths, and times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import LSN_MAX, Lsn
from pgwire.errors import ProtocolError
from pgwire.frames import FrameReader
from pgwire.messages import BACKEND_LIMITS
from pgwire.replication import (
    XLOG_DATA_HEADER_BYTES,
    HotStandbyFeedback,
    Keepalive,
    StatusUpdate,
    XLogData,
    decode_copy_data,
    encode_feedback,
    encode_keepalive,
    encode_status_update,
    encode_xlog_data_header,
    postgres_us,
    unix_s,
)

LSN = st.integers(0, LSN_MAX).map(Lsn)
TIME = st.integers(-(2**63), 2**63 - 1)
XID = st.integers(0, 2**32 - 1)


def body_of(frame: bytes) -> memoryview:
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(frame)
    [(kind, body)] = reader
    assert kind == ord("d")
    return body


def test_messages_are_the_documented_bytes() -> None:
    header = encode_xlog_data_header(Lsn(1), Lsn(2), 3, 4)
    assert header == b"d\0\0\0\x21w" + bytes(7) + b"\1" + bytes(7) + b"\2" + bytes(7) + b"\3"
    assert encode_keepalive(Lsn(1), 2, True) == (
        b"d\0\0\0\x16k" + bytes(7) + b"\1" + bytes(7) + b"\2" + b"\1"
    )
    assert encode_status_update(Lsn(1), Lsn(2), Lsn(3), 4, False) == (
        b"d\0\0\0\x26r" + b"".join(bytes(7) + bytes([n]) for n in (1, 2, 3, 4)) + b"\0"
    )
    assert encode_feedback(HotStandbyFeedback(1, 2, 3, 4, 5)) == (
        b"d\0\0\0\x1dh" + bytes(7) + b"\1" + b"".join(bytes(3) + bytes([n]) for n in (2, 3, 4, 5))
    )


@given(LSN, LSN, TIME, st.binary(max_size=50))
def test_wal_survives_the_wire(start: Lsn, end: Lsn, sent_us: int, data: bytes) -> None:
    frame = encode_xlog_data_header(start, end, sent_us, len(data)) + data
    message = decode_copy_data(body_of(frame))
    assert message == XLogData(start, end, sent_us, data)
    assert isinstance(message, XLogData)
    assert isinstance(message.start, Lsn)
    assert isinstance(message.end, Lsn)


@given(LSN, TIME, st.booleans())
def test_keepalive_survives_the_wire(end: Lsn, sent_us: int, reply: bool) -> None:
    frame = encode_keepalive(end, sent_us, reply)
    assert decode_copy_data(body_of(frame)) == Keepalive(end, sent_us, reply)


@given(LSN, LSN, LSN, TIME, st.booleans())
def test_status_update_survives_the_wire(
    write: Lsn,
    flush: Lsn,
    apply: Lsn,
    sent_us: int,
    reply: bool,
) -> None:
    frame = encode_status_update(write, flush, apply, sent_us, reply)
    assert decode_copy_data(body_of(frame)) == StatusUpdate(write, flush, apply, sent_us, reply)


@given(st.builds(HotStandbyFeedback, TIME, XID, XID, XID, XID))
def test_feedback_survives_the_wire(feedback: HotStandbyFeedback) -> None:
    assert decode_copy_data(body_of(encode_feedback(feedback))) == feedback


def test_wal_is_not_copied() -> None:
    body = bytearray(b"w" + bytes(24) + b"wal")
    message = decode_copy_data(body)
    assert isinstance(message, XLogData)
    body[XLOG_DATA_HEADER_BYTES:] = b"WAL"
    assert message.data == b"WAL"


@given(st.sampled_from(b"wkrhps\0"), st.binary(max_size=60))
def test_garbage_is_refused_or_is_a_message(tag: int, rest: bytes) -> None:
    try:
        decode_copy_data(bytes([tag]) + rest)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "kind 0x00 is unknown"),
        (b"z", "kind 0x7A is unknown"),
        (b"w" + bytes(23), "'w' cannot have 24 bytes"),
        (b"k" + bytes(16), "'k' cannot have 17 bytes"),
        (b"k" + bytes(18), "'k' cannot have 19 bytes"),
        (b"r" + bytes(34), "'r' cannot have 35 bytes"),
        (b"h" + bytes(23), "'h' cannot have 24 bytes"),
    ],
)
def test_message_of_a_wrong_length_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_copy_data(body)


def test_time_counts_from_2000() -> None:
    assert postgres_us(946_684_800) == 0
    assert postgres_us(1_700_000_000.000_001) == 753_315_200_000_001
    assert unix_s(753_315_200_500_000) == 1_700_000_000.5
