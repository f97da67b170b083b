"""Which files are data files: one rule, in Python for the agent and in C for the library.

In scope: the rule's examples and the agreement of both, also on paths that nobody would make.
Out of scope: sources (test_directory_source).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sqlnode.page_source import is_data_file, is_small_file, relation_block
from sqlnode.pagefault.block_map import BlockMap, MapOptions, create_block_map

TRACKED = [
    "base/1/2",
    "base/16384/16385.7",
    "base/16384/16385_fsm",
    "base/16384/16385_vm.1",
    "base/16384/16385_init",
    "global/1262",
    "global/1262_fsm",
    "pg_tblspc/16400/PG_18_202506291/5/16401.2",
    "pg_xact/0000",
    "pg_xact/00000000000000A",
    "pg_multixact/offsets/00FF",
    "pg_multixact/members/14078",
    "pg_commit_ts/0001",
]
OTHERS = [
    "base/1/t3_2",
    "base/1/2_",
    "base/1/2_foo",
    "base/1/2_fsm_vm",
    "base/1/2.",
    "base/1/2.1_fsm",
    "base/1/2 ",
    "base/1/",
    "base/1",
    "base/pgsql_tmp/pgsql_tmp123.0",
    "base/1/PG_VERSION",
    "base/1/pg_filenode.map",
    "base/1/pg_internal.init",
    "global/pg_control",
    "/base/1/2",
    "base//1/2",
    "pg_tblspc/16400",
    "pg_tblspc/16400/5/16401",
    "pg_tblspc/16400/PG_18_202506291/pgsql_tmp/5",
    "pg_tblspc/16400/PG_18_202506291/5/t3_16401",
    "pg_xact/000",
    "pg_xact/0000000000000000",
    "pg_xact/00g0",
    "pg_xact/abcd",
    "pg_subtrans/0000",
    "pg_notify/0000",
    "pg_wal/000000010000000000000001",
    "base/\u0663/1",
    "",
]
PIECES = [
    *["base", "global", "pg_tblspc", "pg_xact", "pg_multixact/offsets", "pg_commit_ts", "PG_18"],
    *[
        "/",
        "//",
        ".",
        "_",
        "_fsm",
        "_vm",
        "_init",
        "t3_",
        "0",
        "1",
        "16384",
        "00A0",
        "\u0663",
        "\n",
    ],
]


@pytest.fixture(scope="module")
def block_map(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockMap]:
    path = tmp_path_factory.mktemp("rule") / "map"
    options = MapOptions(
        data_dir=Path("/d"), socket_path=Path("/s"), system_identifier=1, slots_max=1
    )
    create_block_map(path, options)
    with BlockMap(path) as opened:
        yield opened


@pytest.mark.parametrize("path", TRACKED)
def test_data_files_are_tracked(block_map: BlockMap, path: str) -> None:
    assert is_data_file(path)
    assert block_map.tracks(path)
    assert not is_small_file(path)


@pytest.mark.parametrize("path", OTHERS)
def test_other_files_are_not_tracked(block_map: BlockMap, path: str) -> None:
    assert not is_data_file(path)
    assert not block_map.tracks(path)


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.sampled_from(TRACKED))
@example("pg_tblspc/1/PG_/2/3")
@settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_library_and_agent_have_one_rule(block_map: BlockMap, path: str) -> None:
    assert block_map.tracks(path) == is_data_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "PG_VERSION",
        "global/pg_control",
        "global/pg_filenode.map",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "pg_tblspc/16400/PG_18_202506291/5/PG_VERSION",
        "pg_twophase/000002F1",
        "pg_twophase/00000000000002F1",
    ],
)
def test_small_files_travel_whole(path: str) -> None:
    assert is_small_file(path)
    assert not is_data_file(path)


@pytest.mark.parametrize("path", ["global/pg_internal.init", "postmaster.pid", "pg_wal/1"])
def test_files_of_one_run_do_not_travel(path: str) -> None:
    assert not is_small_file(path)


def test_blocks_are_counted_inside_the_relation() -> None:
    assert relation_block("base/5/1") == 0
    assert relation_block("base/5/1_fsm") == 0
    assert relation_block("base/5/1.3") == 3 * 131072
    assert relation_block("pg_xact/0000") is None
