"""PostgreSQL's own parser: the library that the wheel `postgast` ships, and nothing else of it.

`parse` gives the raw parse tree as plain dictionaries and lists, `normalized` the text with its
constants replaced by parameters. Texts come from clients, and the library trusts them more than we
may (measured with PostgreSQL 18.4's grammar, 8 MiB of stack):

- It recurses without looking at its stack: `1+1+1...` of 65,000 terms ends the process in parse,
  of 17,000 in normalize. TEXT_BYTES_MAX and NORMALIZED_BYTES_MAX leave half of that, as a term has
  at least two bytes; what is nested to the right is bounded by the grammar's own stack of 10,000.
- Its scanner is quadratic in a run of operator characters (`++++`, `/*/*/*`): 64 KiB of them take
  seconds. Runs longer than RUN_BYTES_MAX are not read; an operator has 63 bytes at most.
- A byte of text becomes up to 70 of tree. TREE_BYTES_MAX bounds the time of reading it.
"""

import ctypes
import importlib.util
from pathlib import Path
from typing import Any, Final

import msgspec

TEXT_BYTES_MAX: Final = 64 * 1024
NORMALIZED_BYTES_MAX: Final = 8 * 1024
TREE_BYTES_MAX: Final = 1024 * 1024
RUN_BYTES_MAX: Final = 256

_OPERATOR_BYTES: Final = b"~!@#^&|`?+-*/%<>="
_AS_ONE: Final = bytes.maketrans(_OPERATOR_BYTES, b"+" * len(_OPERATOR_BYTES))
_RUN: Final = b"+" * RUN_BYTES_MAX
_TOO_DEEP: Final = (b"memory exhausted", b"stack depth limit exceeded", b"out of memory")

Node = dict[str, Any]
"""A node of the tree: its type to its fields, or fields alone where the type is fixed."""


class InvalidTextError(Exception):
    """The text is no SQL."""


class UnreadableTextError(Exception):
    """The text may be SQL, but is too long, too deep or not UTF-8."""


def parse(text: bytes) -> list[tuple[str, Node]]:
    """Return the statements of a text, each as the type of its node and the node's fields."""
    return [next(iter(statement["stmt"].items())) for statement in _statements(text)]


def split(text: bytes) -> tuple[bytes, ...]:
    """Return the text of each statement."""
    found = []
    for statement in _statements(text):
        start = statement.get("stmt_location", 0)
        size_bytes = statement.get("stmt_len", 0)  # 0: up to the end
        found.append(text[start : start + size_bytes] if size_bytes else text[start:])
    return tuple(found)


def _statements(text: bytes) -> list[Node]:
    check_readable(text)
    result = _library.pg_query_parse(text)
    try:
        if result.error:
            raise _refusal(result.error.contents.message)
        tree: bytes = result.parse_tree
    finally:
        _library.pg_query_free_parse_result(result)
    if len(tree) > TREE_BYTES_MAX:
        raise UnreadableTextError("the statement is too complex to be read")
    try:
        statements: list[Node] = msgspec.json.decode(tree)["stmts"]
    except (RecursionError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableTextError("the statement is nested too deeply to be read") from error
    return statements


def normalized(text: bytes) -> bytes | None:
    """Return the text with `$n` for its constants, or None where there is no such thing."""
    if len(text) > NORMALIZED_BYTES_MAX:
        return None
    try:
        check_readable(text)
    except UnreadableTextError:
        return None
    result = _library.pg_query_normalize(text)
    try:
        normal: bytes | None = None if result.error else result.normalized_query
    finally:
        _library.pg_query_free_normalize_result(result)
    return normal


def check_readable(text: bytes) -> None:
    """Refuse what the library would not survive, or not in time."""
    if len(text) > TEXT_BYTES_MAX or b"\0" in text:
        raise UnreadableTextError("the statement is too long to be read")
    if _RUN in text.translate(_AS_ONE):
        raise UnreadableTextError("the statement has too many operators in a row to be read")
    if not text.isascii():
        # A text in another encoding can have a quote or a backslash as a part of a character: we
        # would see other strings in it than the server sees after converting it.
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise UnreadableTextError("the statement is not in UTF-8") from error


def _refusal(message: bytes | None) -> Exception:
    text = message or b"?"
    if any(reason in text for reason in _TOO_DEEP):
        return UnreadableTextError("the statement is nested too deeply to be read")
    return InvalidTextError(text.decode(errors="replace"))


class _Error(ctypes.Structure):
    """PgQueryError of pg_query.h."""

    _fields_ = (
        ("message", ctypes.c_char_p),
        ("funcname", ctypes.c_char_p),
        ("filename", ctypes.c_char_p),
        ("lineno", ctypes.c_int),
        ("cursorpos", ctypes.c_int),
        ("context", ctypes.c_char_p),
    )


class _ParseResult(ctypes.Structure):
    """PgQueryParseResult."""

    _fields_ = (
        ("parse_tree", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    )


class _NormalizeResult(ctypes.Structure):
    """PgQueryNormalizeResult."""

    _fields_ = (
        ("normalized_query", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    )


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("postgast")
    for directory in (spec and spec.submodule_search_locations) or ():
        # The package itself is not imported: it loads protobuf and 5 MB of generated classes.
        path = Path(directory) / "libpg_query.so"
        if path.exists():
            return ctypes.CDLL(str(path))
    raise ImportError("the parser of PostgreSQL is missing: install the package postgast")


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    library.pg_query_parse.argtypes = (ctypes.c_char_p,)
    library.pg_query_parse.restype = _ParseResult
    library.pg_query_free_parse_result.argtypes = (_ParseResult,)
    library.pg_query_free_parse_result.restype = None
    library.pg_query_normalize.argtypes = (ctypes.c_char_p,)
    library.pg_query_normalize.restype = _NormalizeResult
    library.pg_query_free_normalize_result.argtypes = (_NormalizeResult,)
    library.pg_query_free_normalize_result.restype = None
    return library


_library: Final = _declared(_load())
