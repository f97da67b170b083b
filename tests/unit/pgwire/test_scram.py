"""SCRAM: the RFCs' examples, both sides against each other, and every way to cheat.

In scope: the messages, verifiers, keys. Out of scope: how passwords are prepared
(test_saslprep.py), certificates (test_channel_binding.py), real servers and drivers
(tests/integration/test_scram_against_real_peers.py).
"""

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgwire.errors import ProtocolError
from pgwire.saslprep import prepared_password
from pgwire.scram import (
    ITERATIONS_MAX,
    MESSAGE_BYTES_MAX,
    ChannelBinding,
    Mechanism,
    ScramClient,
    ScramError,
    ScramKeys,
    ScramServer,
    ScramVerifier,
)

PASSWORD = "pencil"  # noqa: S105  # of the example of the RFC
OFFER = ["SCRAM-SHA-256"]
OFFER_PLUS = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
BINDING = hashlib.sha256(b"a certificate").digest()

# RFC 7677, section 3; the user's name stands in its client's messages, so only keys are taken.
RFC_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
RFC_FIRST_BARE = b"n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def counting() -> Callable[[int], bytes]:
    """Bytes as a nonce needs them: never the same twice, always the same in a test."""
    calls = iter(range(10_000))
    return lambda count: hashlib.shake_128(str(next(calls)).encode()).digest(count)


def verifier_of(password: str) -> ScramVerifier:
    return ScramVerifier.make(password, counting(), iterations=2)


def client_of(
    secret: str | ScramKeys = PASSWORD,
    offered: list[str] | None = None,
    *,
    binding: ChannelBinding = ChannelBinding.PREFERRED,
    binding_data: bytes | None = None,
) -> ScramClient:
    return ScramClient(
        secret,
        OFFER if offered is None else offered,
        random_bytes=counting(),
        binding=binding,
        binding_data=binding_data,
    )


def server_of(password: str = PASSWORD, *, binding_data: bytes | None = None) -> ScramServer:
    return ScramServer(verifier_of(password), random_bytes=counting(), binding_data=binding_data)


def log_in(client: ScramClient, server: ScramServer) -> None:
    """Carry the four messages; raises what either side says."""
    challenge = server.start(client.mechanism, client.first())
    client.finish(server.finish(client.final(challenge)))


# The examples of the RFC.


def rfc_random(count: int) -> bytes:
    assert count == 16
    return RFC_SALT


def test_server_takes_the_example_of_rfc_7677() -> None:
    server = ScramServer(ScramVerifier.make("pencil", rfc_random), random_bytes=counting())
    server.start("SCRAM-SHA-256", b"n,," + RFC_FIRST_BARE)
    # Our nonces are base64, which the example's is not: put its challenge in the place of ours.
    server._nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    server._signed = RFC_FIRST_BARE + b"," + RFC_SERVER_FIRST
    assert server.finish(RFC_CLIENT_FINAL) == RFC_SERVER_FINAL


def test_client_makes_the_example_of_rfc_7677() -> None:
    nonce = base64.b64decode("rOprNGfwEbeRWgbNEkqO")
    client = ScramClient("pencil", OFFER, random_bytes=lambda _: nonce)
    client._first_bare = RFC_FIRST_BARE  # with a user's name, as PostgreSQL never sends it
    assert client.final(RFC_SERVER_FIRST) == RFC_CLIENT_FINAL
    client.finish(RFC_SERVER_FINAL)


def test_verifier_of_the_example_has_the_form_of_postgres() -> None:
    text = ScramVerifier.make("pencil", rfc_random).format()
    assert text == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert ScramVerifier.parse(text).format() == text


# Both sides against each other.

PASSWORDS = st.text(min_size=1, max_size=40).filter(
    lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
)


@settings(deadline=None)
@given(password=PASSWORDS, binding_data=st.none() | st.binary(min_size=32, max_size=64))
def test_whoever_knows_the_password_logs_in(password: str, binding_data: bytes | None) -> None:
    server = server_of(password, binding_data=binding_data)
    client = client_of(password, list(server.mechanisms), binding_data=binding_data)
    log_in(client, server)
    assert client.mechanism is (Mechanism.PLAIN if binding_data is None else Mechanism.PLUS)


