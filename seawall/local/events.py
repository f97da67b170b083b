"""What a supervisor tells whoever waits for it: as calls in one process, as lines between two."""

from typing import TypeAlias

import msgspec


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A step of coming up has begun: log, storage, database, primary, replicas."""

    step: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The cluster is up."""


class Stopping(msgspec.Struct, frozen=True, tag="stopping"):
    """Everything is being stopped."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The cluster did not come up."""

    sentence: str


class State(msgspec.Struct, frozen=True, tag="state"):
    """How the cluster is, in a line; for whoever watches."""

    line: str


Event: TypeAlias = Begun | Ready | Stopping | Failed | State


_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode_event(event: Event) -> bytes:
    """Return an event as a line."""
    return msgspec.json.encode(event) + b"\n"


def decode_event(line: bytes) -> Event:
    """Read a line."""
    return _DECODER.decode(line)
