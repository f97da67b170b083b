"""Messages: what is encoded is decoded, anything else is refused, nothing is longer than allowed.

Frames written by hand from PostgreSQL's documentation stand for the format; whether real servers
and drivers agree is tested in tests/integration/test_pgwire_server.py and test_pgwire_drivers.py.
"""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.pgwire import wire_values

from pgwire import authentication, backend, frontend
from pgwire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationGss,
    AuthenticationGssContinue,
    AuthenticationKerberosV5,
    AuthenticationMd5Password,
    AuthenticationOk,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
    AuthenticationSspi,
)
from pgwire.backend import (
    BackendKeyData,
    BackendMessage,
    Column,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NegotiateProtocolVersion,
    NoticeResponse,
    ReadyForQuery,
    RowDescription,
    TransactionStatus,
)
from pgwire.copying import CopyBothResponse, CopyData, CopyDone
from pgwire.errors import ProtocolError
from pgwire.fields import Format
from pgwire.frames import HEADER_BYTES, FrameReader
from pgwire.frontend import (
    AuthenticationResponse,
    Bind,
    Describe,
    Execute,
    FrontendMessage,
    FunctionCall,
    Parse,
    PasswordMessage,
    Query,
    SaslInitialResponse,
    SaslResponse,
    Sync,
    Target,
)
from pgwire.messages import (
    BACKEND_LIMITS,
    FRONTEND_LIMITS,
    decode_backend,
    decode_frontend,
    encode,
    kind_of,
    read_response,
)