@settings(deadline=None)
@given(password=PASSWORDS, other=PASSWORDS)
def test_whoever_does_not_know_it_does_not(password: str, other: str) -> None:
    client, server = client_of(other), server_of(password)
    if prepared_password(password) == prepared_password(other):
        log_in(client, server)
        return
    with pytest.raises(ScramError, match="does not know the password"):
        log_in(client, server)


def test_keys_of_a_login_log_in_elsewhere_without_the_password() -> None:
    door = server_of()
    log_in(client_of("pencil"), door)
    log_in(client_of(door.keys), server_of())


def test_keys_of_another_password_do_not_log_in() -> None:
    door = server_of("pen")
    log_in(client_of("pen"), door)
    with pytest.raises(ScramError):
        log_in(client_of(door.keys), server_of("pencil"))


def test_keys_are_not_known_before_the_proof() -> None:
    server = server_of()
    with pytest.raises(AssertionError):
        _ = server.keys
    with pytest.raises(ScramError):
        log_in(client_of("pen"), server)
    with pytest.raises(AssertionError):
        _ = server.keys


def test_mock_verifier_is_always_the_same_and_fits_no_password() -> None:
    mock = ScramVerifier.mock("ada", b"secret of the server")
    assert mock == ScramVerifier.mock("ada", b"secret of the server")
    assert mock.salt != ScramVerifier.mock("bob", b"secret of the server").salt
    assert mock.salt != ScramVerifier.mock("ada", b"another").salt
    real = ScramVerifier.make("pencil", counting())
    assert (mock.iterations, len(mock.salt)) == (real.iterations, len(real.salt))
    with pytest.raises(ScramError):
        log_in(client_of(), ScramServer(mock, random_bytes=counting()))


# Cheats.


def test_server_that_does_not_know_the_verifier_is_refused() -> None:
    client, server = client_of(), server_of()
    client.final(server.start(client.mechanism, client.first()))
    with pytest.raises(ScramError, match="do not trust it"):
        client.finish(b"v=" + base64.b64encode(bytes(32)))


def test_server_that_skips_its_proof_is_refused() -> None:
    client, server = client_of(), server_of()
    with pytest.raises(ProtocolError, match="before its challenge"):
        client.finish(b"v=")
    client.final(server.start(client.mechanism, client.first()))
    for message in (b"", b"v", b"v=", b"x=1"):
        with pytest.raises((ProtocolError, ScramError)):
            client.finish(message)


def test_server_says_that_it_refuses() -> None:
    client, server = client_of(), server_of()
    client.final(server.start(client.mechanism, client.first()))
    with pytest.raises(ScramError, match="refused"):
        client.finish(b"e=invalid-proof")


def test_final_message_of_another_login_is_not_taken() -> None:
    first, second = server_of(), ScramServer(verifier_of("pencil"), random_bytes=bytes)
    client = client_of()
    final = client.final(first.start(client.mechanism, client.first()))
    second.start(client.mechanism, client.first())
    with pytest.raises(ProtocolError, match="not the one of this login"):
        second.finish(final)


def test_each_step_happens_once() -> None:
    client, server = client_of(), server_of()
    challenge = server.start(client.mechanism, client.first())
    with pytest.raises(ProtocolError, match="second first"):
        server.start(client.mechanism, client.first())
    final = client.final(challenge)
    with pytest.raises(ProtocolError, match="second SCRAM challenge"):
        client.final(challenge)
    server.finish(final)
    with pytest.raises(ProtocolError, match="out of turn"):
        server.finish(final)


def test_client_may_not_try_twice() -> None:
    client, server = client_of("pen"), server_of("pencil")
    final = client.final(server.start(client.mechanism, client.first()))
    with pytest.raises(ScramError):
        server.finish(final)
    with pytest.raises(ProtocolError, match="out of turn"):
        server.finish(final)


def test_proof_made_over_another_tls_connection_is_refused() -> None:
    client = client_of(offered=OFFER_PLUS, binding_data=hashlib.sha256(b"in between").digest())
    with pytest.raises(ScramError, match="another TLS connection"):
        log_in(client, server_of(binding_data=BINDING))


