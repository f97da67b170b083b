"""Short commands of the system: run to their end, with their complaint in the error."""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import RigError

TIMEOUT_S = 60.0  # each takes milliseconds; a machine under load takes longer
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run(
    arguments: Sequence[str | Path],
    *,
    given: bytes | Path = b"",
    timeout_s: float = TIMEOUT_S,
    check: bool = True,
    more_environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; it is given bytes, or a file, as its standard input."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile() if isinstance(given, bytes) else given.open("rb") as file:
        if isinstance(given, bytes):
            file.write(given)
            file.seek(0)
        environment = {**direct_environment(), **(more_environment or {})}
        done = _run(words, file.fileno(), timeout_s, environment)
    if check and done.returncode != 0:
        complaint = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise RigError(f"`{' '.join(words)}` failed ({done.returncode}): {complaint}")
    return done


def _run(
    words: list[str], standard_input: int, timeout_s: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            words,
            stdin=standard_input,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise RigError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise RigError(f"`{' '.join(words)}` did not end in {timeout_s:g} s") from error


def text(arguments: Sequence[str | Path]) -> str:
    """What a command prints."""
    return run(arguments).stdout.decode()


def direct_environment() -> dict[str, str]:
    """Our environment without proxies: nothing of the rig is behind one."""
    kept = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    kept["PATH"] = f"{kept.get('PATH', '')}:{PATH}".lstrip(":")
    return kept
