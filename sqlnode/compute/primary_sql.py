"""Statements that a primary carries out when it has become one, and again when they have changed.

So whoever manages a cluster gives roles their passwords without having one himself: the file has
verifiers, and may be replaced at any time, as a mounted Secret is. The statements are harmless to
repeat; whatever is wrong with them is logged, and they are tried again.
"""

from pathlib import Path
from typing import Final

import structlog

from .positions import SQL_FAILURES
from .server import Server

BYTES_MAX: Final = 256 * 1024

log = structlog.get_logger()


class PrimarySql:
    """The file, and what of it this primary has carried out."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._done = ""
        self._complaint = ""

    async def carry_out(self, server: Server) -> None:
        """Carry out what has not been yet."""
        if self._path is None:
            return
        try:
            text = self._read(self._path)
            if text != self._done:
                await server.execute(text)
                self._done, self._complaint = text, ""
                log.info("the statements for a primary are carried out")
        except (*SQL_FAILURES, ValueError) as error:
            # Not the text of the error alone: asyncpg's may quote the statement, and so a verifier.
            complaint = type(error).__name__
            if complaint != self._complaint:
                log.warning("the statements for a primary failed", reason=complaint)
            self._complaint = complaint

    def _read(self, path: Path) -> str:
        with path.open(encoding="utf-8") as file:
            text = file.read(BYTES_MAX + 1)
        if len(text) > BYTES_MAX:
            raise ValueError(f"{path} exceeds {BYTES_MAX} characters")
        return text