def test_hidden_channel_binding_is_noticed() -> None:
    client = client_of(offered=OFFER, binding_data=BINDING)  # PLUS was struck from the offer
    assert client.first().startswith(b"y,,")
    with pytest.raises(ScramError, match="hides"):
        log_in(client, server_of(binding_data=BINDING))


def test_required_channel_binding_is_not_given_up() -> None:
    required = ChannelBinding.REQUIRED
    with pytest.raises(ScramError, match="server does not offer"):
        client_of(offered=OFFER, binding=required, binding_data=BINDING)
    with pytest.raises(ScramError, match="this connection has none"):
        client_of(offered=OFFER_PLUS, binding=required)


def test_disabled_channel_binding_is_not_used() -> None:
    disabled = ChannelBinding.DISABLED
    client = client_of(offered=OFFER_PLUS, binding=disabled, binding_data=BINDING)
    assert client.first().startswith(b"n,,")
    log_in(client, server_of(binding_data=BINDING))


def test_server_without_a_mechanism_of_ours_is_refused() -> None:
    with pytest.raises(ScramError, match="does not offer"):
        client_of(offered=["SCRAM-SHA-1", "OAUTHBEARER"])


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r=NONCEx,s=c2FsdA==",
        b"s=c2FsdA==,r=NONCEx,i=1",
        b"m=new,r=NONCEx,s=c2FsdA==,i=1",
        b"r=NONCE,s=c2FsdA==,i=1",  # nothing of the server's own
        b"r=other,s=c2FsdA==,i=1",
        b"r=NONCE \x00,s=c2FsdA==,i=1",
        b"r=NONCE" + b"x" * 600 + b",s=c2FsdA==,i=1",
        b"r=NONCEx,s=!,i=1",
        b"r=NONCEx,s=,i=1",
        b"r=NONCEx,s=c2FsdA==,i=0",
        b"r=NONCEx,s=c2FsdA==,i=-1",
        b"r=NONCEx,s=c2FsdA==,i=" + str(ITERATIONS_MAX + 1).encode(),
        b"r=NONCEx,s=c2FsdA==,i=99999999999999999999",
        b"r=NONCEx,s=c2FsdA==,i=1,x=" + b"y" * MESSAGE_BYTES_MAX,
    ],
)
def test_client_refuses_challenge(challenge: bytes) -> None:
    client = client_of()
    nonce = client.first().partition(b"r=")[2]
    with pytest.raises(ProtocolError):
        client.final(challenge.replace(b"NONCE", nonce))


@pytest.mark.parametrize(
    ("mechanism", "message"),
    [
        ("SCRAM-SHA-1", b"n,,n=,r=abc"),
        ("SCRAM-SHA-256-PLUS", b"n,,n=,r=abc"),
        ("SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abc"),
        ("SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abc"),
        ("SCRAM-SHA-256", b""),
        ("SCRAM-SHA-256", b"n,,"),
        ("SCRAM-SHA-256", b"n,,n="),
        ("SCRAM-SHA-256", b"n,,m=x,n=,r=abc"),
        ("SCRAM-SHA-256", b"n,,n=,r="),
        ("SCRAM-SHA-256", b"n,,n=,r=a b"),
        ("SCRAM-SHA-256", b"n,,n=,r=" + b"a" * 513),
        ("SCRAM-SHA-256", b"n,,n=,r=abc,x=" + b"a" * MESSAGE_BYTES_MAX),
        ("SCRAM-SHA-256", b"q,,n=,r=abc"),
    ],
)
def test_server_refuses_first_message(mechanism: str, message: bytes) -> None:
    with pytest.raises(ProtocolError):
        server_of(binding_data=BINDING).start(mechanism, message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c=", b"x="),
        (b",p=", b",q="),
        (b",p=", b",p=!"),
        (b",p=", b",p=AA,p="),
        (b"c=biws", b"c=!"),
        (b",r=", b",r=x"),
        (b",r=", b",x=y,r="),
    ],
)
def test_server_refuses_changed_final_message(old: bytes, new: bytes) -> None:
    client, server = client_of(), server_of()
    final = client.final(server.start(client.mechanism, client.first()))
    with pytest.raises((ProtocolError, ScramError)):
        server.finish(final.replace(old, new, 1))


