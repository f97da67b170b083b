"""The words of a replication command: PostgreSQL's repl_scanner in small, with limits.

Keywords and unquoted names do not care for case; names are folded to lower case. A quote inside
quotes, which PostgreSQL would have doubled, fits nothing that we take. Whatever does not fit raises
CommandError.
"""

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from fabric.lsn import Lsn

from .errors import CommandError

COMMAND_CHARACTERS_MAX: Final = 1024  # the longest that we take has under 200

_QUOTED_CHARACTERS_MAX: Final = 40  # of the peer's text in an error
_TOKEN: Final = re.compile(
    r"""(?P<position>[0-9A-F]{1,8}/[0-9A-F]{1,8})(?![\w/])
    |(?P<number>[0-9]{1,10})(?![\w/])
    |(?P<word>[A-Z_][A-Z0-9_$]*(?:\.[A-Z_][A-Z0-9_$]*)*)
    |"(?P<name>[^"]+)"
    |'(?P<string>[^']*)'
    |(?P<mark>[(),;])""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_SPACE: Final = re.compile(r"[ \t\r\n\f\v]*")


@dataclass(frozen=True, slots=True)
class Token:
    """One word: which group of `_TOKEN` it is, and its text without quotes."""

    kind: str
    text: str

    @property
    def keyword(self) -> str:
        """What it is as a keyword; empty if it cannot be one."""
        return self.text.upper() if self.kind == "word" else ""


_END: Final = Token("end", "")


class CommandText:
    """The words of a command, taken one after the other."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0

    @property
    def next(self) -> Token:
        """The next word, which stays where it is."""
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def take_any(self) -> Token:
        """Take the next word, whatever it is."""
        token = self.next
        self._at += 1
        return token

    def take(self, keyword: str) -> bool:
        """Take the next word if it is this keyword or mark."""
        token = self.next
        found = keyword in {token.keyword, token.text if token.kind == "mark" else ""}
        self._at += found
        return found

    def name(self, what: str) -> str:
        """Take a name."""
        if self.next.kind not in {"name", "word"}:
            self.refuse(what)
        token = self.take_any()
        return token.text if token.kind == "name" else token.text.lower()

    def number(self, what: str) -> int:
        """Take a decimal number."""
        if self.next.kind != "number":
            self.refuse(what)
        return int(self.take_any().text)

    def position(self) -> Lsn:
        """Take a position in the WAL."""
        if self.next.kind != "position":
            self.refuse("a position like 1/123ABCD")
        return Lsn.parse(self.take_any().text)

    def end(self) -> None:
        """Refuse what follows the command; one semicolon may."""
        self.take(";")
        if self.next is not _END:
            self.refuse("nothing more")

    def refuse(self, wanted: str) -> NoReturn:
        """Say what was expected in place of the next word."""
        found = _quoted(self.next.text) if self.next is not _END else "the end of the command"
        raise CommandError(f"the command needs {wanted} where it has {found}")


def _tokens(text: str) -> list[Token]:
    if len(text) > COMMAND_CHARACTERS_MAX:
        raise CommandError(f"a replication command exceeds {COMMAND_CHARACTERS_MAX} characters")
    tokens: list[Token] = []
    at = _skip_space(text, 0)
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CommandError(f"the command is not understood from {_quoted(text[at:])} on")
        kind = match.lastgroup
        assert kind is not None, "every alternative has a name"
        tokens.append(Token(kind, match[kind]))
        at = _skip_space(text, match.end())
    return tokens


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None, "no space is also a match"
    return match.end()


def _quoted(text: str) -> str:
    return repr(text[:_QUOTED_CHARACTERS_MAX])
