"""Statements about `seawall.*`, in words that a server understands. Pure.

A server keeps `seawall.read` and `seawall.position` like any variable with a dot in its name, so
SET and RESET go there, and roll back with their transaction. Three things it cannot do: show what
was never set, refuse a value that makes no sense, and take `primary`, a word of SQL, unquoted.
"""

from typing import TYPE_CHECKING, Final

from fabric.lsn import Lsn

from .classification.statements import Query, SetOurs, ShowOurs
from .reading import POSITION_VARIABLE, READ_VARIABLE, ReadMode, parse_read_mode

if TYPE_CHECKING:
    from collections.abc import Callable

_INVALID: Final = "22023"  # invalid_parameter_value


def translated(text: bytes, query: Query, mode: ReadMode) -> bytes:
    """Return what the server is asked instead of `text`; mostly that itself."""
    if len(query.statements) != 1:
        return text
    for effect in query.statements[0].effects:
        if isinstance(effect, ShowOurs):
            return _shown(effect.name, mode) or text
        if isinstance(effect, SetOurs):
            return _set(effect)
    return text


def _set(effect: SetOurs) -> bytes:
    if effect.value is None:
        return f"reset {_quoted_name(effect.name)}".encode()
    complaint = _complaint(effect.name, effect.value)
    if complaint is not None:
        return complaint
    scope = "local" if effect.is_local else "session"
    value = effect.value.replace("'", "''")
    return f"set {scope} {_quoted_name(effect.name)} = '{value}'".encode()


def _quoted_name(name: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _shown(name: str, mode: ReadMode) -> bytes | None:
    if name == READ_VARIABLE:
        return f"select '{mode}' as \"{READ_VARIABLE}\"".encode()
    if name == POSITION_VARIABLE:
        # On the primary, after all that this session has done or seen, so it is far enough.
        return f'select pg_current_wal_insert_lsn()::text as "{POSITION_VARIABLE}"'.encode()
    return None


def _complaint(name: str, value: str) -> bytes | None:
    checks: dict[str, Callable[[str], object]] = {
        READ_VARIABLE: parse_read_mode,
        POSITION_VARIABLE: position_of,
    }
    check = checks.get(name)
    if check is None:
        return _raising(f"{name} is no variable of the gateway: there are {', '.join(checks)}")
    try:
        check(value)
    except ValueError as error:
        return _raising(str(error))
    return None


def position_of(text: str) -> Lsn:
    """Read a position that a session was given by another; ValueError if it is none."""
    try:
        return Lsn.parse(text.strip()) if text.strip() else Lsn(0)
    except ValueError:
        raise ValueError(f"{POSITION_VARIABLE} must be a position as in 0/1A2B3C4D") from None


def _raising(message: str) -> bytes:
    """Return a statement that fails with this message, and so does a transaction around it."""
    quoted = message.replace("'", "''").replace("$", "").replace("\\", "")
    return (
        f"do $seawall$ begin raise exception using errcode = '{_INVALID}', "
        f"message = '{quoted}'; end $seawall$"
    ).encode()
