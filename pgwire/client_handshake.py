"""Logging in to a server: from the start-up packet to the first ReadyForQuery, without I/O.

    data = handshake.start()                   send it
    data = handshake.receive(kind, body)       of each frame of the server; send it unless empty
    until handshake.is_done                    the next frame answers a command

TLS is the caller's business and comes before; what it gave goes into `binding_data`.

A password is only ever used by SCRAM, which does not show it to the server. A server that wants it
in clear text or as MD5 is refused: a stranger in the server's place would learn enough to log in.

The server's no is a `ServerRefusedError`; a server that cannot prove that it knows the password, or
wants something we do not do, is refused by us with `ScramError`; nonsense is a `ProtocolError`.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from .authentication import (
    AuthenticationCleartextPassword,
    AuthenticationMd5Password,
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
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
)
from .channel_binding import ChannelBinding
from .errors import ProtocolError
from .frames import Buffer
from .frontend import SaslInitialResponse, SaslResponse
from .messages import decode_backend, encode
from .scram import RandomBytes, ScramClient, ScramError, ScramKeys
from .startup import MAJOR, StartupMessage, encode_startup

SERVER_PARAMETERS_MAX: Final = 1000  # PostgreSQL 18 reports 15
_QUOTED_CHARACTERS_MAX: Final = 500  # of the server's words in an error of ours


class ServerRefusedError(Exception):
    """The server said no, for the reason in `fields`; `sqlstate` tells whether to try again."""

    def __init__(self, error: ErrorResponse) -> None:
        said = error.message[:_QUOTED_CHARACTERS_MAX]
        super().__init__(f"the server says {error.sqlstate[:5]}: {said}")
        self.fields = error.fields
        self.sqlstate = error.sqlstate


class _Step(Enum):
    """What the server has to send next."""

    REQUEST = auto()  # how to prove who we are, or that we need not
    SCRAM_CHALLENGE = auto()
    SCRAM_PROOF = auto()
    SCRAM_OK = auto()
    SESSION = auto()  # settings, cancel key and ReadyForQuery
    DONE = auto()


class ClientHandshake:
    """One login. `minor` is the version of the protocol that is asked for: 3.minor."""

    def __init__(
        self,
        parameters: Mapping[str, str],
        secret: str | ScramKeys | None = None,
        *,
        random_bytes: RandomBytes,
        binding: ChannelBinding = ChannelBinding.PREFERRED,
        binding_data: bytes | None = None,
        minor: int = 0,
    ) -> None:
        """`parameters` are user, database and so on; `secret` None: log in without a password."""
        self._startup = StartupMessage(MAJOR, minor, dict(parameters))
        self._secret = secret
        self._random_bytes = random_bytes
        self._binding = binding
        self._binding_data = binding_data
        self._scram: ScramClient | None = None
        self._step = _Step.REQUEST
        self._minor = minor
        self._server_parameters: dict[str, str] = {}
        self._backend_key: BackendKeyData | None = None

    @property
    def is_done(self) -> bool:
        """Whether the server waits for a command."""
        return self._step is _Step.DONE

    @property
    def minor(self) -> int:
        """The version that the server speaks, not above the one asked for."""
        return self._minor

    @property
    def server_parameters(self) -> Mapping[str, str]:
        """What the server reported of its settings."""
        return self._server_parameters

    @property
    def backend_key(self) -> BackendKeyData | None:
        """What a cancel request needs; None: the server takes none."""
        return self._backend_key

    def start(self) -> bytes:
        """Return the start-up packet."""
        return encode_startup(self._startup)

    def receive(self, kind: int, body: Buffer) -> bytes:
        """Take a frame of the server and return what to send."""
        assert not self.is_done, "a handshake that is done takes no frames"
        message = decode_backend(kind, body)
        if isinstance(message, ErrorResponse):
            raise ServerRefusedError(message)
        if isinstance(message, NoticeResponse):
            return b""
        if self._step is _Step.SESSION:
            self._set_up(message)
            return b""
        return self._authenticate(message)

    def _authenticate(self, message: BackendMessage) -> bytes:
        match (self._step, message):
            case (_Step.REQUEST, NegotiateProtocolVersion()):
                self._negotiate(message)
            case (_Step.REQUEST, AuthenticationOk()):
                self._take_trust()
            case (_Step.REQUEST, AuthenticationSasl(mechanisms)):
                return self._begin_scram(mechanisms)
            case (_Step.SCRAM_CHALLENGE, AuthenticationSaslContinue(data)):
                assert self._scram is not None, "the step says so"
                self._step = _Step.SCRAM_PROOF
                return encode(SaslResponse(self._scram.final(data)))
            case (_Step.SCRAM_PROOF, AuthenticationSaslFinal(data)):
                assert self._scram is not None, "the step says so"
                self._scram.finish(data)
                self._step = _Step.SCRAM_OK
            case (_Step.SCRAM_OK, AuthenticationOk()):
                self._step = _Step.SESSION
            case (_Step.REQUEST, AuthenticationCleartextPassword() | AuthenticationMd5Password()):
                raise ScramError(
                    "the server wants the password in clear text or as MD5, which would give it "
                    "away: set scram-sha-256 in pg_hba.conf"
                )
            case _:
                raise _unexpected(message)
        return b""

    def _negotiate(self, message: NegotiateProtocolVersion) -> None:
        if message.major != MAJOR or message.minor > self._minor:
            raise ProtocolError(
                f"the server wants protocol {message.major}.{message.minor}, newer than what was "
                "asked for"
            )
        if message.unrecognized:
            raise ProtocolError("the server does not know options that it was not asked for")
        self._minor = message.minor

    def _take_trust(self) -> None:
        if self._binding is ChannelBinding.REQUIRED:
            raise ScramError("channel binding is required, but the server asked for no password")
        self._step = _Step.SESSION

    def _begin_scram(self, mechanisms: tuple[str, ...]) -> bytes:
        if self._secret is None:
            raise ScramError("the server asks for a password: none is configured")
        self._scram = ScramClient(
            self._secret,
            mechanisms,
            random_bytes=self._random_bytes,
            binding=self._binding,
            binding_data=self._binding_data,
        )
        self._step = _Step.SCRAM_CHALLENGE
        return encode(SaslInitialResponse(self._scram.mechanism, self._scram.first()))

    def _set_up(self, message: BackendMessage) -> None:
        match message:
            case ParameterStatus(name, value):
                self._server_parameters[name] = value
                if len(self._server_parameters) > SERVER_PARAMETERS_MAX:
                    raise ProtocolError(f"the server reports over {SERVER_PARAMETERS_MAX} settings")
            case BackendKeyData():
                self._backend_key = message
            case ReadyForQuery():
                self._step = _Step.DONE
            case _:
                raise _unexpected(message)


def _unexpected(message: BackendMessage) -> ProtocolError:
    return ProtocolError(f"the server sent {type(message).__name__} out of turn during login")
