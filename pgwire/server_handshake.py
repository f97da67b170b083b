"""A client's login, as the server carries it out: from the start-up packet on, without I/O.

    handshake = ServerHandshake(startup, decision, ...)
    data = handshake.start()                   send it
    data = handshake.receive(kind, body)       of each frame of the client; send it unless empty
    until handshake.is_done                    the client sends commands next
    or handshake.is_proven, if it waits        and data = handshake.let_in(...) whenever it may come
    or handshake.refusal                       close after sending; the log wants the reason

The caller reads the start-up packet and decides what this user has to show: nothing (`Trust`: a
certificate or the socket has proven it already), a password (`Scram`), or that it cannot come in
(`Refuse`). A user that does not exist should get `Scram(ScramVerifier.mock(...))`, which says no
only at the end, as with a wrong password.

Nothing that a client sends raises an error: whatever is wrong becomes a refusal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias, assert_never

from .authentication import (
    AuthenticationOk,
    AuthenticationSasl,
    AuthenticationSaslContinue,
    AuthenticationSaslFinal,
)
from .backend import (
    BackendKeyData,
    BackendMessage,
    ErrorResponse,
    NegotiateProtocolVersion,
    ParameterStatus,
    ReadyForQuery,
)
from .errors import ProtocolError
from .frames import Buffer
from .frontend import AuthenticationResponse, FrontendMessage, SaslInitialResponse, SaslResponse
from .messages import decode_frontend, encode, read_response
from .scram import RandomBytes, ScramError, ScramKeys, ScramServer, ScramVerifier
from .startup import MAJOR, MINOR_MAX, PROTOCOL_OPTION_PREFIX, StartupMessage

WRONG_PASSWORD: Final = "28P01"  # invalid_password  # noqa: S105  # the name of an error, no password


@dataclass(frozen=True, slots=True)
class Trust:
    """Let the client in: it has proven by other means who it is, or need not."""


@dataclass(frozen=True, slots=True)
class Scram:
    """Ask for the password. With TLS `binding_data` is that of our own certificate."""

    verifier: ScramVerifier
    binding_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the client why it cannot come in."""

    sqlstate: str
    message: str
    hint: str = ""


Decision: TypeAlias = Trust | Scram | Refuse


class _Step(Enum):
    """What the client has to send next."""

    NOTHING_YET = auto()
    SCRAM_FIRST = auto()
    SCRAM_FINAL = auto()
    NOTHING_BUT_WAIT = auto()
    COMMAND = auto()
    NOTHING_MORE = auto()


class ServerHandshake:
    """One login of a client."""

    def __init__(
        self,
        startup: StartupMessage,
        decision: Decision,
        *,
        random_bytes: RandomBytes,
        parameters: Iterable[tuple[str, str]] = (),
        backend_key: BackendKeyData | None = None,
        waits: bool = False,
    ) -> None:
        """`parameters` are told to the client; `backend_key` has 4 bytes below protocol 3.2.

        `waits`: a client that has proven itself is let in by `let_in`, which may be later.
        """
        self.startup = startup
        self._decision = decision
        self._random_bytes = random_bytes
        self._parameters = tuple(parameters)
        self._backend_key = backend_key
        self._waits = waits
        self._scram: ScramServer | None = None
        self._step = _Step.NOTHING_YET
        self._refusal = ""

    @property
    def is_done(self) -> bool:
        """Whether the client is in."""
        return self._step is _Step.COMMAND

    @property
    def is_proven(self) -> bool:
        """Whether the client has shown who it is."""
        return self._step in {_Step.NOTHING_BUT_WAIT, _Step.COMMAND}

    @property
    def refusal(self) -> str:
        """Why the client is not let in, more plainly than the client is told; "" if it may be."""
        return self._refusal

    @property
    def keys(self) -> ScramKeys | None:
        """With which to log in elsewhere as this user; None if it is in without a password."""
        assert self.is_proven, "only a client that has proven itself has shown its keys"
        return None if self._scram is None else self._scram.keys

    def start(self) -> bytes:
        """Return the answer to the start-up packet."""
        match self._decision:
            case Trust():
                return self._negotiation() + self._let_in()
            case Scram(verifier, binding_data):
                self._scram = ScramServer(
                    verifier, random_bytes=self._random_bytes, binding_data=binding_data
                )
                self._step = _Step.SCRAM_FIRST
                offer = AuthenticationSasl(self._scram.mechanisms)
                return self._negotiation() + encode(offer)
            case Refuse(sqlstate, message, hint):
                return self._refuse(message, sqlstate, message, hint)
            case _:
                assert_never(self._decision)

    def receive(self, kind: int, body: Buffer) -> bytes:
        """Take a frame of the client and return what to send."""
        if self._step is _Step.NOTHING_BUT_WAIT:
            reason = "a client sent something before it was let in"
            return self._refuse(reason, ProtocolError.sqlstate, reason)
        try:
            return self._continue_scram(decode_frontend(kind, body))
        except ProtocolError as error:
            return self._refuse(str(error), error.sqlstate, str(error))
        except ScramError as error:
            user = self.startup.parameters.get("user", "")
            told = f'password authentication failed for user "{user}"'
            return self._refuse(str(error), WRONG_PASSWORD, told)

    def _continue_scram(self, message: FrontendMessage) -> bytes:
        assert self._scram is not None, "without a password nothing is received"
        if not isinstance(message, AuthenticationResponse):
            raise ProtocolError(f"a client sent {type(message).__name__} before it was let in")
        if self._step is _Step.SCRAM_FIRST:
            first = read_response(message, SaslInitialResponse)
            if first.data is None:
                raise ProtocolError("a client chose a SASL mechanism but did not begin with it")
            self._step = _Step.SCRAM_FINAL
            challenge = self._scram.start(first.mechanism, first.data)
            return encode(AuthenticationSaslContinue(challenge))
        assert self._step is _Step.SCRAM_FINAL, "a handshake that is over takes no frames"
        proof = self._scram.finish(read_response(message, SaslResponse).data)
        return encode(AuthenticationSaslFinal(proof)) + self._let_in()

    def _negotiation(self) -> bytes:
        """Return the answer to a client that asks for more than we know."""
        unknown = tuple(
            name for name in self.startup.parameters if name.startswith(PROTOCOL_OPTION_PREFIX)
        )
        if self.startup.minor <= MINOR_MAX and not unknown:
            return b""
        minor = min(self.startup.minor, MINOR_MAX)
        return encode(NegotiateProtocolVersion(MAJOR, minor, unknown))

    def let_in(
        self, parameters: Iterable[tuple[str, str]], backend_key: BackendKeyData | None
    ) -> bytes:
        """Let a client in that has waited for it."""
        assert self._step is _Step.NOTHING_BUT_WAIT, "only who waits can be let in"
        self._waits = False
        self._parameters, self._backend_key = tuple(parameters), backend_key
        return self._let_in()

    def _let_in(self) -> bytes:
        if self._waits:
            self._step = _Step.NOTHING_BUT_WAIT
            return b""
        self._step = _Step.COMMAND
        messages: list[BackendMessage] = [AuthenticationOk()]
        messages += [ParameterStatus(*pair) for pair in self._parameters]
        if self._backend_key is not None:
            messages.append(self._backend_key)
        return b"".join(map(encode, (*messages, ReadyForQuery())))

    def _refuse(self, reason: str, sqlstate: str, message: str, hint: str = "") -> bytes:
        self._step = _Step.NOTHING_MORE
        self._refusal = reason
        return encode(ErrorResponse.of("FATAL", sqlstate, message, hint))
