"""A server that postgres's user cannot reach, or that was damaged on its way, is run anyway.

In scope: copying, repairing and reusing, with the real embedded server.
Out of scope: which server is chosen, see tests/unit/sqlnode/test_servers.py.
"""

import os
import shutil
from pathlib import Path

import pytest
from fixtures.servers import resolve_server

from sqlnode.postgres import (
    InitdbOptions,
    initdb,
)
from sqlnode.privileges import Identity
from sqlnode.server_copy import runnable_server
from sqlnode.servers import ServerBinaries, ServerError, Source

pytestmark = pytest.mark.postgres

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs postgres as another user")


@pytest.fixture(scope="module")
def embedded_tree() -> Path:
    """The directory of the embedded server, with bin, lib and share below."""
    return resolve_server("embedded").bin_dir.parent


def private_copy(tree: Path, top: Path) -> ServerBinaries:
    """Put a server's tree below a directory of mode 0700."""
    top.mkdir(mode=0o700)
    package = tree.parent.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(tree / part, top / package / "pg" / part, symlinks=True)
    libraries = f"{package}.libs"
    shutil.copytree(tree.parent.with_name(libraries), top / libraries)
    original = resolve_server("embedded")
    bin_dir = top / package / "pg" / "bin"
    return ServerBinaries(bin_dir, original.version, Source.EMBEDDED, original.tools)


@needs_root
def test_server_in_a_private_directory_is_copied_once(
    embedded_tree: Path, identity: Identity, tmp_path: Path, run_root: Path
) -> None:
    hidden = private_copy(embedded_tree, tmp_path / "private")
    run_root.chmod(0o755)
    cache_dir = run_root / "cache"
    usable = runnable_server(hidden, identity, cache_dir=cache_dir)
    assert usable.bin_dir.is_relative_to(cache_dir)
    made = usable.postgres.stat().st_ctime_ns
    assert runnable_server(hidden, identity, cache_dir=cache_dir) == usable
    assert usable.postgres.stat().st_ctime_ns == made
    assert usable.postgres.stat().st_uid == 0
    initdb(usable, run_root / "data", identity=identity, options=InitdbOptions(sync=False))


@needs_root
def test_server_that_everybody_can_run_is_not_copied(
    server_binaries: ServerBinaries, identity: Identity, run_root: Path
) -> None:
    assert runnable_server(server_binaries, identity, cache_dir=run_root) == server_binaries
    assert not list(run_root.iterdir())


def test_lost_executable_bits_and_links_are_repaired(
    embedded_tree: Path, identity: Identity, tmp_path: Path, run_root: Path
) -> None:
    damaged = private_copy(embedded_tree, tmp_path / "private")
    for program in damaged.bin_dir.iterdir():
        program.chmod(0o644)
    libpq = damaged.bin_dir.parent / "lib" / "libpq.so.5"
    libpq.unlink()
    run_root.chmod(0o755)
    usable = runnable_server(damaged, identity, cache_dir=run_root / "cache")
    assert usable.bin_dir != damaged.bin_dir
    assert (usable.bin_dir.parent / "lib" / libpq.name).exists()
    initdb(usable, run_root / "data", identity=identity, options=InitdbOptions(sync=False))


@needs_root
def test_program_without_a_tree_is_refused_with_the_obstacle(
    identity: Identity, tmp_path: Path
) -> None:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    (folder / "postgres").touch()
    original = resolve_server("embedded")
    odd = ServerBinaries(folder, original.version, Source.NAMED, original.tools)
    with pytest.raises(ServerError, match=r"cannot run .* because of"):
        runnable_server(odd, identity, cache_dir=tmp_path)
