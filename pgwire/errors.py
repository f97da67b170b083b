"""What can be wrong with bytes of a peer.

    ProtocolError                the peer broke the protocol: tell it if that is possible, close
    ├── UnsupportedVersionError  it asks for a protocol that is not 3.x: tell it, close
    └── CommandError             it sent a command that is not taken: tell it, the session goes on

A value of ours that cannot be encoded (text with a zero byte, a number out of range) is our own
mistake and raises ValueError.
"""

from typing import ClassVar


class ProtocolError(Exception):
    """The peer sent what the protocol, or one of our limits, does not allow."""

    sqlstate: ClassVar[str] = "08P01"  # protocol_violation


class UnsupportedVersionError(ProtocolError):
    """The start-up packet asks for another major version of the protocol."""

    sqlstate: ClassVar[str] = "0A000"  # feature_not_supported


class CommandError(ProtocolError):
    """The text of a command is not one that we carry out; the connection is as it was."""

    sqlstate: ClassVar[str] = "42601"  # syntax_error
