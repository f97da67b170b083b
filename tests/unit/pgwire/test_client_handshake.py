"""A client's login, message by message: what it sends, whom it refuses, what it never gives away.

In scope: the order of messages, every kind of authentication, hostile servers. Out of scope: SCRAM
itself (test_scram.py), our own server's side (test_server_handshake.py), real servers.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire.authentication import (
    AuthenticationCleartextPassword,
    AuthenticationGss,
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
    CommandComplete,
    ErrorResponse,
    NegotiateProtocolVersion,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
)
from pgwire.client_handshake import SERVER_PARAMETERS_MAX, ClientHandshake, ServerRefusedError
from pgwire.errors import ProtocolError
from pgwire.frames import HEADER_BYTES
from pgwire.messages import BACKEND_LIMITS, encode
from pgwire.scram import ChannelBinding, ScramError, ScramServer, ScramVerifier
from pgwire.startup import StartupMessage, decode_startup

USER = {"user": "ada", "database": "postgres"}
SECRET = "pencil"  # noqa: S105  # of the example


def client(
    secret: str | None = SECRET,
    *,
    binding: ChannelBinding = ChannelBinding.PREFERRED,
    binding_data: bytes | None = None,
    minor: int = 0,
) -> ClientHandshake:
    return ClientHandshake(
        USER, secret, random_bytes=bytes, binding=binding, binding_data=binding_data, minor=minor
    )


def tell(handshake: ClientHandshake, *messages: BackendMessage) -> bytes:
    """Hand over messages of a server; return all answers."""
    frames = [encode(message) for message in messages]
    return b"".join(handshake.receive(frame[0], frame[HEADER_BYTES:]) for frame in frames)


def scram_answer(data: bytes) -> bytes:
    """The SCRAM message in a client's SASLResponse."""
    return data[HEADER_BYTES:]


class ScramPeer:
    """A server that knows the password, one message at a time."""

    def __init__(self, handshake: ClientHandshake, password: str = SECRET) -> None:
        verifier = ScramVerifier.make(password, bytes, iterations=1)
        self._scram = ScramServer(verifier, random_bytes=bytes)
        self._handshake = handshake

    def request(self) -> bytes:
        """Ask for SCRAM; return the client's first message."""
        return tell(self._handshake, AuthenticationSasl(self._scram.mechanisms))

    def challenge(self, first: bytes) -> bytes:
        """Answer it; return the client's proof."""
        data = first.split(b"SCRAM-SHA-256\0", 1)[1][4:]
        answer = self._scram.start("SCRAM-SHA-256", data)
        return tell(self._handshake, AuthenticationSaslContinue(answer))

    def prove(self, final: bytes) -> bytes:
        """Check it, and send the server's own."""
        proof = self._scram.finish(scram_answer(final))
        return tell(self._handshake, AuthenticationSaslFinal(proof))


# What happens when all is well.


def test_startup_packet_says_who_we_are() -> None:
    packet = client().start()
    assert int.from_bytes(packet[:4]) == len(packet)
    assert decode_startup(packet[4:]) == StartupMessage(3, 0, USER)


def test_trusted_client_is_done_when_the_server_waits_for_commands() -> None:
    handshake = client(None)
    settings = ParameterStatus("server_version", "15.18")
    key = BackendKeyData(1, b"1234")
    assert tell(handshake, AuthenticationOk(), settings, key) == b""
    assert not handshake.is_done
    tell(handshake, ReadyForQuery())
    assert handshake.is_done
    assert handshake.server_parameters == {"server_version": "15.18"}
    assert handshake.backend_key == key


def test_password_is_proven_by_scram_and_never_sent() -> None:
    handshake = client()
    peer = ScramPeer(handshake)
    first = peer.request()
    final = peer.challenge(first)
    assert peer.prove(final) == b""
    tell(handshake, AuthenticationOk(), ReadyForQuery())
    assert handshake.is_done
    assert SECRET.encode() not in first + final


def test_notices_change_nothing() -> None:
    handshake = client(None)
    notice = NoticeResponse.of("WARNING", "01000", "think of it")
    tell(handshake, notice, AuthenticationOk(), notice, ReadyForQuery())
    assert handshake.is_done


def test_older_version_of_the_protocol_is_accepted() -> None:
    handshake = client(None, minor=2)
    tell(handshake, NegotiateProtocolVersion(3, 0), AuthenticationOk(), ReadyForQuery())
    assert handshake.minor == 0
    assert handshake.is_done


