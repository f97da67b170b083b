"""The same lists before another judge: elle-cli, where a Java machine and its jar are at hand.

    checks, note = elle_checks(run, files, jar=Path("elle-cli.jar"))

It is never fetched. What it says counts as our own checkers' words do; that it could not be run is
a note, and no violation. https://github.com/ligurio/elle-cli
"""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from .dependencies import Finding
from .history import Level, Lists, Result
from .suite import Check, Run

JAR_VARIABLE: Final = "SEAWALL_ELLE_JAR"
DEADLINE_S: Final = 600.0
QUOTED_CHARACTERS_MAX: Final = 500
# What each level of PostgreSQL is in Elle's words: a repeatable read is a snapshot, and one primary
# is strictly serializable (`list_append.py` says why).
MODELS: Final[Mapping[Level, str]] = {
    Level.READ_COMMITTED: "read-committed",
    Level.REPEATABLE_READ: "snapshot-isolation",
    Level.SERIALIZABLE: "strong-serializable",
}
NOT_STRICT: Final = "serializable"


class ElleError(Exception):
    """It could not be asked, or has not judged: the sentence says why."""


def elle_checks(
    run: Run, files: Mapping[Level, Path], *, jar: Path | None, strict: bool
) -> tuple[list[Check], str]:
    """What elle-cli finds in each level's lists; and how it went, for people."""
    if jar is None:
        return [], f"elle: not run (name elle-cli's jar by --elle-jar or {JAR_VARIABLE})"
    java = shutil.which("java")
    if java is None:
        return [], "elle: not run (there is no java on the PATH)"
    checks: list[Check] = []
    for level, file in files.items():
        try:
            findings = _judged(java, jar, file, elle_model(level, strict=strict))
        except ElleError as error:
            return checks, f"elle: not run to its end ({error})"
        lists = [o for o in run.operations if isinstance(o, Lists) and o.level is level]
        count = sum(one.result is Result.OK for one in lists)
        checks.append(Check(f"elle, {level}", count, findings))
    return checks, f"elle: {jar.name} has judged {len(checks)} histories"


def elle_model(level: Level, *, strict: bool) -> str:
    """The name of what a level promises. Pure."""
    if level is Level.SERIALIZABLE and not strict:
        return NOT_STRICT
    return MODELS[level]


def verdict_of(said: str, file: Path) -> bool:
    """Whether it calls a history valid: a line `FILE <tab> true`. ElleError if it does not say."""
    for line in said.splitlines():
        name, _, word = (part.strip() for part in line.rpartition("\t"))
        if name == str(file) and word in {"true", "false"}:
            return word == "true"
    raise ElleError(f"it said: {said[-QUOTED_CHARACTERS_MAX:].strip() or 'nothing'}")


def _judged(java: str, jar: Path, file: Path, model: str) -> tuple[Finding, ...]:
    command = [
        java, "-jar", str(jar), "--model", "list-append", "--consistency-models", model, str(file),
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, encoding="utf-8", timeout=DEADLINE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ElleError(str(error)) from error
    if verdict_of(done.stdout or done.stderr, file):
        return ()
    return (Finding("elle", f"{file.name} is not {model}: look at it with --verbose"),)
