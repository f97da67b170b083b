"""Says what a query is, nearly always from memory.

    exact text                      an application's statements with parameters   0.2 us
    text without its last number    ... WHERE id = 12345                          0.5 us
    text without its constants      other literals; the parser finds them         6 us
    the parser                                                                    40 us

Why the number at the end may go: the text before it, with its comments, strings and names, is the
key, so the parser is in the same state when it comes to the number, which is a token of its own, or
is in the same comment. Behind it are only blanks and semicolons. Two texts of one key are thus the
same statement with different numbers.

Why constants may go: only SELECT and DML without any effect is kept by that key, and only if no
constant had a part in the decision (current_setting).
"""

from typing import Final

from .caches import Generations
from .catalog import Catalog
from .hints import hint_of
from .parser import (
    NORMALIZED_BYTES_MAX,
    InvalidTextError,
    UnreadableTextError,
    normalized,
    parse,
    split,
)
from .statements import INVALID, Pin, Query, query_of, unknown_query
from .utilities import describe, describe_unquoted

CACHED_ENTRIES_MAX: Final = 4096
CACHED_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of the keys of a generation; a cache has two, a classifier three caches."""

_END: Final = b"; "
_DIGITS: Final = b"0123456789"
_BEFORE_NUMBER: Final = frozenset(b" \t\n\r=(<>,+-*/")
"""A number right behind one of these is a token of its own."""

_CONSTANT_KINDS: Final = frozenset(
    {"SELECT", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "EXPLAIN"}
)
_DANGEROUS: Final = (
    b"advisory",
    b"backup",
    b"dblink",
    b"deallocate",
    b"declare",
    b"discard",
    b"hold",
    b"listen",
    b"load",
    b"prepare",
    b"set",
    b"slot",
    b"temp",
)
"""Without one of these a statement leaves nothing in the session: set_config has one, too."""
_UNREADABLE: Final = Pin("a statement that was too long to be read")


class Classifier:
    """Of one catalog; another catalog needs another one. Not for several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._exact = _cache()
        self._heads = _cache()
        self._normal = _cache()
        self._young_exact = self._exact.young
        self._young_heads = self._heads.young

    def classify(self, text: bytes) -> Query:
        """Say what a text is; it raises nothing."""
        query = self._young_exact.get(text)
        if query is not None:
            return query
        body = text.rstrip(_END)
        head = body.rstrip(_DIGITS)
        if head and len(head) < len(body) and head[-1] in _BEFORE_NUMBER:
            query = self._young_heads.get(head)
            if query is None:
                query = self._heads.get(head)
            return self._read(text, head) if query is None else query
        query = self._exact.get(text)
        return self._read(text, None) if query is None else query

    def _read(self, text: bytes, head: bytes | None) -> Query:
        """Find out, and remember it as generally as it holds."""
        if len(text) > NORMALIZED_BYTES_MAX:
            return read(text, self.catalog)
        normal = normalized(text)
        query = self._normal.get(normal) if normal is not None else None
        if query is None:
            query = read(text, self.catalog)
            if normal is None or not _holds_for_all_constants(query):
                self._exact.put(text, query)
                return query
            self._normal.put(normal, query)
        if head is None:
            self._exact.put(text, query)
        else:
            self._heads.put(head, query)
        return query


def read(text: bytes, catalog: Catalog) -> Query:
    """Say what a text is, by parsing it."""
    try:
        statements = tuple(describe(kind, body, catalog) for kind, body in parse(text))
    except InvalidTextError:
        ours = describe_unquoted(text)
        return INVALID if ours is None else query_of((ours,), None)
    except UnreadableTextError:
        return unknown_query(_UNREADABLE if may_leave_something(text) else None)
    return query_of(statements, hint_of(text))


def parts_of(query: Query, text: bytes) -> tuple[bytes, ...]:
    """Return the text of each statement of a query."""
    return (text,) if len(query.statements) == 1 else split(text)


def may_leave_something(text: bytes) -> bool:
    """Say whether a text that cannot be parsed has a word of a statement with effects."""
    if not any(mark in text for mark in (b"\\", b"$", b"--", b"/*", b'"')):
        # Strings are what is between quotes, and no quote is anything else: a long INSERT of texts
        # has words in its texts only.
        text = b"''".join(text.split(b"'")[::2])
    lowered = text.lower()
    return any(word in lowered for word in _DANGEROUS)


def _holds_for_all_constants(query: Query) -> bool:
    return query.is_plain and all(
        statement.kind in _CONSTANT_KINDS and not statement.depends_on_constants
        for statement in query.statements
    )


def _cache() -> Generations[Query]:
    return Generations(entries_max=CACHED_ENTRIES_MAX, bytes_max=CACHED_BYTES_MAX)
