"""One prepared statement of a session, and what a message does to those there are."""

from dataclasses import dataclass

from .classification.statements import Query


@dataclass(slots=True)  # frozen, it would take a microsecond more at each Parse
class Prepared:
    """One prepared statement of a session. It does not change."""

    text: bytes
    query: Query
    rest: bytes  # of the Parse message, behind the name: as the server gets it
    wire_name: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a Parse or a Close does to a session's statements, once the server has come to it."""

    name: bytes
    before: Prepared | None
    after: Prepared | None
