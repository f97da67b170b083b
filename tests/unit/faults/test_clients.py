"""What a client may conclude from an answer, and where connection strings lead.

In scope: the pure rules. Out of scope: that drivers answer so; see tests/integration/faults.
"""

import pytest

from bench.faults.clients import result_of
from bench.faults.history import Result
from bench.faults.sessions import BrokenError, Dsn, RefusedError

BROKEN = BrokenError("the connection was reset")
SERIALIZATION = RefusedError("40001", "could not serialize access")
SHUTDOWN = RefusedError("57014", "canceling statement due to user request")
DISK_FULL = RefusedError("53100", "could not extend file")


@pytest.mark.parametrize(
    ("error", "was_commit_sent", "warned", "result"),
    [
        (None, True, False, Result.OK),
        (None, True, True, Result.UNKNOWN),  # did not wait for its synchronous standby
        (BROKEN, False, False, Result.FAIL),
        (BROKEN, True, False, Result.UNKNOWN),
        (SERIALIZATION, False, False, Result.FAIL),
        (SERIALIZATION, True, False, Result.FAIL),
        (SHUTDOWN, True, False, Result.UNKNOWN),
        (DISK_FULL, True, False, Result.UNKNOWN),
    ],
)
def test_only_a_certain_answer_is_taken_as_one(
    error: Exception | None, was_commit_sent: bool, warned: bool, result: Result
) -> None:
    assert result_of(error, was_commit_sent=was_commit_sent, warned=warned) is result


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("postgresql://u:p@a:1,b:2/d?target_session_attrs=read-write", (("a", 1), ("b", 2))),
        ("host=a,b port=5", (("a", 5), ("b", 5))),
        ("host=/run/x port=5433 user=u", (("/run/x", 5433),)),
        ("dbname=d", (("localhost", 5432),)),
    ],
)
def test_connection_string_names_every_host(text: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert Dsn.parse(text).hosts == hosts


def test_password_is_not_shown() -> None:
    dsn = Dsn.parse(
        "postgresql://u:secret@a:1/d?target_session_attrs=any&load_balance_hosts=random"
    )
    assert "secret" not in repr(dsn)
    assert dsn.others == {"user": "u", "password": "secret", "dbname": "d"}