FRONTEND_GOLDEN: list[tuple[FrontendMessage, bytes]] = [
    (Query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
    (Sync(), b"S\0\0\0\x04"),
    (Describe(Target.PORTAL, "c"), b"D\0\0\0\x07Pc\0"),
    (Execute("", 7), b"E\0\0\0\x09\0\0\0\0\x07"),
    (Parse("s", "select $1", (23, 0)), b"P\0\0\0\x1as\0select $1\0\0\x02\0\0\0\x17\0\0\0\0"),
    (
        Bind("p", "s", (Format.TEXT, Format.BINARY), (b"x", None), (Format.BINARY,)),
        b"B\0\0\0\x1dp\0s\0\0\x02\0\0\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01",
    ),
    (
        FunctionCall(952, (), (b"1",), Format.TEXT),
        b"F\0\0\0\x13\0\0\x03\xb8\0\0\0\x01\0\0\0\x011\0\0",
    ),
    (PasswordMessage("pw"), b"p\0\0\0\x07pw\0"),
    (SaslInitialResponse("M", b"xy"), b"p\0\0\0\x0cM\0\0\0\0\x02xy"),
    (SaslInitialResponse("M", None), b"p\0\0\0\x0aM\0\xff\xff\xff\xff"),
    (SaslResponse(b"xyz"), b"p\0\0\0\x07xyz"),
]

BACKEND_GOLDEN: list[tuple[BackendMessage, bytes]] = [
    (AuthenticationOk(), b"R\0\0\0\x08\0\0\0\0"),
    (AuthenticationKerberosV5(), b"R\0\0\0\x08\0\0\0\x02"),
    (AuthenticationCleartextPassword(), b"R\0\0\0\x08\0\0\0\x03"),
    (AuthenticationGss(), b"R\0\0\0\x08\0\0\0\x07"),
    (AuthenticationGssContinue(b"x"), b"R\0\0\0\x09\0\0\0\x08x"),
    (AuthenticationSspi(), b"R\0\0\0\x08\0\0\0\x09"),
    (AuthenticationSaslContinue(b"x"), b"R\0\0\0\x09\0\0\0\x0bx"),
    (AuthenticationSaslFinal(b"x"), b"R\0\0\0\x09\0\0\0\x0cx"),
    (AuthenticationMd5Password(b"salt"), b"R\0\0\0\x0c\0\0\0\x05salt"),
    (AuthenticationSasl(("A", "B")), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
    (BackendKeyData(258, b"keys"), b"K\0\0\0\x0c\0\0\x01\x02keys"),
    (CommandComplete("SELECT 1"), b"C\0\0\0\x0dSELECT 1\0"),
    (CopyBothResponse(), b"W\0\0\0\x07\0\0\0"),
    (CopyData(b"w"), b"d\0\0\0\x05w"),
    (CopyDone(), b"c\0\0\0\x04"),
    (DataRow((b"1", None, b"")), b"D\0\0\0\x13\0\x03\0\0\0\x011\xff\xff\xff\xff\0\0\0\0"),
    (
        ErrorResponse.of("FATAL", "57P03", "no", "wait"),
        b"E\0\0\0\x24SFATAL\0VFATAL\0C57P03\0Mno\0Hwait\0\0",
    ),
    (NegotiateProtocolVersion(3, 2, ("o",)), b"v\0\0\0\x0e\0\x03\0\x02\0\0\0\x01o\0"),
    (ReadyForQuery(TransactionStatus.FAILED), b"Z\0\0\0\x05E"),
    (
        RowDescription((Column("n", 1, 2, 23, 4, -1, Format.BINARY),)),
        b"T\0\0\0\x1a\0\x01n\0\0\0\0\x01\0\x02\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01",
    ),
]


def split(frame: bytes) -> tuple[int, bytes]:
    return frame[0], frame[HEADER_BYTES:]


@pytest.mark.parametrize(("message", "frame"), [*FRONTEND_GOLDEN, *BACKEND_GOLDEN])
def test_message_is_the_documented_bytes(
    message: FrontendMessage | BackendMessage, frame: bytes
) -> None:
    assert encode(message) == frame


@pytest.mark.parametrize(("message", "frame"), BACKEND_GOLDEN)
def test_documented_bytes_are_the_message(message: BackendMessage, frame: bytes) -> None:
    assert decode_backend(*split(frame)) == message


def test_every_message_has_values_here() -> None:
    in_tables = {layout.message for layout in (*authentication.AUTHENTICATION, *backend.BACKEND)}
    assert wire_values.BACKEND.keys() == in_tables
    assert wire_values.FRONTEND.keys() == {layout.message for layout in frontend.FRONTEND}


@pytest.mark.parametrize("name", wire_values.FRONTEND, ids=lambda name: name.__name__)
@given(st.data())
def test_frontend_message_survives_the_wire(
    name: type[FrontendMessage], data: st.DataObject
) -> None:
    message = data.draw(wire_values.FRONTEND[name])
    frame = encode(message)
    [(kind, body)] = read(FRONTEND_LIMITS, frame)
    assert kind == kind_of(type(message))
    assert decode_frontend(kind, body) == message


@pytest.mark.parametrize("name", wire_values.BACKEND, ids=lambda name: name.__name__)
@given(st.data())
def test_backend_message_survives_the_wire(name: type[BackendMessage], data: st.DataObject) -> None:
    message = data.draw(wire_values.BACKEND[name])
    frame = encode(message)
    [(kind, body)] = read(BACKEND_LIMITS, frame)
    assert kind == kind_of(type(message))
    assert decode_backend(kind, body) == message


def read(limits: Mapping[int, int], frame: bytes) -> list[tuple[int, memoryview]]:
    reader = FrameReader(limits)
    reader.feed(frame)
    return list(reader)


def verify_refused_or_exact(kind: int, body: bytes) -> None:
    for decode in (decode_backend, decode_frontend):
        try:
            message = decode(kind, body)
        except ProtocolError:
            continue
        assert split(encode(message)) == (kind, body)


@given(st.integers(0, 255), st.binary(max_size=80))
def test_garbage_is_refused_or_is_exactly_one_message(kind: int, body: bytes) -> None:
    verify_refused_or_exact(kind, body)


@given(st.data())
def test_damaged_message_is_refused_or_is_exactly_one_message(data: st.DataObject) -> None:
    frame = bytearray(encode(data.draw(wire_values.ANY_BACKEND | wire_values.ANY_FRONTEND)))
    at = data.draw(st.integers(0, len(frame) - 1))
    if data.draw(st.booleans()):
        frame[at] = data.draw(st.integers(0, 255))
    else:
        del frame[at : at + data.draw(st.integers(1, 5))]
    verify_refused_or_exact(*split(bytes(frame or b"\0")))


@given(st.binary(max_size=30))
def test_text_in_any_encoding_passes_unharmed(data: bytes) -> None:
    body = data.replace(b"\0", b"") + b"\0"
    assert split(encode(decode_frontend(ord("Q"), body)))[1] == body


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        ("Z", b"x", "120 is no TransactionStatus"),
        ("Z", b"I ", "1 bytes follow"),
        ("Z", b"", "1 bytes are needed where 0 are left"),
        ("C", b"SELECT 1", "without its terminating zero"),
        ("D", b"\0\1\0\0\0\x05abcd", "5 bytes are needed where 4 are left"),
        ("D", b"\0\1\xff\xff\xff\xfe", "cannot have -2 bytes"),
        ("D", b"\x06\x81" + b"\xff\xff\xff\xff" * 1665, "1665 exceeds 1664"),
        ("E", b"Mx\0My\0\0", "'M' is given twice"),
        ("E", b"Mx\0", "1 bytes are needed"),
        ("K", b"\0\0\0\1key", "4 to 256 bytes"),
        ("K", b"\0\0\0\1" + bytes(257), "4 to 256 bytes"),
        ("R", b"\0\0", "lacks its code"),
        ("R", b"\0\0\0\x06", "code 6 is unknown"),
        ("R", b"\0\0\0\x0a" + b"M\0" * 101 + b"\0", "more than 100 mechanisms"),
        ("W", b"\x02\0\0", "2 is no Format"),
        ("v", b"\0\3\0\0\xff\xff\xff\xff", "count of -1"),
        ("v", b"\0\3\0\0\x7f\xff\xff\xff", "exceeds 100"),
        ("1", b"x", "of 1 bytes exceeds 0"),
        ("Q", b"select 1\0", "a server sends no messages of kind 0x51"),
        ("S", b"a\0" + b"x" * 30_000 + b"\0", "exceeds 30000"),
    ],
)
def test_server_that_breaks_the_protocol_is_told_how(
    kind: str, body: bytes, complaint: str
) -> None:
    with pytest.raises(ProtocolError, match=complaint) as caught:
        decode_backend(ord(kind), body)
    assert caught.value.sqlstate == "08P01"


