"""Templates are told apart, swept up and never half-made; numbers of clusters differ.

In scope: everything but initdb, with a program in its place. Out of scope: what PostgreSQL makes of
a new cluster, in tests/integration/test_first_cut.py.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.record_bodies import Genesis
from sqlnode.initdb import InitdbError, InitdbOptions
from sqlnode.privileges import Identity
from sqlnode.servers import PgVersion, ServerBinaries, Source
from storage.first_cut import (
    UNFINISHED_AGE_S,
    UNFINISHED_PREFIX,
    make_template,
    new_system_identifier,
    template_name,
    write_first_wal,
)

MAKES = """#!/bin/sh
for word; do case $word in --pgdata=*) cd "${word#--pgdata=}";; esac; done
touch postgresql.conf pg_hba.conf pg_ident.conf made
"""


def server_of(directory: Path, initdb: str = MAKES) -> ServerBinaries:
    for name, text in (("initdb", initdb), ("postgres", "")):
        program = directory / name
        program.write_text(text)
        program.chmod(0o755)
    return ServerBinaries(directory, PgVersion(18, 4), Source.NAMED, frozenset({"initdb"}))


@pytest.fixture
def bin_dir(run_root: Path) -> Path:
    """Where the identity can run programs."""
    directory = run_root / "bin"
    directory.mkdir()
    run_root.chmod(0o755)
    directory.chmod(0o755)
    return directory


def test_template_is_made_once(bin_dir: Path, run_root: Path, identity: Identity) -> None:
    server, cache = server_of(bin_dir), run_root / "cache"
    made = make_template(server, cache, identity=identity)
    assert made.server_version == "18.4"
    assert [path.name for path in made.data_dir.iterdir()] == ["made"]
    (made.data_dir / "made").write_text("the first")
    assert make_template(server, cache, identity=identity) == made
    assert (made.data_dir / "made").read_text() == "the first"


def test_other_servers_and_options_have_other_templates(bin_dir: Path) -> None:
    server, options = server_of(bin_dir), InitdbOptions()
    names = {
        template_name(server, options),
        template_name(server, replace(options, locale="C")),
        template_name(server, replace(options, superuser="admin")),
        template_name(server, replace(options, wal_segment_mib=64)),
        template_name(server_of(bin_dir, MAKES + "\n"), options),
    }
    assert len(names) == 5
    assert template_name(server, options) in template_name(server, replace(options, sync=False))


def test_failed_initdb_leaves_nothing(bin_dir: Path, run_root: Path, identity: Identity) -> None:
    server = server_of(bin_dir, "#!/bin/sh\necho no >&2; exit 1\n")
    with pytest.raises(InitdbError, match="no"):
        make_template(server, run_root / "cache", identity=identity)
    assert list((run_root / "cache").iterdir()) == []


def test_what_a_dead_maker_left_is_ignored_and_swept_up_later(
    bin_dir: Path, run_root: Path, identity: Identity
) -> None:
    cache = run_root / "cache"
    old, young = cache / f"{UNFINISHED_PREFIX}old", cache / f"{UNFINISHED_PREFIX}young"
    for path in (old, young):
        path.mkdir(parents=True)
    now_s = young.stat().st_mtime
    os.utime(old, (0, now_s - UNFINISHED_AGE_S - 1))
    made = make_template(server_of(bin_dir), cache, identity=identity, unix_time_s=lambda: now_s)
    assert {path.name for path in cache.iterdir()} == {young.name, made.data_dir.parent.name}


def test_passwords_and_pages_without_checksums_are_refused(
    bin_dir: Path, run_root: Path, identity: Identity
) -> None:
    for options in (InitdbOptions(password="x"), InitdbOptions(data_checksums=False)):  # noqa: S106  # refused
        with pytest.raises(ValueError, match="a template has data checksums, and no password"):
            make_template(server_of(bin_dir), run_root, identity=identity, options=options)


def test_number_of_a_cluster_begins_with_the_time() -> None:
    number = new_system_identifier(1_764_000_000.7, lambda size: b"\x01" * size)
    assert number == SystemIdentifier(1_764_000_000 << 32 | 0x01010101)
    assert len({new_system_identifier(1) for _ in range(100)}) == 100


def test_first_wal_is_a_whole_segment_for_its_owner_alone(tmp_path: Path) -> None:
    genesis = Genesis(SystemIdentifier(1), Tli(1), Lsn(2 << 20), 1 << 20, "18.4")
    path = write_first_wal(genesis, b"abc", tmp_path)
    assert path.name == "000000010000000000000002"
    assert path.read_bytes() == b"abc".ljust(1 << 20, b"\0")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_first_wal(genesis, b"abc", tmp_path)