# Whom it refuses.


def test_error_of_the_server_says_why() -> None:
    error = ErrorResponse.of("FATAL", "28P01", "password authentication failed")
    with pytest.raises(ServerRefusedError, match="28P01: password authentication") as caught:
        tell(client(), error)
    assert caught.value.sqlstate == "28P01"
    assert caught.value.fields["M"] == "password authentication failed"


def test_long_words_of_a_server_are_cut() -> None:
    with pytest.raises(ServerRefusedError) as caught:
        tell(client(), ErrorResponse.of("FATAL", "28P01", "x" * 20_000))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "request_", [AuthenticationCleartextPassword(), AuthenticationMd5Password(b"salt")]
)
def test_password_is_not_given_away(request_: BackendMessage) -> None:
    with pytest.raises(ScramError, match=r"set scram-sha-256 in pg_hba\.conf"):
        tell(client(), request_)


@pytest.mark.parametrize(
    "request_", [AuthenticationGss(), AuthenticationSspi(), AuthenticationKerberosV5()]
)
def test_other_ways_to_log_in_are_refused(request_: BackendMessage) -> None:
    with pytest.raises(ProtocolError, match="out of turn"):
        tell(client(), request_)


def test_password_that_is_not_configured_is_missed() -> None:
    with pytest.raises(ScramError, match="none is configured"):
        ScramPeer(client(None)).request()


def test_server_that_does_not_know_the_password_is_refused() -> None:
    handshake = client()
    final = ScramPeer(handshake).challenge(ScramPeer(handshake).request())
    assert final
    with pytest.raises(ScramError, match="do not trust it"):
        tell(handshake, AuthenticationSaslFinal(b"v=" + b"A" * 43 + b"="))


def test_server_may_not_leave_out_its_proof() -> None:
    handshake = client()
    peer = ScramPeer(handshake)
    peer.challenge(peer.request())
    with pytest.raises(ProtocolError, match="AuthenticationOk out of turn"):
        tell(handshake, AuthenticationOk())


def test_server_may_not_let_in_without_the_binding_that_is_required() -> None:
    required = client(None, binding=ChannelBinding.REQUIRED, binding_data=bytes(32))
    with pytest.raises(ScramError, match="asked for no password"):
        tell(required, AuthenticationOk())
    required = client(binding=ChannelBinding.REQUIRED, binding_data=bytes(32))
    with pytest.raises(ScramError, match="the server does not offer it"):
        tell(required, AuthenticationSasl(("SCRAM-SHA-256",)))


@pytest.mark.parametrize(
    "messages",
    [
        (ReadyForQuery(),),
        (ParameterStatus("a", "b"),),
        (BackendKeyData(1, b"1234"),),
        (AuthenticationSaslContinue(b""),),
        (AuthenticationSaslFinal(b""),),
        (CommandComplete("SELECT 1"),),
        (AuthenticationOk(), AuthenticationOk()),
        (AuthenticationOk(), CommandComplete("SELECT 1")),
        (AuthenticationOk(), NegotiateProtocolVersion(3, 0)),
        (NegotiateProtocolVersion(3, 1),),
        (NegotiateProtocolVersion(2, 0),),
        (NegotiateProtocolVersion(3, 0, ("_pq_.x",)),),
    ],
)
def test_message_out_of_turn_is_refused(messages: tuple[BackendMessage, ...]) -> None:
    with pytest.raises(ProtocolError):
        tell(client(), *messages)


def test_settings_without_end_are_refused() -> None:
    handshake = client(None)
    tell(handshake, AuthenticationOk())
    allowed = [ParameterStatus(str(number), "") for number in range(SERVER_PARAMETERS_MAX)]
    tell(handshake, *allowed, *allowed)
    with pytest.raises(ProtocolError, match="settings"):
        tell(handshake, ParameterStatus("one more", ""))


@given(
    st.lists(st.tuples(st.sampled_from(sorted(BACKEND_LIMITS)), st.binary(max_size=40)), max_size=4)
)
def test_garbage_is_refused_or_ignored(frames: list[tuple[int, bytes]]) -> None:
    handshake = client()
    try:
        for kind, body in frames:
            if not handshake.is_done:
                handshake.receive(kind, body)
    except (ProtocolError, ScramError, ServerRefusedError):
        pass
