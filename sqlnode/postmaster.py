"""What can be told about a running postmaster from the outside, as pure functions.

`postmaster.pid` is PostgreSQL's lock file, one fact a line; pg_ctl watches the same lines. Its
status becomes `ready` when connections are accepted, in hot standby as after a promotion; which of
the two it is, pg_control says (`mode`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .control_file import ClusterState
from .privileges import Identity, home_environment

LOCK_FILE = "postmaster.pid"
LOCK_FILE_BYTES_MAX = 8192

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# All that postgres may inherit from us. PG* variables would change what it does, and secrets in our
# environment would be there for everybody who can run COPY FROM PROGRAM.
INHERITED_VARIABLES = frozenset({"LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ"})

LOG_LINES_QUOTED = 5
LOG_LINE_CHARACTERS_MAX = 300


class Mode(Enum):
    """What the server does with statements."""

    STOPPED = "stopped"
    STARTING = "starting"
    READ_ONLY = "read-only"
    READ_WRITE = "read-write"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostmasterFile:
    """The facts of postmaster.pid; those that PostgreSQL has not written yet are None."""

    pid: int
    data_dir: str
    started_at_s: int  # of the wall clock; only ever compared for equality
    port: int | None
    socket_dir: str | None
    shared_memory_id: int | None  # the System V segment that interlocks the data directory
    status: str | None  # starting, stopping, ready, standby

    def is_same_start(self, other: "PostmasterFile | None") -> bool:
        """Whether both were written by one and the same postmaster."""
        mine = (self.pid, self.started_at_s)
        return other is not None and mine == (other.pid, other.started_at_s)


def parse_postmaster_file(content: bytes) -> PostmasterFile | None:
    """Parse postmaster.pid; None while PostgreSQL is still writing its first lines."""
    lines = content[:LOCK_FILE_BYTES_MAX].decode("utf-8", "replace").split("\n")
    complete = [line.strip() for line in lines[:-1]]
    try:
        pid, started_at_s = int(complete[0]), int(complete[2])
    except (IndexError, ValueError):
        return None
    rest = [*complete[3:8], "", "", "", "", ""]
    memory = rest[3].split()
    return PostmasterFile(
        # A single-user or bootstrap backend writes its pid negated.
        pid=abs(pid),
        data_dir=complete[1],
        started_at_s=started_at_s,
        port=int(rest[0]) if rest[0].isdigit() else None,
        socket_dir=rest[1] or None,
        shared_memory_id=int(memory[1]) if len(memory) == 2 and memory[1].isdigit() else None,  # noqa: PLR2004  # key and id
        status=rest[4] or None,
    )


def accepts_connections(
    found: PostmasterFile | None, *, pid: int, stale: PostmasterFile | None
) -> bool:
    """Whether our postmaster is up.

    A lock file left by another start does not count, even if our postmaster got the same pid.
    """
    if found is None or found.pid != pid or found.is_same_start(stale):
        return False
    return found.status in {"ready", "standby"}


# What a ready server does, by the state in its control file.
_MODES = {
    ClusterState.IN_PRODUCTION: Mode.READ_WRITE,
    ClusterState.IN_ARCHIVE_RECOVERY: Mode.READ_ONLY,
    ClusterState.SHUTTING_DOWN: Mode.STOPPING,
}


def mode(found: PostmasterFile | None, state: ClusterState | None, *, running: bool) -> Mode:
    """Combine lock file and control file: once the postmaster is ready, pg_control tells."""
    if not running:
        return Mode.STOPPED
    if found is not None and found.status == "stopping":
        return Mode.STOPPING
    if found is None or found.status != "ready" or state is None:
        return Mode.STARTING
    return _MODES.get(state, Mode.STARTING)


def postgres_environment(
    inherited: Mapping[str, str], identity: Identity, added: Mapping[str, str]
) -> dict[str, str]:
    """Return the whole environment of a postgres: nothing comes in but what is listed here."""
    kept = {name: inherited[name] for name in sorted(INHERITED_VARIABLES & inherited.keys())}
    return {"PATH": DEFAULT_PATH, **kept, **home_environment(identity), **added}


def conninfo_value(value: object) -> str:
    """Quote a value of libpq's connection string, where it needs that."""
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def exit_description(status: int) -> str:
    """Say how a process ended, from the status that subprocess gives."""
    return f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"


def last_lines(log: str) -> str:
    """Return the end of a log as one line for an error."""
    lines = [line.strip()[:LOG_LINE_CHARACTERS_MAX] for line in log.splitlines() if line.strip()]
    return " | ".join(lines[-LOG_LINES_QUOTED:]) or "nothing"


def postgres_argv(postgres: Path, data_dir: Path, fixed: list[str]) -> list[str]:
    """Return the command line: executed directly, with neither a shell nor pg_ctl in between."""
    return [str(postgres), "-D", str(data_dir), *fixed]
