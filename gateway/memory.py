"""What a session has to find again on another link: variables, SQL statements, LISTEN. Pure.

Statements of the session report here when they have ended. What they leave counts when their
transaction commits; a rollback forgets it, one to a savepoint what came after that.

`script` is what a link that knows nothing is told before the session's next statement, one query
each. What cannot be told to another server is a *pin*: the session stays where it is, and ends when
that server does.

Variables that were reset stay in the script as RESET: a text with several statements is replayed in
parts, so the order in which things were said is all that counts.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

from .classification.statements import (
    DeallocateStatement,
    Discard,
    Effect,
    Listen,
    Pin,
    PrepareStatement,
    ResetAll,
    ResetVariable,
    SetOurs,
    SetVariable,
    ShowOurs,
    Statement,
    Transaction,
    Unlisten,
)

SCRIPT_BYTES_MAX: Final = 1024 * 1024
TOO_MUCH: Final = "more session settings than are remembered"


@dataclass(frozen=True, slots=True)
class _Savepoint:
    name: str


_Pending: TypeAlias = tuple[Effect, bytes] | _Savepoint


class Memory:
    """What one session has left in the server."""

    __slots__ = ("_listens", "_pending", "_pins", "_prepared", "_script", "_settings",
                 "_settings_max", "ours")  # fmt: skip

    def __init__(self, settings_max: int) -> None:
        self._settings_max = settings_max
        self._settings: dict[str, bytes] = {}
        self._prepared: dict[str, bytes] = {}
        self._listens: dict[str, bytes] = {}
        self._pins: set[str] = set()
        self._pending: list[_Pending] = []
        self._script: tuple[bytes, ...] | None = ()
        self.ours: dict[str, str | None] = {}
        """Variables of our own, seawall.*, that were set."""

    @property
    def pin(self) -> str | None:
        """Why no other server can serve this session; None: any can."""
        return min(self._pins) if self._pins else None

    @property
    def keeps_link(self) -> bool:
        """Whether the link has more of this session than its script could tell cheaply."""
        return bool(self._pins or self._listens or self._prepared or self._pending)

    @property
    def listens(self) -> bool:
        """Whether notifications are due even while the client says nothing."""
        return bool(self._listens)

    @property
    def script(self) -> tuple[bytes, ...]:
        """The queries, without frames, that make another link this session's."""
        if self._script is None:
            texts = (*self._settings.values(), *self._prepared.values(), *self._listens.values())
            self._script = tuple(dict.fromkeys(texts))
        return self._script

    @property
    def settings_script(self) -> tuple[bytes, ...]:
        """What a replica is told: it takes no LISTEN, and runs no EXECUTE."""
        return tuple(dict.fromkeys(self._settings.values())) if self._settings else ()

    def ran(self, statement: Statement, text: bytes, tag: bytes) -> bool:
        """Take the end of a statement; whether something of ours may have changed by it."""
        match statement.transaction:
            case Transaction.NONE:
                self._pending += [(effect, text) for effect in statement.effects]
            case Transaction.SAVEPOINT:
                self._pending.append(_Savepoint(statement.savepoint))
            case Transaction.ROLLBACK_TO:
                self._roll_back_to(statement.savepoint)
            case Transaction.COMMIT | Transaction.COMMIT_AND_CHAIN if tag != b"ROLLBACK":
                self.commit()
            case Transaction.BEGIN | Transaction.BEGIN_READ_ONLY | Transaction.RELEASE:
                pass
            case _:
                self.roll_back()
        return bool(statement.effects)

    def commit(self) -> None:
        """Keep what the transaction has left."""
        pending, self._pending = self._pending, []
        for item in pending:
            if not isinstance(item, _Savepoint):
                self._keep(*item)

    def roll_back(self) -> None:
        """Forget what the transaction has left."""
        self._pending = [
            item
            for item in self._pending
            if not isinstance(item, _Savepoint) and _outlives(item[0])
        ]
        self.commit()

    def _roll_back_to(self, name: str) -> None:
        for at in range(len(self._pending) - 1, -1, -1):
            item = self._pending[at]
            if isinstance(item, _Savepoint) and item.name == name:
                kept = [one for one in self._pending[at:]
                        if not isinstance(one, _Savepoint) and _outlives(one[0])]  # fmt: skip
                self._pending[at:] = [item, *kept]
                return

    def _keep(self, effect: Effect, text: bytes) -> None:
        self._script = None
        match effect:
            case SetVariable() | ResetVariable() | ResetAll() | SetOurs():
                self._keep_variable(effect, text)
            case PrepareStatement(name):
                self._prepared[name] = text
            case DeallocateStatement(name):
                _forget(self._prepared, name)
            case Listen(channel):
                self._listens[channel] = text
            case Unlisten(channel):
                _forget(self._listens, channel)
            case Discard("all"):
                self._discard_all()
            case Pin(reason):
                self._pins.add(reason)
            case ShowOurs() | Discard():
                pass
        self._stay_within_limits()

    def _keep_variable(
        self, effect: SetVariable | ResetVariable | ResetAll | SetOurs, text: bytes
    ) -> None:
        if isinstance(effect, ResetAll):
            self._settings = {"all": text}
            self.ours.clear()
            return
        if isinstance(effect, SetVariable | SetOurs) and effect.is_local:
            return
        if isinstance(effect, SetOurs):
            self.ours[effect.name] = effect.value
        self._settings.pop(effect.name, None)  # the last word comes last
        self._settings[effect.name] = text

    def _discard_all(self) -> None:
        self._settings.clear()
        self._prepared.clear()
        self._listens.clear()
        self._pins.clear()
        self.ours.clear()

    def _stay_within_limits(self) -> None:
        kept = (*self._settings.values(), *self._prepared.values(), *self._listens.values())
        if len(kept) > self._settings_max or sum(map(len, kept)) > SCRIPT_BYTES_MAX:
            self._pins.add(TOO_MUCH)


def _forget(kept: dict[str, bytes], name: str | None) -> None:
    """Forget one, or all."""
    if name is None:
        kept.clear()
    else:
        kept.pop(name, None)


def _outlives(effect: Effect) -> bool:
    """Whether an effect stays although its transaction was rolled back, as with PostgreSQL."""
    if isinstance(effect, Pin):
        return True  # an advisory lock does; for the others this errs on the safe side
    return isinstance(effect, PrepareStatement | DeallocateStatement)
