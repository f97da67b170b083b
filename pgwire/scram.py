"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677), both sides, as PostgreSQL speaks them.

    ScramClient                               ScramServer
    first()          ── n,,n=,r=C ──────────► start(mechanism, message)
    final(message)   ◄─ r=CS,s=salt,i=count ──
                     ── c=,r=CS,p=proof ────► finish(message)
    finish(message)  ◄─ v=signature ──────────

A server keeps a `ScramVerifier`, from which nobody can log in. After a login it also knows the
client's key: `ScramServer.keys`. With that a gateway logs in elsewhere as the same user, without
ever having seen the password, wherever the same verifier is stored.

Invariants: each step happens once and in order; secrets are compared in constant time and are never
part of a repr or an error.

The user's name is not in the messages, as with PostgreSQL: the start-up packet has it. Bytes that
break the protocol raise `ProtocolError`; a proof that does not hold, on either side, `ScramError`.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Final, Self

from .channel_binding import ChannelBinding, tls_server_end_point
from .errors import ProtocolError
from .saslprep import prepared_password

__all__ = [
    "ChannelBinding",
    "Mechanism",
    "RandomBytes",
    "ScramClient",
    "ScramError",
    "ScramKeys",
    "ScramServer",
    "ScramVerifier",
    "tls_server_end_point",
]

ITERATIONS_DEFAULT: Final = 4096  # PostgreSQL's; about 2 ms
ITERATIONS_MAX: Final = 1_000_000  # about 0.4 s of a client's time is what a server may ask for
SALT_BYTES_DEFAULT: Final = 16  # PostgreSQL's
SALT_BYTES_MAX: Final = 1024
NONCE_BYTES: Final = 18  # as libpq: 24 characters in base64
NONCE_CHARACTERS_MAX: Final = 512
MESSAGE_BYTES_MAX: Final = 4096  # twice what salt and nonces of the largest size take
KEY_BYTES: Final = 32

RandomBytes = Callable[[int], bytes]

_BINDING_HEADER: Final = b"p=tls-server-end-point,,"
_NONCE: Final = re.compile(rb"[!-+\--~]{1,%d}" % NONCE_CHARACTERS_MAX)  # printable, no comma
_COUNT: Final = re.compile(rb"[1-9][0-9]{0,6}")
_GS2_HEADER: Final = re.compile(rb"(n|y|p=[A-Za-z0-9.-]{1,64}),(?:a=[^,]*)?,")
_VERIFIER: Final = re.compile(
    r"SCRAM-SHA-256\$([1-9][0-9]{0,6}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)"
)


class ScramError(Exception):
    """The other side did not prove what it had to: do not go on with it."""