@pytest.mark.parametrize(
    ("kind", "body", "complaint"),
    [
        ("B", b"\0\0\0\0\xff\xff", "4 bytes are needed"),
        ("B", b"\0\0\0\1\0\2\0\0\0\0", "2 is no Format"),
        ("D", b"X\0", "88 is no Target"),
        ("F", b"\0\0\0\1\0\x65" + b"\0\0" * 101, "101 exceeds 100"),
        ("Z", b"I", "a client sends no messages of kind 0x5A"),
    ],
)
def test_client_that_breaks_the_protocol_is_told_how(
    kind: str, body: bytes, complaint: str
) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        decode_frontend(ord(kind), body)


@pytest.mark.parametrize(
    "message",
    [
        Query("select '\0'"),
        Query("\ud800"),
        Execute("", 2**31),
        BackendKeyData(1, b"abc"),
        AuthenticationMd5Password(b"12345"),
        AuthenticationSasl(("",)),
        AuthenticationSasl(("m",) * 101),
        DataRow((None,) * 1665),
        CommandComplete("x" * 30_000),
        ErrorResponse({"MM": "two characters"}),
        NegotiateProtocolVersion(3, 0, ("o",) * 101),
    ],
)
def test_message_that_cannot_be_sent_is_our_mistake(
    message: FrontendMessage | BackendMessage,
) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode(message)


@pytest.mark.parametrize(
    "answer", [PasswordMessage("pw"), SaslInitialResponse("M", b"x"), SaslResponse(b"x")]
)
def test_answer_is_read_as_what_was_asked_for(
    answer: PasswordMessage | SaslInitialResponse | SaslResponse,
) -> None:
    arrived = decode_frontend(*split(encode(answer)))
    assert isinstance(arrived, AuthenticationResponse)
    assert read_response(arrived, type(answer)) == answer


def test_answer_to_another_question_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a SaslInitialResponse is malformed"):
        read_response(AuthenticationResponse(b"pw\0"), SaslInitialResponse)


def test_error_says_what_it_is_in_the_language_of_the_protocol() -> None:
    error = ErrorResponse({"S": "FEHLER", "V": "ERROR", "C": "42601", "M": "kaputt"})
    assert (error.severity, error.sqlstate, error.message) == ("ERROR", "42601", "kaputt")
    bare = ErrorResponse({})
    assert (bare.severity, bare.sqlstate, bare.message) == ("", "", "")


def test_notice_has_the_fields_of_an_error() -> None:
    fields = {"S": "WARNING", "V": "WARNING", "C": "01000", "M": "beware"}
    assert NoticeResponse.of("WARNING", "01000", "beware").fields == fields


@pytest.mark.parametrize(
    "message",
    [
        AuthenticationResponse(b"hidden"),
        PasswordMessage("hidden"),
        SaslInitialResponse("M", b"hidden"),
        SaslResponse(b"hidden"),
        BackendKeyData(1, b"hidden"),
        Bind("", "", (), (b"hidden",), ()),
    ],
)
def test_secret_is_not_in_the_repr(message: object) -> None:
    assert "hidden" not in repr(message)
