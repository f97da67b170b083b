"""Rows in text form, as a replication server answers."""

import pytest

from pgwire.backend import DataRow, RowDescription
from pgwire.frames import FrameReader
from pgwire.messages import BACKEND_LIMITS, decode_backend
from pgwire.rows import INT4, INT8, Column, encode_rows


def test_rows_are_a_description_and_their_values() -> None:
    columns = [Column("systemid"), Column("timeline", INT4), Column("n", INT8), Column("dbname")]
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(encode_rows(columns, [("7000", 1, -5, None), (b"\xff", 2, 0, "")]))
    description, *rows = [decode_backend(kind, body) for kind, body in reader]
    assert isinstance(description, RowDescription)
    assert [(c.name, c.type_oid, c.type_bytes) for c in description.columns] == [
        ("systemid", 25, -1),
        ("timeline", 23, 4),
        ("n", 20, 8),
        ("dbname", 25, -1),
    ]
    assert rows == [DataRow((b"7000", b"1", b"-5", None)), DataRow((b"\xff", b"2", b"0", b""))]


def test_row_that_does_not_fit_its_columns_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="a row of 1 values does not fit 2 columns"):
        encode_rows([Column("a"), Column("b")], [("x",)])