class Mechanism(StrEnum):
    """What SASL calls the two; PLUS is tied to the TLS connection."""

    PLAIN = "SCRAM-SHA-256"
    PLUS = "SCRAM-SHA-256-PLUS"


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """Instead of a password: what a client needs to log in, and to know its server again."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What a server stores of a password, in the form of PostgreSQL's pg_authid.rolpassword."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= ITERATIONS_MAX:
            raise ValueError(f"a SCRAM verifier has 1 to {ITERATIONS_MAX} iterations")
        if not 1 <= len(self.salt) <= SALT_BYTES_MAX:
            raise ValueError(f"the salt of a SCRAM verifier has 1 to {SALT_BYTES_MAX} bytes")
        if not len(self.stored_key) == len(self.server_key) == KEY_BYTES:
            raise ValueError(f"the keys of a SCRAM verifier have {KEY_BYTES} bytes each")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `SCRAM-SHA-256$iterations:salt$stored key:server key`."""
        match = _VERIFIER.fullmatch(text) if len(text) <= MESSAGE_BYTES_MAX else None
        if match is None:
            raise ValueError("a SCRAM verifier looks like SCRAM-SHA-256$4096:salt$key:key")
        salt, stored_key, server_key = (
            base64.b64decode(part, validate=True) for part in match.groups()[1:]
        )
        return cls(int(match[1]), salt, stored_key, server_key)

    @classmethod
    def make(
        cls, password: str, random_bytes: RandomBytes, *, iterations: int = ITERATIONS_DEFAULT
    ) -> Self:
        """Make a verifier of a password, with a new salt."""
        salt = random_bytes(SALT_BYTES_DEFAULT)
        keys = _keys_of(prepared_password(password), salt, iterations)
        return cls(iterations, salt, _sha256(keys.client_key), keys.server_key)

    @classmethod
    def mock(cls, user: str, secret: bytes, *, iterations: int = ITERATIONS_DEFAULT) -> Self:
        """Make one that no password fits, always the same for a user.

        A server gives it to a user that it does not know, so that nobody can find out who exists.
        """
        salt, stored_key, server_key = (
            _hmac(secret, what + b" of " + user.encode("utf-8", "surrogateescape"))
            for what in (b"salt", b"stored key", b"server key")
        )
        return cls(iterations, salt[:SALT_BYTES_DEFAULT], stored_key, server_key)

    def format(self) -> str:
        """Return the text that `parse` reads."""
        salt, stored_key, server_key = (
            base64.b64encode(part).decode()
            for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{Mechanism.PLAIN}${self.iterations}:{salt}${stored_key}:{server_key}"


class _Step(Enum):
    FIRST = auto()
    FINAL = auto()
    OVER = auto()


class ScramClient:
    """The client's side of one login, with a password or with keys."""

    def __init__(
        self,
        secret: str | ScramKeys,
        offered: Sequence[str],
        *,
        random_bytes: RandomBytes,
        binding: ChannelBinding = ChannelBinding.PREFERRED,
        binding_data: bytes | None = None,
    ) -> None:
        """`offered` are the server's mechanisms, `binding_data` is what TLS gave; None: no TLS."""
        self.mechanism, self._header = _choice(offered, binding, binding_data)
        self._binding_data = binding_data or b""
        self._secret = secret if isinstance(secret, ScramKeys) else prepared_password(secret)
        self._nonce = base64.b64encode(random_bytes(NONCE_BYTES))
        self._first_bare = b"n=,r=" + self._nonce
        self._server_signature: bytes | None = None

    def first(self) -> bytes:
        """Return the first message."""
        return self._header + self._first_bare

    def final(self, server_first: bytes) -> bytes:
        """Answer the server's first message."""
        if self._server_signature is not None:
            raise ProtocolError("the server sent a second SCRAM challenge")
        nonce, salt, count = _attributes(server_first, b"r", b"s", b"i")
        continues = nonce.startswith(self._nonce) and len(nonce) > len(self._nonce)
        if not continues or _NONCE.fullmatch(nonce) is None:
            raise ProtocolError("the server's SCRAM nonce does not continue ours")
        keys = self._keys(_decoded(salt), count)
        binding = self._binding_data if self.mechanism is Mechanism.PLUS else b""
        without_proof = b"c=" + base64.b64encode(self._header + binding) + b",r=" + nonce
        signed = b",".join((self._first_bare, server_first, without_proof))
        self._server_signature = _hmac(keys.server_key, signed)
        proof = _xor(keys.client_key, _hmac(_sha256(keys.client_key), signed))
        return without_proof + b",p=" + base64.b64encode(proof)

    def finish(self, server_final: bytes) -> None:
        """Check that the server knows the verifier; return only if it does."""
        if self._server_signature is None:
            raise ProtocolError("the server ended the SCRAM login before its challenge")
        if server_final.startswith(b"e="):
            raise ScramError("the server refused the SCRAM login")
        (signature,) = _attributes(server_final, b"v")
        if not hmac.compare_digest(_decoded(signature), self._server_signature):
            raise ScramError("the server does not know the password's verifier: do not trust it")

    def _keys(self, salt: bytes, count: bytes) -> ScramKeys:
        if _COUNT.fullmatch(count) is None or int(count) > ITERATIONS_MAX:
            raise ProtocolError(f"the server asks for more than {ITERATIONS_MAX} SCRAM iterations")
        if not 1 <= len(salt) <= SALT_BYTES_MAX:
            raise ProtocolError(f"the server's SCRAM salt has not 1 to {SALT_BYTES_MAX} bytes")
        if isinstance(self._secret, ScramKeys):
            return self._secret
        return _keys_of(self._secret, salt, int(count))


class ScramServer:
    """The server's side of one login."""

    def __init__(
        self,
        verifier: ScramVerifier,
        *,
        random_bytes: RandomBytes,
        binding_data: bytes | None = None,
    ) -> None:
        """`binding_data` is that of our own certificate; None: no TLS, so no PLUS."""
        self._verifier = verifier
        self._random_bytes = random_bytes
        self._binding_data = binding_data
        self._step = _Step.FIRST
        self._expected_binding = self._nonce = self._signed = b""
        self._keys: ScramKeys | None = None

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """What to offer, best first."""
        plain = (Mechanism.PLAIN,)
        return plain if self._binding_data is None else (Mechanism.PLUS, *plain)

    @property
    def keys(self) -> ScramKeys:
        """The user's keys, once `finish` has returned."""
        assert self._keys is not None, "only a client that proved itself has shown its key"
        return self._keys

    def start(self, mechanism: str, client_first: bytes) -> bytes:
        """Answer the client's first message with the challenge."""
        if self._step is not _Step.FIRST:
            raise ProtocolError("the client sent a second first SCRAM message")
        self._step = _Step.FINAL
        if mechanism not in self.mechanisms:
            raise ProtocolError("the client chose a SASL mechanism that was not offered")
        header = _GS2_HEADER.match(client_first)
        if header is None or len(client_first) > MESSAGE_BYTES_MAX:
            raise ProtocolError("the client's first SCRAM message is malformed")
        self._expected_binding = self._binding_for(mechanism, header[0])
        first_bare = client_first[header.end() :]
        _user, client_nonce = _attributes(first_bare, b"n", b"r")
        if _NONCE.fullmatch(client_nonce) is None:
            raise ProtocolError("the client's SCRAM nonce is malformed")
        self._nonce = client_nonce + base64.b64encode(self._random_bytes(NONCE_BYTES))
        salt = base64.b64encode(self._verifier.salt)
        answer = b"r=%b,s=%b,i=%d" % (self._nonce, salt, self._verifier.iterations)
        self._signed = first_bare + b"," + answer
        return answer

    def finish(self, client_final: bytes) -> bytes:
        """Check the proof and return ours; ScramError: the client does not know the password."""
        if self._step is not _Step.FINAL:
            raise ProtocolError("the client's final SCRAM message comes out of turn")
        self._step = _Step.OVER
        binding, nonce = _attributes(client_final, b"c", b"r")
        without_proof, separator, proof_text = client_final.rpartition(b",p=")
        proof = _decoded(proof_text)
        if not separator or len(proof) != KEY_BYTES:
            raise ProtocolError("the client's final SCRAM message is malformed")
        if not hmac.compare_digest(nonce, self._nonce):
            raise ProtocolError("the client's SCRAM nonce is not the one of this login")
        if not hmac.compare_digest(_decoded(binding), self._expected_binding):
            raise ScramError("the client is bound to another TLS connection than ours")
        signed = self._signed + b"," + without_proof
        client_key = _xor(proof, _hmac(self._verifier.stored_key, signed))
        if not hmac.compare_digest(_sha256(client_key), self._verifier.stored_key):
            raise ScramError("the client does not know the password")
        self._keys = ScramKeys(client_key, self._verifier.server_key)
        return b"v=" + base64.b64encode(_hmac(self._verifier.server_key, signed))

    def _binding_for(self, mechanism: str, header: bytes) -> bytes:
        """Return what the client must repeat in its proof; refuse what a downgrade looks like."""
        if mechanism == Mechanism.PLUS:
            if header != _BINDING_HEADER:
                raise ProtocolError("the client chose channel binding but named no known one")
            assert self._binding_data is not None, "or PLUS would not have been offered"
            return header + self._binding_data
        if header.startswith(b"p"):
            raise ProtocolError("the client names a channel binding but did not choose it")
        if header.startswith(b"y") and self._binding_data is not None:
            raise ScramError("somebody between the client and us hides our channel binding")
        return header


def _choice(
    offered: Sequence[str], binding: ChannelBinding, binding_data: bytes | None
) -> tuple[Mechanism, bytes]:
    """Return a client's mechanism, and the header that says why it is this one."""
    can_bind = binding is not ChannelBinding.DISABLED and binding_data is not None
    if can_bind and Mechanism.PLUS in offered:
        return Mechanism.PLUS, _BINDING_HEADER
    if binding is ChannelBinding.REQUIRED:
        whose = "the server does not offer it" if can_bind else "this connection has none"
        raise ScramError(f"channel binding is required, but {whose}")
    if Mechanism.PLAIN not in offered:
        raise ScramError(f"the server does not offer {Mechanism.PLAIN}: set password_encryption")
    return Mechanism.PLAIN, b"y,," if can_bind else b"n,,"


def _attributes(message: bytes, *names: bytes) -> list[bytes]:
    """Return the values of the attributes that a message must begin with, in this order.

    Optional ones may follow. A mandatory extension (m=) would stand first, so it is refused.
    """
    parts = message.split(b",") if len(message) <= MESSAGE_BYTES_MAX else []
    wanted = [name + b"=" for name in names]
    if len(parts) < len(names) or not all(map(bytes.startswith, parts, wanted)):
        raise ProtocolError("a SCRAM message lacks what it must have or is too long")
    return [part[2:] for part in parts[: len(names)]]


def _decoded(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    if base64.b64encode(data) != text:  # also what has bits that decoding would ignore
        raise ProtocolError("a SCRAM message has something that is not base64")
    return data


def _keys_of(password: bytes, salt: bytes, iterations: int) -> ScramKeys:
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return ScramKeys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
