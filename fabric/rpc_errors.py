"""What can become of a call, by what the caller must do.

    RpcError
    ├── RetryError               call again, after a pause or at another node
    │   ├── BusyError            not executed: the peer is at a limit or shutting down
    │   ├── UnreachableError     not executed: there is no connection to the peer
    │   └── ConnectionLostError  reconnect (the client does): it may or may not have been executed
    ├── GiveUpError              repeating the same call does not help
    │   ├── DeadlineError        time is up: it may or may not have been executed
    │   └── FailedError          the handler failed; the log of the peer says why
    └── CallError                fix the call: this side is wrong
        ├── UnknownMethodError   the peer does not offer the method
        ├── BadRequestError      the request is not what the method takes
        └── DeniedError          the certificate does not allow the call

A handler may raise any of them on purpose, and the caller gets the same class with the same
message. What else a handler raises becomes a `FailedError` that names no detail. A peer that breaks
the protocol is a different matter: see `frames.FrameError`, which never reaches a caller.
"""

from typing import ClassVar, Final

MESSAGE_CHARACTERS_MAX: Final = 500


class RpcError(Exception):
    """A call that brought no answer. `code` is its form on the wire, shared with the parent."""

    code: ClassVar[int] = 20


class RetryError(RpcError):
    """Call again, after a pause or at another node."""

    code = 10


class BusyError(RetryError):
    """The peer did not take the call: it is at a limit or shutting down."""

    code = 11


class UnreachableError(RetryError):
    """The call was not sent: there is no connection to the peer."""


class ConnectionLostError(RetryError):
    """The connection broke while the call was under way; it may have been executed."""


class GiveUpError(RpcError):
    """Repeating the same call does not help."""

    code = 20


class DeadlineError(GiveUpError):
    """The time given to the call is up; it may have been executed."""

    code = 21


class FailedError(GiveUpError):
    """The handler failed; the log of the peer says why."""

    code = 22


class CallError(RpcError):
    """The call itself is wrong: fix this side."""

    code = 30


class UnknownMethodError(CallError):
    """The peer does not offer the method."""

    code = 31


class BadRequestError(CallError):
    """The request is not what the method takes."""

    code = 32


class DeniedError(CallError):
    """The peer's certificate does not allow the call."""

    code = 33


def error_from_wire(code: int, message: str) -> RpcError:
    """Return the error that a peer reported; an unknown code, of a newer peer, means give up."""
    return _BY_CODE.get(code, GiveUpError)(message[:MESSAGE_CHARACTERS_MAX])


_BY_CODE: Final[dict[int, type[RpcError]]] = {
    error.code: error
    for error in (
        RetryError,
        BusyError,
        GiveUpError,
        DeadlineError,
        FailedError,
        CallError,
        UnknownMethodError,
        BadRequestError,
        DeniedError,
    )
}
