"""Every target with real programs: started, hurt, mended; it keeps its rows and leaves nothing.

In scope: front and direct, each blow, passwords that nobody can see, processes that are gone when
the context is left and when the program is terminated. Out of scope: how fast anything is.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixtures.waiting import eventually

from bench.pagefault.workspace import Workspace, workspace
from bench.storage.processes import all_processes, descendants
from bench.targets.catalog import start
from bench.targets.dsn import VARIABLE, dsn_target
from bench.targets.programs import find_program
from bench.targets.proxies import pgpool_before
from bench.targets.sessions import ask
from bench.targets.target import Blow, Target, TargetError, TargetSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

pytestmark = [pytest.mark.postgres]

DEADLINE_SECONDS = 60.0
SETTINGS = TargetSettings(shared_buffers="64MB", max_connections=120)
PROGRAMS = {
    "patroni": (("patroni", "patroni"), ("etcd", "etcd-server"), ("haproxy", "haproxy")),
    "pgbouncer": (("pgbouncer", "pgbouncer"),),
    "pgpool": (("pgpool", "pgpool2"),),
}
TOOLS = {
    "patroni": ("pg_basebackup", "pg_rewind", "pg_controldata", "pg_isready"),
}

# Starts a target, says so with all process ids, and waits to be terminated.
TERMINATED = """
import pathlib, signal, sys, time
from bench.pagefault.workspace import workspace
from bench.targets.catalog import start
from bench.targets.target import TargetSettings
from sqlnode.privileges import choose_identity
from sqlnode.servers import choose_server
signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
name, pg_bin = sys.argv[1:]
server = choose_server(pg_bin=pathlib.Path(pg_bin), search_path="")
with workspace(server, choose_identity()) as place, start(name, place, TargetSettings()) as target:
    print(place.directory, *target.pids, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(server_binaries: ServerBinaries, identity: Identity) -> Iterator[Workspace]:
    with workspace(server_binaries, identity) as place:
        yield place


def require(name: str, binaries: ServerBinaries) -> None:
    """Skip what this machine has no programs for, with the name of the package."""
    kind = name.partition("-")[0]
    try:
        for program, package in PROGRAMS.get(kind, ()):
            find_program(program, package)
    except TargetError as error:
        pytest.skip(str(error))
    tools = TOOLS.get(kind, ())
    if not binaries.has(*tools):
        pytest.skip(f"{binaries} lacks one of {', '.join(tools)}")


def all_pids(target: Target) -> set[int]:
    """All processes of a target."""
    processes = all_processes()
    below = (one.pid for root in target.pids for one in descendants(root, processes))
    return {*target.pids, *below}


def running(pids: set[int]) -> set[int]:
    """Those that exist, and are not only waiting to be reaped."""
    found = set()
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            if stat.rpartition(") ")[2][:1] not in {"Z", "X"}:
                found.add(pid)
    return found


def no_password_is_seen(target: Target, pids: set[int]) -> None:
    password = target.front.password
    assert password
    assert password not in f"{target.description} {dict(target.facts)} {target.front}"
    for pid in pids:
        with contextlib.suppress(FileNotFoundError):
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def has_the_settings(target: Target) -> None:
    for address in (target.direct, *target.readers):
        assert ask(address, "show shared_buffers") == [SETTINGS.shared_buffers]
        assert ask(address, "show max_connections") == [str(SETTINGS.max_connections)]
        assert ask(address, "show autovacuum") == ["off"]


def is_hurt_and_mended(target: Target, blows: frozenset[Blow]) -> set[int]:
    """Every blow, a row after each; return all processes that there ever were."""
    ask(target.front, "create table rows (n int primary key)", "insert into rows values (0)")
    assert ask(target.direct, "select count(*) from rows") == [1]
    pids = all_pids(target)
    no_password_is_seen(target, pids)
    for number, blow in enumerate(sorted(blows), start=1):
        target.strike(blow)
        target.wait_whole()
        assert ask(target.front, "select count(*) from rows") == [number], blow
        ask(target.front, f"insert into rows values ({number})")
        assert ask(target.direct, "select count(*) from rows") == [number + 1], blow
        pids |= all_pids(target)
    return pids


def is_gone(pids: set[int]) -> None:
    assert pids
    eventually(lambda: not running(pids), what="the end of all processes")


def starts_again_and_ends_when_terminated(name: str, binaries: ServerBinaries) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", TERMINATED, name, str(binaries.bin_dir)],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            directory, *words = process.stdout.readline().split()
            roots = {int(word) for word in words}
            assert roots
            assert running(roots) == roots
            processes = all_processes()
            pids = roots | {one.pid for root in roots for one in descendants(root, processes)}
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_SECONDS) == 2
        finally:
            process.kill()
    is_gone(pids)
    assert not Path(directory).exists()


