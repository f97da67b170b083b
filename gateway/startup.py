"""What a client asks for at its start: who, where, with which parameters. Pure.

The parameters are part of the name of a pool: two clients share links only if they began alike.
`seawall.read` is ours wherever it comes from, a parameter of its own or one in `options`, and goes
to the server, too, so that SHOW tells it there as well.
"""

import re
from dataclasses import dataclass
from typing import Final

from pgwire.errors import ProtocolError
from pgwire.startup import PROTOCOL_OPTION_PREFIX, StartupMessage

from .reading import READ_VARIABLE

NAME_BYTES_MAX: Final = 63
_OPTION: Final = re.compile(r"(?:^|\s)(?:-c\s*|--)seawall\.read=((?:\\.|\S)*)")
_NOT_PASSED: Final = frozenset({"user", "database", "replication"})


@dataclass(frozen=True, slots=True)
class Startup:
    """Who wants to talk, about what."""

    user: str
    database: str
    application: str
    pool_parameters: tuple[tuple[str, str], ...]
    is_replication: bool
    read: str | None


def startup_of(message: StartupMessage) -> Startup:
    """Read a start-up message; ProtocolError if nobody is named."""
    parameters = message.parameters
    user = parameters.get("user", "")
    if not user:
        raise ProtocolError("no PostgreSQL user name specified in startup packet")
    kept = {
        name: value
        for name, value in parameters.items()
        if name not in _NOT_PASSED and not name.startswith(PROTOCOL_OPTION_PREFIX)
    }
    return Startup(
        user=user[:NAME_BYTES_MAX],
        database=(parameters.get("database") or user)[:NAME_BYTES_MAX],
        application=kept.get("application_name", "")[:NAME_BYTES_MAX],
        pool_parameters=tuple(sorted(kept.items())),
        is_replication=parameters.get("replication", "false").lower()
        not in {"", "false", "off", "no", "0"},
        read=_read(kept),
    )


def _read(parameters: dict[str, str]) -> str | None:
    if READ_VARIABLE in parameters:
        return parameters[READ_VARIABLE]
    found = _OPTION.findall(parameters.get("options", ""))
    return re.sub(r"\\(.)", r"\1", found[-1]) if found else None
