"""Results in text form: what a server that is not PostgreSQL answers to replication commands.

    encode_rows([Column("timeline", INT4)], [(3,)])      RowDescription and DataRows, as bytes

A value is None for NULL, text, bytes that are already in the type's text form, or an integer.
CommandComplete and ReadyForQuery are the caller's business. Other results than these few types are
PostgreSQL's own, and are passed on as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from . import backend
from .messages import encode

Value: TypeAlias = bytes | str | int | None

_NO_MODIFIER: Final = -1


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type as RowDescription names it: its oid in pg_type, its size, negative if that varies."""

    oid: int
    size_bytes: int


INT8: Final = ColumnType(20, 8)
INT4: Final = ColumnType(23, 4)
TEXT: Final = ColumnType(25, -1)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result that belongs to no table."""

    name: str
    type: ColumnType = TEXT


def encode_rows(columns: Sequence[Column], rows: Iterable[Sequence[Value]]) -> bytes:
    """Return the description of the columns and the rows."""
    description = backend.RowDescription(tuple(map(_described, columns)))
    parts = [encode(description)]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} values does not fit {len(columns)} columns")
        parts.append(encode(backend.DataRow(tuple(map(_text, row)))))
    return b"".join(parts)


def _described(column: Column) -> backend.Column:
    return backend.Column(
        name=column.name,
        table_oid=0,
        attribute_number=0,
        type_oid=column.type.oid,
        type_bytes=column.type.size_bytes,
        type_modifier=_NO_MODIFIER,
    )


def _text(value: Value) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