@pytest.mark.parametrize(
    "name",
    [
        "stock",
        "stock-sync",
        "pgbouncer",
        "pgpool",
        pytest.param("seawall-ha", marks=pytest.mark.faults),
        pytest.param("seawall-small", marks=pytest.mark.faults),
        pytest.param("patroni-tuned", marks=[pytest.mark.faults, pytest.mark.timeout(500)]),
    ],
)
def test_a_target_is_hurt_mended_and_leaves_nothing(name: str, place: Workspace) -> None:
    require(name, place.binaries)
    with start(name, place, SETTINGS) as target:
        assert target.name == name
        has_the_settings(target)
        pids = is_hurt_and_mended(target, target.blows)
    is_gone(pids)
    starts_again_and_ends_when_terminated(name, place.binaries)


@pytest.mark.faults
def test_patroni_as_it_ships_keeps_its_rows(place: Workspace) -> None:
    """One blow: its members differ from the tuned ones in numbers alone, and need half a minute."""
    require("patroni", place.binaries)
    with start("patroni", place, SETTINGS) as target:
        assert target.blows == frozenset(Blow)
        pids = is_hurt_and_mended(target, frozenset({Blow.LOG_LEADER_KILLED}))
    is_gone(pids)


def test_pgpool_spreads_reads_over_the_standbys(place: Workspace) -> None:
    require("pgpool", place.binaries)
    with start("stock-sync", place, SETTINGS) as target:
        (server,) = ask(target.direct, "select inet_server_port()")
        with pgpool_before(place, target.direct, readers=target.readers, clients=4) as proxy:
            ask(proxy.front, "create table rows (n int)")
            seen = {ask(proxy.front, "select inet_server_port()")[0] for _ in range(40)}
    assert seen > {server}
    assert seen <= {server, *(one.port for one in target.readers)}


def test_a_dsn_is_measured_and_never_hurt(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start("stock", place, SETTINGS) as server:
        address = server.direct
        monkeypatch.setenv("PGPASSWORD", address.password)
        monkeypatch.setenv(VARIABLE, f"postgresql://postgres@127.0.0.1:{address.port}/postgres")
        with start("dsn", place, SETTINGS) as target:
            assert target.front == target.direct == address
            assert ask(target.front, "select 1") == [1]
            assert not target.blows
            assert not target.pids
            with pytest.raises(TargetError, match="is not hurt"):
                target.strike(Blow.POSTGRES_KILLED)
        monkeypatch.delenv(VARIABLE)
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(address.port))
        monkeypatch.setenv("PGUSER", "postgres")
        with start("dsn", place, SETTINGS) as target:
            assert target.front == address
        with (
            pytest.raises(TargetError, match="PGPASSWORD"),
            dsn_target(f"host=127.0.0.1 password={address.password}"),
        ):
            pass
        (socket_directory,) = ask(address, "show unix_socket_directories")
        socket = f"host={socket_directory.strip(chr(34))}"
        with pytest.raises(TargetError, match="over TCP"), dsn_target(socket):
            pass
    with pytest.raises(TargetError, match="no server is reached"), start("dsn", place, SETTINGS):
        pass
