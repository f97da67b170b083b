"""What is known of a query: its statements, and what each of them does to the session.

A `Query` is the text of one Query or Parse message: any number of statements. What a session has to
decide for each of them is worked out once, when it is made, and then only read.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Literal, TypeAlias

from gateway.reading import ReadMode


class Transaction(Enum):
    """What a statement does to the transaction block that it is in."""

    NONE = auto()
    BEGIN = auto()
    BEGIN_READ_ONLY = auto()
    """A replica can have it: READ ONLY, and not SERIALIZABLE, which hot standbys refuse."""
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()
    ROLLBACK_TO = auto()
    RELEASE = auto()
    PREPARE_TRANSACTION = auto()
    COMMIT_AND_CHAIN = auto()
    ROLLBACK_AND_CHAIN = auto()


@dataclass(frozen=True, slots=True)
class SetVariable:
    """A variable of the server has another value; the name is in lower case."""

    name: str
    is_local: bool
    """Whether it ends with the transaction."""


@dataclass(frozen=True, slots=True)
class ResetVariable:
    """A variable has the value again that it had at login."""

    name: str


@dataclass(frozen=True, slots=True)
class ResetAll:
    """All variables have their values of the login again."""


@dataclass(frozen=True, slots=True)
class SetOurs:
    """A variable of ours, `seawall.*`, is set; the value is None for DEFAULT and RESET."""

    name: str
    value: str | None
    is_local: bool = False
    """Whether it ends with the transaction."""


@dataclass(frozen=True, slots=True)
class ShowOurs:
    """A variable of ours is asked for."""

    name: str


@dataclass(frozen=True, slots=True)
class PrepareStatement:
    """PREPARE, of SQL."""

    name: str


@dataclass(frozen=True, slots=True)
class DeallocateStatement:
    """DEALLOCATE; the name is None for ALL."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Listen:
    """Notifications of a channel come from now on."""

    channel: str


@dataclass(frozen=True, slots=True)
class Unlisten:
    """They no longer come; the channel is None for all."""

    channel: str | None


DiscardTarget: TypeAlias = Literal["all", "temp", "plans", "sequences"]


@dataclass(frozen=True, slots=True)
class Discard:
    """DISCARD."""

    what: DiscardTarget


@dataclass(frozen=True, slots=True)
class Pin:
    """Something is left in the session that no other server, and no other link, can be given.

    DISCARD ALL takes all of it away. The reason is a noun phrase, for an error message.
    """

    reason: str


Effect: TypeAlias = (
    SetVariable
    | ResetVariable
    | ResetAll
    | SetOurs
    | ShowOurs
    | PrepareStatement
    | DeallocateStatement
    | Listen
    | Unlisten
    | Discard
    | Pin
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement."""

    kind: str
    """A short tag in upper case: SELECT, INSERT, CREATE TABLE."""
    reads_only: bool = False
    """Whether a replica may run it."""
    is_rerunnable: bool = False
    """Whether it may be sent again if it surely did not commit."""
    transaction: Transaction = Transaction.NONE
    savepoint: str = ""
    """Of SAVEPOINT, ROLLBACK TO, RELEASE."""
    effects: tuple[Effect, ...] = ()
    depends_on_constants: bool = False
    """Whether the same statement with other constants may be another thing."""


@dataclass(frozen=True, slots=True)
class Query:
    """What one message asks for."""

    statements: tuple[Statement, ...]
    reads_only: bool
    """Whether a replica may run all of it. One BEGIN_READ_ONLY alone is such a thing, too."""
    is_plain: bool
    """Whether a session has nothing to remember of it: no effects, no transaction, no hint."""
    is_rerunnable: bool
    """Whether all of it may be sent again if it surely did not commit."""
    mode: ReadMode | None = None
    """What its hint asks for. It chooses among the servers that may run it, and allows none."""
    is_unknown: bool = False
    """Whether nothing is known: invalid, or too long or too deep to be read. To the primary."""


def query_of(statements: tuple[Statement, ...], mode: ReadMode | None) -> Query:
    """Put statements together."""
    no_transaction = all(one.transaction is Transaction.NONE for one in statements)
    no_effects = not any(one.effects for one in statements)
    return Query(
        statements=statements,
        reads_only=(
            all(one.reads_only for one in statements) and (no_transaction or len(statements) == 1)
        ),
        is_plain=no_transaction and no_effects and mode is None,
        is_rerunnable=all(one.is_rerunnable for one in statements),
        mode=mode,
    )


def unknown_query(pin: Pin | None = None) -> Query:
    """Make what is said of a text that was not understood."""
    statement = Statement("UNKNOWN", effects=() if pin is None else (pin,))
    return Query(
        statements=(statement,),
        reads_only=False,
        is_plain=pin is None,
        is_rerunnable=False,
        is_unknown=True,
    )


INVALID: Final = unknown_query()
"""A syntax error: no server does anything but say so."""
