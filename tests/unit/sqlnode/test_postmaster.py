"""What postmaster.pid and pg_control say together about a server that we cannot ask.

In scope: the pure decisions. Out of scope: real processes.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlnode.control_file import ClusterState
from sqlnode.postmaster import (
    Mode,
    PostmasterFile,
    accepts_connections,
    exit_description,
    last_lines,
    mode,
    parse_postmaster_file,
    postgres_environment,
)
from sqlnode.privileges import Identity

CONTENT = b"4711\n/data/one\n1790000000\n5432\n/run/one\n\n 1234567         9\nready   \n"
READY = PostmasterFile(
    pid=4711,
    data_dir="/data/one",
    started_at_s=1790000000,
    port=5432,
    socket_dir="/run/one",
    shared_memory_id=9,
    status="ready",
)


def test_complete_file_is_read() -> None:
    assert parse_postmaster_file(CONTENT) == READY


def test_file_is_read_at_every_stage_of_its_writing() -> None:
    seen = [parse_postmaster_file(CONTENT[:length]) for length in range(len(CONTENT) + 1)]
    assert seen[0] is None
    assert seen[-1] == READY
    for found in seen:
        if found is not None:
            assert (found.pid, found.started_at_s) == (READY.pid, READY.started_at_s)
            # A line counts once it is complete: no half of a number, no half of a word.
            assert found.status in {None, "ready"}
            assert found.port in {None, 5432}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_or_none(content: bytes) -> None:
    found = parse_postmaster_file(content)
    assert found is None or found.pid >= 0


def test_half_started_server_does_not_accept_connections() -> None:
    for status in (None, "starting", "stopping"):
        found = replace(READY, status=status)
        assert not accepts_connections(found, pid=4711, stale=None)
    assert accepts_connections(READY, pid=4711, stale=None)
    assert accepts_connections(replace(READY, status="standby"), pid=4711, stale=None)


def test_file_of_another_start_does_not_count() -> None:
    assert not accepts_connections(None, pid=4711, stale=None)
    assert not accepts_connections(READY, pid=4712, stale=None)
    assert not accepts_connections(READY, pid=4711, stale=READY)
    earlier = replace(READY, started_at_s=READY.started_at_s - 1)
    assert accepts_connections(READY, pid=4711, stale=earlier)


@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        ("ready", ClusterState.IN_PRODUCTION, Mode.READ_WRITE),
        ("ready", ClusterState.IN_ARCHIVE_RECOVERY, Mode.READ_ONLY),
        ("ready", ClusterState.SHUTTING_DOWN, Mode.STOPPING),
        ("ready", None, Mode.STARTING),
        # The control file of the last run says nothing until the server is ready.
        ("starting", ClusterState.IN_PRODUCTION, Mode.STARTING),
        ("standby", ClusterState.IN_ARCHIVE_RECOVERY, Mode.STARTING),
        ("stopping", ClusterState.IN_PRODUCTION, Mode.STOPPING),
        (None, ClusterState.IN_PRODUCTION, Mode.STARTING),
    ],
)
def test_mode_follows_both_files(
    status: str | None, state: ClusterState | None, expected: Mode
) -> None:
    found = replace(READY, status=status)
    assert mode(found, state, running=True) is expected
    assert mode(found, state, running=False) is Mode.STOPPED


def test_environment_is_a_short_list() -> None:
    identity = Identity(uid=1, gid=1, name="pg", home=Path("/home/pg"))
    inherited = {"PATH": "/p", "TZ": "UTC", "PGDATA": "/x", "SECRET": "s", "LD_PRELOAD": "/e.so"}
    environment = postgres_environment(inherited, identity, {"LD_PRELOAD": "/ours.so"})
    assert environment == {
        "PATH": "/p",
        "TZ": "UTC",
        "HOME": "/home/pg",
        "USER": "pg",
        "LOGNAME": "pg",
        "LD_PRELOAD": "/ours.so",
    }


def test_quoted_log_is_short_and_one_line() -> None:
    log = "\n\n".join(f"line {number} " + "x" * 1000 for number in range(100))
    quoted = last_lines(log)
    assert "\n" not in quoted
    assert quoted.startswith("line 95 ")
    assert len(quoted) < 2000
    assert last_lines("\n \n") == "nothing"


def test_exit_is_described() -> None:
    assert exit_description(1) == "exited with status 1"
    assert exit_description(-9) == "was killed by signal 9"
