"""Passwords as bytes, prepared the way PostgreSQL prepares them before SCRAM hashes them.

PostgreSQL applies SASLprep (RFC 4013) to a password, but takes it as it is when SASLprep forbids
it: control characters, characters younger than Unicode 3.2, mixed directions. It looks for
forbidden characters before it normalises, RFC 4013 afterwards; a password must give the same bytes
here as in the server that stored it, so this module does as PostgreSQL does.
"""

import stringprep
import unicodedata
from typing import Final

PASSWORD_BYTES_MAX: Final = 4096  # far more than anybody types, and cheap to hash

_FORBIDDEN: Final = (
    stringprep.in_table_a1,  # unassigned in Unicode 3.2
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def prepared_password(password: str) -> bytes:
    """Return the bytes of a password that are hashed; ValueError says what is wrong with it.

    Bytes that were not UTF-8 where the password was read (`surrogateescape`) are taken as they are.
    """
    try:
        raw = password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # its text would show a part of the password
        raise ValueError("a password must be text that UTF-8 can encode") from None
    if not raw or b"\0" in raw or len(raw) > PASSWORD_BYTES_MAX:
        raise ValueError(f"a password has 1 to {PASSWORD_BYTES_MAX} bytes and no zero byte")
    prepared = None if password.isascii() else saslprep(password)
    return raw if prepared is None else prepared.encode()


def saslprep(text: str) -> str | None:
    """Return the prepared text, or None when it has what SASLprep forbids."""
    mapped = "".join(map(_mapped, text))
    if not mapped or any(table(character) for character in mapped for table in _FORBIDDEN):
        return None
    return unicodedata.normalize("NFKC", mapped) if _directions_agree(mapped) else None


def _mapped(character: str) -> str:
    if stringprep.in_table_c12(character):  # any space but the plain one
        return " "
    return "" if stringprep.in_table_b1(character) else character


def _directions_agree(text: str) -> bool:
    """RFC 3454, 6: right-to-left text begins and ends so, and has no left-to-right in it."""
    if not any(map(stringprep.in_table_d1, text)):
        return True
    ends_agree = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return ends_agree and not any(map(stringprep.in_table_d2, text))
