"""Frames that the gateway makes or changes by itself. Pure; the rest is in pgwire."""

import struct
from typing import Final, Literal

from pgwire.backend import CommandComplete, ErrorResponse
from pgwire.messages import encode

_HEADER: Final = struct.Struct(">BI")

PARSE_COMPLETE_FRAME: Final = b"1\0\0\0\4"
BIND_COMPLETE_FRAME: Final = b"2\0\0\0\4"
CLOSE_COMPLETE_FRAME: Final = b"3\0\0\0\4"
NO_DATA_FRAME: Final = b"n\0\0\0\4"
COPY_FAIL_FRAME: Final = b"f\0\0\0\5\0"
TERMINATE_FRAME: Final = b"X\0\0\0\4"


def frame(kind: int, body: bytes) -> bytes:
    """Return a frame."""
    return _HEADER.pack(kind, len(body) + 4) + body


def query_frame(text: bytes) -> bytes:
    """Return a simple query."""
    return frame(0x51, text + b"\0")


def ready_frame(status: int) -> bytes:
    """Return ReadyForQuery."""
    return b"Z\0\0\0\5" + bytes((status,))


def error_frame(
    sqlstate: str, message: str, *, hint: str = "", severity: Literal["ERROR", "FATAL"] = "ERROR"
) -> bytes:
    """Return an error of ours."""
    return encode(ErrorResponse.of(severity, sqlstate, message, hint))


def complete_frame(tag: str) -> bytes:
    """Return CommandComplete."""
    return encode(CommandComplete(tag))


def close_statement_frame(name: bytes) -> bytes:
    """Return a Close of a prepared statement."""
    return frame(0x43, b"S" + name + b"\0")


def first_name(body: bytes, at: int = 0) -> tuple[bytes, int]:
    """Return the text that begins there, and where the rest begins; ValueError if it has no end."""
    end = body.index(0, at)
    return body[at:end], end + 1


def error_fields(whole: bytes) -> dict[str, str]:
    """Return the fields of an error or a notice by their codes, as far as they can be read."""
    parts = whole[5:].split(b"\0")
    return {chr(part[0]): part[1:].decode("utf-8", "replace") for part in parts if part}
