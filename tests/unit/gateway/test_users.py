"""Users as a gateway knows them: rows of the catalog, and for how long they are believed.

In scope: users.py. Out of scope: reading them; see tests/integration/test_gateway_knowledge.py.
"""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.users import (
    SETTINGS_MAX,
    STALE_S,
    UNKNOWN_S,
    CatalogRowError,
    User,
    Users,
    can_be_a_name,
    role_sql,
    user_of,
)
from pgwire.scram import ScramVerifier

VERIFIER = ScramVerifier.make("pencil", os.urandom, iterations=1)
ANN = User("ann", VERIFIER, can_login=True)


def row(
    password: str | None = None, until_s: float | None = None, settings: object = None
) -> tuple[object, ...]:
    text = None if settings is None else json.dumps(settings)
    return ("ann", password, True, until_s, -1, text, None)


# --- Rows -----------------------------------------------------------------------------------------


def test_a_verifier_is_read_and_shown_to_nobody() -> None:
    user = user_of(row(VERIFIER.format()))
    assert user.verifier == VERIFIER
    assert user.can_login
    secrets = VERIFIER.format().split("$")[2].split(":")
    assert not any(secret in repr(user) for secret in secrets)
    assert "ScramVerifier" not in repr(user)


@pytest.mark.parametrize(
    "password", [None, "", "md5a6343a68d964ca596d9752250d54bb8a", "SCRAM-SHA-512$1:x$y:z"]
)
def test_who_has_no_password_for_scram_has_no_verifier(password: str | None) -> None:
    assert user_of(row(password)).verifier is None


def test_a_password_ends_when_the_catalog_says() -> None:
    assert not user_of(row(until_s=None)).is_expired(1e12)
    assert not user_of(row(until_s=float("inf"))).is_expired(1e12)
    assert user_of(row(until_s=100.0)).is_expired(100.0)
    assert not user_of(row(until_s=100.0)).is_expired(99.0)
    assert user_of(row(until_s=float("-inf"))).is_expired(0.0)


def test_the_roles_settings_win_over_everybodys_and_the_databases_over_all() -> None:
    settings = [
        [True, "", ["seawall.read=auto", "work_mem=64MB"]],
        [False, "shop", ["seawall.read=replica(1s)", "Seawall.Other=a=b"]],
        [False, "", ["seawall.read=primary"]],
        [True, "bank", ["seawall.read=primary"]],
    ]
    user = user_of(row(settings=settings))
    assert user.settings_of("any") == {"seawall.read": "auto"}
    assert user.settings_of("bank") == {"seawall.read": "primary"}
    assert user.settings_of("shop") == {"seawall.read": "replica(1s)", "seawall.other": "a=b"}
    assert user_of(row()).settings_of("any") == {}


def test_settings_are_bounded_and_nonsense_is_refused() -> None:
    many = [[True, f"d{n}", ["seawall.read=auto"]] for n in range(SETTINGS_MAX * 2)]
    assert len(user_of(row(settings=many)).settings) == SETTINGS_MAX
    for text in ("{", '{"a": 1}', "[[1]]"):
        with pytest.raises(CatalogRowError):
            user_of(("ann", None, True, None, -1, text, None))
    with pytest.raises(CatalogRowError, match="7 columns"):
        user_of(("ann",))


# --- The cache ------------------------------------------------------------------------------------


def test_a_user_is_asked_for_each_time_and_used_for_long_when_nobody_can_be_asked() -> None:
    known = Users().put("ann", ANN, 100.0)
    assert not known.needs_no_question
    assert known.is_usable(100.0 + STALE_S)
    assert not known.is_usable(100.1 + STALE_S)


def test_that_somebody_is_nobody_is_believed_for_a_moment_only() -> None:
    users = Users()
    users.put("bob", None, 100.0)
    known = users.get("bob", 100.0 + UNKNOWN_S)
    assert known is not None
    assert known.user is None
    assert known.needs_no_question
    assert users.get("bob", 100.1 + UNKNOWN_S) is None
    assert len(users) == 0, "and it takes no room after that"


def test_a_user_who_is_made_or_dropped_is_the_one_or_the_other() -> None:
    users = Users()
    users.put("ann", None, 1.0)
    users.put("ann", ANN, 2.0)
    assert len(users) == 1
    assert (found := users.get("ann", 2.0)) is not None
    assert found.user is ANN
    users.put("ann", None, 3.0)
    assert (found := users.get("ann", 3.0)) is not None
    assert found.user is None
    assert len(users) == 1


def test_guessing_names_drives_no_user_out() -> None:
    users = Users(users_max=3, unknown_max=2)
    users.put("ann", ANN, 0.0)
    for n in range(1000):
        users.put(f"guess-{n}", None, 0.0)
    assert len(users) == 3
    assert users.get("ann", 0.0) is not None


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 5)), max_size=80))
def test_the_cache_is_bounded_and_has_what_was_put_last(
    steps: list[tuple[int, bool, float]],
) -> None:
    users, now_s = Users(users_max=4, unknown_max=3), 0.0
    for number, is_user, passed_s in steps:
        now_s += passed_s
        name = f"u{number}"
        users.put(name, User(name, None, can_login=True) if is_user else None, now_s)
        found = users.get(name, now_s)
        assert found is not None
        assert (found.user is not None) == is_user
        assert len(users) <= 7


# --- Names and the role ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "x" * 64, "\u00e9" * 32, "a\0b", "\udc80"])
def test_what_cannot_be_a_name_is_not_asked_for(name: str) -> None:
    assert not can_be_a_name(name)


def test_the_longest_name_can_be_one() -> None:
    assert can_be_a_name("x" * 63)
    assert can_be_a_name("\u00e9" * 31)


def test_the_role_gets_a_verifier_and_no_password() -> None:
    sql = role_sql(VERIFIER)
    assert VERIFIER.format() in sql
    assert "pencil" not in sql
    assert "superuser" not in sql.replace("nosuperuser", "")