def test_proof_has_one_spelling() -> None:
    client, server = client_of(), server_of()
    final = client.final(server.start(client.mechanism, client.first()))
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(final[-2]) + 1]  # differs in bits that decoding drops
    changed = final[:-2] + bytes([other]) + b"="
    assert base64.b64decode(changed[-44:]) == base64.b64decode(final[-44:])
    with pytest.raises(ProtocolError, match="not base64"):
        server.finish(changed)


def test_optional_extensions_are_let_pass() -> None:
    server = server_of()
    assert server.start("SCRAM-SHA-256", b"n,a=ada,n=ada,r=abc,x=y").startswith(b"r=abc")


@given(data=st.binary(max_size=200))
def test_garbage_only_ever_breaks_the_protocol(data: bytes) -> None:
    client, server = client_of(), server_of()
    with pytest.raises(ProtocolError):
        client.final(data)
    with pytest.raises(ProtocolError):
        server.start("SCRAM-SHA-256", data)
    started = server_of()
    started.start(client.mechanism, client.first())
    with pytest.raises(ProtocolError):
        started.finish(data)


@settings(deadline=None)
@given(where=st.integers(0, 120), bit=st.integers(0, 7), which=st.integers(0, 3))
def test_any_changed_bit_ends_the_login(where: int, bit: int, which: int) -> None:
    """But for those that change nothing: the user's name is not looked at."""
    carried = 0

    def wire(message: bytes) -> bytes:
        nonlocal carried
        carried += 1
        if carried - 1 != which or where >= len(message):
            return message
        changed = bytearray(message)
        changed[where] ^= 1 << bit
        is_changed[0] = True
        return bytes(changed)

    is_changed = [False]
    client, server = client_of(), server_of()
    try:
        challenge = wire(server.start(client.mechanism, wire(client.first())))
        client.finish(wire(server.finish(wire(client.final(challenge)))))
    except (ProtocolError, ScramError):
        assert is_changed[0]
    else:
        assert not is_changed[0]


# Secrets stay secret.


def test_no_repr_shows_a_secret() -> None:
    verifier = verifier_of("pencil")
    server = server_of()
    log_in(client_of("pencil"), server)
    shown = f"{verifier!r} {server.keys!r} {client_of('pencil')!r} {server!r}"
    for secret in (verifier.stored_key, verifier.server_key, server.keys.client_key):
        assert repr(secret) not in shown
    assert "pencil" not in shown


# Verifiers.


@settings(deadline=None)
@given(
    st.builds(
        ScramVerifier,
        iterations=st.integers(1, ITERATIONS_MAX),
        salt=st.binary(min_size=1, max_size=1024),
        stored_key=st.binary(min_size=32, max_size=32),
        server_key=st.binary(min_size=32, max_size=32),
    )
)
def test_verifier_is_read_as_it_was_written(verifier: ScramVerifier) -> None:
    assert ScramVerifier.parse(verifier.format()) == verifier


KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        f"SCRAM-SHA-1$1:AAAA${KEY}:{KEY}",
        f"SCRAM-SHA-256$0:AAAA${KEY}:{KEY}",
        f"SCRAM-SHA-256${ITERATIONS_MAX + 1}:AAAA${KEY}:{KEY}",
        f"SCRAM-SHA-256$1:AAAA${KEY}:",
        f"SCRAM-SHA-256$1:AAAA${KEY}:AAAA",
        f"SCRAM-SHA-256$1:AAA${KEY}:{KEY}",
        f"SCRAM-SHA-256$1:{'A' * 1372}${KEY}:{KEY}",
        f"SCRAM-SHA-256$1:AAAA${KEY}:{KEY}\n",
    ],
)
def test_text_is_no_verifier(text: str) -> None:
    with pytest.raises(ValueError, match=r"SCRAM|padding|base64"):
        ScramVerifier.parse(text)
