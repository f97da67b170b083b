"""A server's side of a login: who comes in, who does not, and that nothing of a client upsets it.

In scope: our client against our server, refusals, hostile clients. Out of scope: SCRAM itself
(test_scram.py), real drivers (tests/integration/test_scram_against_real_peers.py).
"""

import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgwire.backend import (
    BackendKeyData,
    BackendMessage,
    ErrorResponse,
    NegotiateProtocolVersion,
    ParameterStatus,
    ReadyForQuery,
)
from pgwire.client_handshake import ClientHandshake, ServerRefusedError
from pgwire.frames import FrameReader
from pgwire.frontend import Query, SaslInitialResponse
from pgwire.messages import BACKEND_LIMITS, FRONTEND_LIMITS, decode_backend, encode
from pgwire.scram import ChannelBinding, ScramClient, ScramKeys, ScramVerifier
from pgwire.server_handshake import Decision, Refuse, Scram, ServerHandshake, Trust
from pgwire.startup import StartupMessage, decode_startup

SECRET = "pencil"  # noqa: S105  # of the example
VERIFIER = ScramVerifier.make(SECRET, bytes, iterations=1)
MOCK = ScramVerifier.mock("nobody", b"secret of the server", iterations=1)
BINDING = hashlib.sha256(b"our certificate").digest()
PARAMETERS = (("server_version", "15.18"), ("client_encoding", "UTF8"))
KEY = BackendKeyData(7, b"1234")
ADA = StartupMessage(3, 0, {"user": "ada"})


def server(decision: Decision, startup: StartupMessage = ADA) -> ServerHandshake:
    return ServerHandshake(
        startup, decision, random_bytes=bytes, parameters=PARAMETERS, backend_key=KEY
    )


def client(
    secret: str | ScramKeys | None = SECRET,
    *,
    binding: ChannelBinding = ChannelBinding.PREFERRED,
    binding_data: bytes | None = None,
    minor: int = 0,
) -> ClientHandshake:
    return ClientHandshake(
        {"user": "ada"},
        secret,
        random_bytes=bytes,
        binding=binding,
        binding_data=binding_data,
        minor=minor,
    )


def meet(one: ClientHandshake, decision: Decision) -> ServerHandshake:
    """Carry all bytes of a login to and fro; return the server's side of it."""
    startup = decode_startup(one.start()[4:])
    assert isinstance(startup, StartupMessage)
    other = server(decision, startup)
    to_client, to_server = FrameReader(BACKEND_LIMITS), FrameReader(FRONTEND_LIMITS)
    data = other.start()
    while data:
        to_client.feed(data)
        to_server.feed(b"".join(one.receive(*frame) for frame in to_client))
        data = b"".join(other.receive(*frame) for frame in to_server)
    return other


def messages(data: bytes) -> list[BackendMessage]:
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(data)
    return [decode_backend(kind, body) for kind, body in reader]


# Who comes in.


def test_trusted_client_comes_in() -> None:
    one = client(None)
    other = meet(one, Trust())
    assert one.is_done
    assert other.is_done
    assert other.keys is None
    assert dict(PARAMETERS) == one.server_parameters
    assert one.backend_key == KEY


@pytest.mark.parametrize("binding_data", [None, BINDING])
def test_client_with_the_password_comes_in(binding_data: bytes | None) -> None:
    one = client(binding_data=binding_data)
    other = meet(one, Scram(VERIFIER, binding_data))
    assert one.is_done
    assert other.is_done
    assert other.startup == StartupMessage(3, 0, {"user": "ada"})


def test_required_channel_binding_is_given() -> None:
    one = client(binding=ChannelBinding.REQUIRED, binding_data=BINDING)
    assert meet(one, Scram(VERIFIER, BINDING)).is_done


def test_keys_of_one_login_open_another_door() -> None:
    keys = meet(client(), Scram(VERIFIER)).keys
    assert keys is not None
    assert meet(client(keys), Scram(VERIFIER)).is_done


# Who does not.


@pytest.mark.parametrize("verifier", [VERIFIER, MOCK])
def test_wrong_password_and_unknown_user_are_told_the_same(verifier: ScramVerifier) -> None:
    with pytest.raises(ServerRefusedError) as caught:
        meet(client("pen"), Scram(verifier))
    assert caught.value.sqlstate == "28P01"
    assert caught.value.fields["M"] == 'password authentication failed for user "ada"'


