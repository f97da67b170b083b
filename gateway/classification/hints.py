"""Hints: a comment before a statement that says who may answer it.

    /* seawall.read = replica(500ms) */ SELECT ...

Only comments before the first word count, so that no string and no comment of a tool at the end can
be taken for one. The first valid hint counts; a malformed one is a comment like any other.
"""

import re
from typing import Final

from gateway.reading import READ_VARIABLE, ReadMode, parse_read_mode

_LEADING_BYTES_MAX: Final = 4096
"""What is looked at: tools put their own comments, of a few hundred bytes, before statements."""
_WORD: Final = READ_VARIABLE.encode()
_HINT: Final = re.compile(rb"/\*\s*seawall\.read\s*=\s*([a-z0-9() ]{1,60}?)\s*\*/", re.IGNORECASE)
_SPACE_OR_LINE: Final = re.compile(rb"(?:[ \t\r\n\f\v]+|--[^\r\n]*)*")
_COMMENT_MARK: Final = re.compile(rb"/\*|\*/")


def hint_of(text: bytes) -> ReadMode | None:
    """Return what the hint of a text asks for, or None if it has none."""
    leading = text[:_LEADING_BYTES_MAX]
    if _WORD not in leading.lower():
        return None
    at = 0
    while True:
        at = _end_of(_SPACE_OR_LINE, leading, at)
        end = _comment_end(leading, at)
        if end is None:
            return None
        match = _HINT.fullmatch(leading, at, end)
        if match is not None:
            try:
                return parse_read_mode(match[1].decode())
            except ValueError:
                pass
        at = end


def _end_of(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _comment_end(text: bytes, at: int) -> int | None:
    """Return where the comment that begins here ends; comments of PostgreSQL nest."""
    if not text.startswith(b"/*", at):
        return None
    depth = 0
    for mark in _COMMENT_MARK.finditer(text, at):
        depth += 1 if mark[0] == b"/*" else -1
        if depth == 0:
            return mark.end()
    return None
