"""Start-up packets: round trip, versions, limits, and what a hostile client may try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.pgwire.wire_values import STARTUP

from pgwire.errors import ProtocolError, UnsupportedVersionError
from pgwire.startup import (
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    StartupPacket,
    decode_startup,
    encode_startup,
)

GOLDEN: list[tuple[StartupPacket, bytes]] = [
    (SslRequest(), b"\0\0\0\x08\x04\xd2\x16\x2f"),
    (GssRequest(), b"\0\0\0\x08\x04\xd2\x16\x30"),
    (CancelRequest(7, b"4444"), b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x074444"),
    (StartupMessage(3, 2, {"user": "u"}), b"\0\0\0\x10\0\x03\0\x02user\0u\0\0"),
]


@pytest.mark.parametrize(("message", "packet"), GOLDEN)
def test_packet_is_the_documented_bytes(message: StartupPacket, packet: bytes) -> None:
    assert encode_startup(message) == packet


@given(STARTUP)
def test_packet_survives_the_wire(message: StartupPacket) -> None:
    packet = encode_startup(message)
    assert int.from_bytes(packet[:4], "big") == len(packet)
    assert decode_startup(packet[4:]) == message


CODES = [0x00030000, 0x00030002, 80877102, 80877103]


@given(st.sampled_from(CODES).map(lambda code: code.to_bytes(4, "big")), st.binary(max_size=80))
def test_garbage_is_refused_or_is_exactly_one_packet(code: bytes, rest: bytes) -> None:
    try:
        message = decode_startup(code + rest)
    except ProtocolError:
        return
    assert encode_startup(message)[4:] == code + rest


@pytest.mark.parametrize("version", [0, 0x00020000, 0x00040000, 0x04D20000, 0xFFFFFFFF])
def test_other_major_version_is_refused_with_what_we_speak(version: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=r"use 3\.0 to 3\.2") as caught:
        decode_startup(version.to_bytes(4, "big") + b"\0")
    assert caught.value.sqlstate == "0A000"


def test_later_minor_version_is_taken_so_that_it_can_be_negotiated() -> None:
    assert decode_startup(b"\0\x03\x27\x0f\0") == StartupMessage(3, 9999, {})


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (b"", "4 bytes are needed"),
        (b"\0\3\0\0", "terminating zero"),
        (b"\0\3\0\0user\0u\0", "terminating zero"),
        (b"\0\3\0\0user\0u\0\0x", "1 bytes follow"),
        (b"\0\3\0\0a\0x\0a\0y\0\0", "given twice"),
        (b"\x04\xd2\x16\x2fx", "1 bytes follow"),
        (b"\x04\xd2\x16\x2e\0\0\0\1abc", "4 to 256 bytes, not 3"),
        (b"\x04\xd2\x16\x2e\0\0\0\1" + bytes(257), "4 to 256 bytes, not 257"),
        (b"\0\3\0\0" + bytes(9993), "exceeds 10000 bytes"),
    ],
)
def test_packet_that_breaks_the_protocol_is_refused(packet: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_startup(packet)


@pytest.mark.parametrize(
    "message",
    [
        StartupMessage(3, 0, {"": "no name"}),
        StartupMessage(3, 0, {"options": "x" * 10_000}),
        StartupMessage(3, 0, {"user": "a\0b"}),
        CancelRequest(1, b""),
    ],
)
def test_packet_that_cannot_be_sent_is_our_mistake(message: StartupPacket) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_startup(message)


def test_key_of_a_cancel_is_not_in_the_repr() -> None:
    assert "hidden" not in repr(CancelRequest(1, b"hidden"))