def test_refused_client_is_told_why() -> None:
    other = server(Refuse("3D000", "there is no branch of this name", "create it"))
    (error,) = messages(other.start())
    assert isinstance(error, ErrorResponse)
    assert (error.severity, error.sqlstate) == ("FATAL", "3D000")
    assert error.fields["H"] == "create it"
    assert other.refusal == "there is no branch of this name"
    assert not other.is_done


def test_refusal_tells_the_log_more_than_the_client() -> None:
    other = server(Scram(VERIFIER, BINDING))
    other.start()
    hides = ScramClient("x", ["SCRAM-SHA-256"], random_bytes=bytes, binding_data=BINDING)
    answer = other.receive(*frame_of(encode(SaslInitialResponse("SCRAM-SHA-256", hides.first()))))
    (error,) = messages(answer)
    assert isinstance(error, ErrorResponse)
    assert error.message == 'password authentication failed for user "ada"'
    assert "channel binding" in other.refusal


def frame_of(data: bytes) -> tuple[int, memoryview]:
    reader = FrameReader(FRONTEND_LIMITS)
    reader.feed(data)
    (frame,) = reader
    return frame


def test_command_before_the_login_is_refused() -> None:
    other = server(Scram(VERIFIER))
    other.start()
    (error,) = messages(other.receive(*frame_of(encode(Query("select 1")))))
    assert isinstance(error, ErrorResponse)
    assert error.sqlstate == "08P01"
    assert other.refusal
    assert not other.is_done


def test_choice_without_a_first_message_is_refused() -> None:
    other = server(Scram(VERIFIER))
    other.start()
    (error,) = messages(
        other.receive(*frame_of(encode(SaslInitialResponse("SCRAM-SHA-256", None))))
    )
    assert isinstance(error, ErrorResponse)
    assert error.sqlstate == "08P01"


# Versions of the protocol.


def test_newer_version_and_unknown_options_are_negotiated() -> None:
    startup = StartupMessage(3, 9999, {"user": "ada", "_pq_.magic": "on"})
    first, *rest = messages(server(Trust(), startup).start())
    assert first == NegotiateProtocolVersion(3, 2, ("_pq_.magic",))
    assert rest[-1] == ReadyForQuery()
    assert rest[1] == ParameterStatus(*PARAMETERS[0])


@pytest.mark.parametrize("minor", [0, 2])
def test_known_version_is_not_negotiated(minor: int) -> None:
    one = client(minor=minor)
    meet(one, Scram(VERIFIER))
    assert one.is_done
    assert one.minor == minor


# Hostile clients.


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FRONTEND_LIMITS)), st.binary(max_size=60)), max_size=4
    )
)
def test_garbage_never_comes_in_and_never_raises(frames: list[tuple[int, bytes]]) -> None:
    other = server(Scram(VERIFIER))
    other.start()
    for kind, body in frames:
        if not other.refusal:
            other.receive(kind, body)
    assert not other.is_done


def test_no_repr_of_a_decision_shows_a_key() -> None:
    shown = repr(Scram(VERIFIER))
    for value in dataclasses.astuple(VERIFIER)[2:]:
        assert repr(value) not in shown


def test_a_client_that_has_proven_itself_waits_until_it_is_let_in() -> None:
    gate = ServerHandshake(ADA, Scram(VERIFIER), random_bytes=bytes, waits=True)
    visitor = client()
    to_client, to_gate = FrameReader(BACKEND_LIMITS), FrameReader(FRONTEND_LIMITS)
    visitor.start()
    to_client.feed(gate.start())
    for _ in range(2):
        for kind, body in to_client:
            if answer := visitor.receive(kind, body):
                to_gate.feed(answer)
        for kind, body in to_gate:
            to_client.feed(gate.receive(kind, body))
    for kind, body in to_client:
        visitor.receive(kind, body)
    assert gate.is_proven
    assert not gate.is_done
    assert gate.keys is not None, "with which a server is asked, before the client is let in"
    assert not visitor.is_done
    to_client.feed(gate.let_in(PARAMETERS, KEY))
    for kind, body in to_client:
        visitor.receive(kind, body)
    assert gate.is_done
    assert visitor.is_done
    assert dict(visitor.server_parameters) == dict(PARAMETERS)


def test_a_client_that_does_not_wait_is_refused() -> None:
    gate = ServerHandshake(ADA, Trust(), random_bytes=bytes, waits=True)
    assert gate.start() == b""
    assert gate.is_proven
    gate.receive(ord("Q"), b"select 1\0")
    assert "before it was let in" in gate.refusal
