"""Passwords become the bytes that PostgreSQL makes of them: RFC 4013 and its exceptions.

Whether PostgreSQL agrees is asked in tests/integration/test_scram_against_real_peers.py.
"""

import pytest

from pgwire.saslprep import PASSWORD_BYTES_MAX, prepared_password, saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # a soft hyphen is mapped to nothing
        ("us\u00a0er", "us er"),
        ("\u00aa", "a"),  # normalised
        ("\u2168", "IX"),
        ("\u0007\u00aa", None),  # a control character
        ("\u0627\u0031", None),  # right-to-left that does not end so
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628"),
        ("\u0221", None),  # not in Unicode 3.2
        ("\u00ad", None),  # nothing is left
    ],
)
def test_text_is_prepared(text: str, prepared: str | None) -> None:
    assert saslprep(text) == prepared


def test_forbidden_text_is_taken_as_it_is() -> None:
    assert prepared_password("\u0007\u00aa") == "\u0007\u00aa".encode()
    assert prepared_password("\u00ad") == "\u00ad".encode()
    assert prepared_password("\udcff") == b"\xff"


@pytest.mark.parametrize("password", ["", "a\0b", "x" * (PASSWORD_BYTES_MAX + 1), "hush\ud800"])
def test_impossible_password_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(ValueError, match="a password") as caught:
        prepared_password(password)
    assert caught.value.__cause__ is None
    assert "hush" not in f"{caught.value}{caught.value.args}"
