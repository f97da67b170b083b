"""Whose links these are, and how they log in."""

from dataclasses import dataclass, field

from pgwire.scram import ScramKeys


@dataclass(frozen=True, slots=True)
class PoolKey:
    """Whose links these are."""

    user: str
    database: str
    parameters: tuple[tuple[str, str], ...] = ()
    settings_digest: str = ""
    """Of what the catalog says sessions begin with."""


@dataclass(frozen=True, slots=True)
class Login:
    """How a link logs in."""

    key: PoolKey
    keys: ScramKeys | None = field(repr=False)
