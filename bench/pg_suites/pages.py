"""Whether storage has exactly the pages of a stock standby, after everything that was done.

    access = read_access(cluster.directory)
    origin = write_origin(access, place)              # before: any cut, as a data directory
    ...
    await page_differences(...)                       # [] if every block of every node is the same

The standby is a PostgreSQL without anything of ours. It begins with the early cut, replays all WAL
since from the log, and stops exactly where storage has cut. There it makes a restartpoint.
"""

import asyncio
import random
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from bench.pagefault.workspace import Workspace, connected, one_value
from bench.storage.control import write_cut
from bench.storage.page_equality import directory_differences
from bench.storage.stock import standby_of
from bench.storage.world import EMPTY_DIRECTORIES, until
from fabric.ids import BranchName, ClusterName, Role
from fabric.lsn import Lsn
from fabric.tls import ClientTls, TlsFiles, client_context
from sqlnode.directory_source import describe_directory
from sqlnode.postgres import Postgres
from storage.client import StorageClient
from storage.cut import Cut

from .running import PRIMARY_SETTINGS

CUT_DEADLINE_S: Final = 300.0
REPLAY_DEADLINE_S: Final = 900.0
WATCH_MS: Final = 2_000
COMMON_CUT_TRIES: Final = 20
PAUSE_STATE: Final = "select pg_get_wal_replay_pause_state()"


class PagesError(Exception):
    """Storage and a standby could not be compared; the text says why."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of a compute's own settings: where WAL and pages are, and who it is."""

    cluster: str
    branch: str
    wal_servers: tuple[str, ...]
    storage_nodes: tuple[str, ...]
    standby_password_file: str
    tls: TlsFiles

    def client(self, address: str) -> StorageClient:
        """A client of one storage node."""
        tls = ClientTls(client_context(self.tls), ClusterName(self.cluster), Role.STORAGE)
        rng = random.Random(secrets.randbits(32))  # noqa: S311  # spreads reconnections
        return StorageClient([address], rng=rng, tls=tls)

    def standby_conninfo(self) -> str:
        """Where a stock standby streams from: any log node. A password needs no quotes."""
        servers = [server.rpartition(":") for server in self.wal_servers]
        password = Path(self.standby_password_file).read_text(encoding="ascii").strip()
        return (
            f"host={','.join(host for host, _, _ in servers)}"
            f" port={','.join(port for _, _, port in servers)}"
            f" user={self.cluster}.{self.branch} application_name=stock sslmode=disable"
            f" password={password}"
        )


def read_access(cluster: Path, compute: str) -> Access:
    """Read the settings file of a compute of a local cluster."""
    text = (cluster / "nodes" / compute / "node.toml").read_text(encoding="utf-8")
    return msgspec.toml.decode(text, type=Access)


async def write_origin(access: Access, place: Workspace) -> Path:
    """Write the newest cut as a data directory that a standby can start from."""
    origin = place.new_directory("origin") / "data"
    async with access.client(access.storage_nodes[0]) as client:
        await write_cut(client, BranchName(access.branch), origin)
    for name in EMPTY_DIRECTORIES:
        (origin / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    place.identity.give_tree(origin)
    return origin


async def page_differences(
    access: Access, dsn: str, origin: Path, place: Workspace, *, kept: Path
) -> tuple[int, list[str]]:
    """Compare every storage node's pages with a stock standby's; how many, and what differs.

    The files that differ are copied to `kept`, both of them.
    """
    lsn = await _common_cut(access, dsn)
    copies = {}
    for address in access.storage_nodes:
        copies[address] = place.new_directory("cut") / "data"
        async with access.client(address) as client:
            await write_cut(client, BranchName(access.branch), copies[address], lsn)
    with psycopg.connect(dsn) as session:  # it stops before a record that has to be there
        session.execute("select pg_logical_emit_message(true, 'pg_suites', 'behind the cut')")
    return await asyncio.to_thread(
        _compare, access, origin, place, lsn=lsn, copies=copies, kept=kept
    )


def _compare(
    access: Access,
    origin: Path,
    place: Workspace,
    *,
    lsn: Lsn,
    copies: dict[str, Path],
    kept: Path,
) -> tuple[int, list[str]]:
    stops = {
        "recovery_target_lsn": str(lsn),
        "recovery_target_inclusive": "off",  # the record that begins there is not replayed
        "recovery_target_action": "pause",
        **PRIMARY_SETTINGS,  # a standby may not have less
    }
    with standby_of(place, origin, access.standby_conninfo(), **stops) as standby:
        standby.start_blocking()
        _rest_at(standby, lsn)
        found = []
        for number, (address, copy) in enumerate(copies.items(), 1):
            differences = directory_differences(copy, standby.data_dir)
            found += [f"{address} {difference}" for difference in differences]
            for path in sorted({difference.partition(": ")[0] for difference in differences}):
                _keep(copy / path, kept / f"storage-{number}" / path)
                _keep(standby.data_dir / path, kept / "stock" / path)
        blocks = _blocks(copies.values())
    return blocks, found


def _keep(file: Path, kept: Path) -> None:
    if file.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, kept)


def _rest_at(standby: Postgres, lsn: Lsn) -> None:
    """Wait until a standby has stopped; have all that it has replayed in its files."""
    with connected(standby) as session:
        until(
            lambda: one_value(session, PAUSE_STATE) == "paused",
            f"a stop at {lsn} on {standby}",
            deadline_s=REPLAY_DEADLINE_S,
        )
        session.execute("checkpoint")
    if (at := standby.control().checkpoint) >= lsn:
        raise PagesError(f"the standby rests at {at}, which is behind the cut at {lsn}")


async def _common_cut(access: Access, dsn: str) -> Lsn:
    """Have all storage nodes cut at the same place; where that is."""
    for _ in range(COMMON_CUT_TRIES):
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("checkpoint")
            row = session.execute("select checkpoint_lsn::text from pg_control_checkpoint()")
            (begin,) = row.fetchone() or ("0/0",)
        found = [await _cut_behind(access, one, Lsn.parse(begin)) for one in access.storage_nodes]
        if len({cut.lsn for cut in found}) == 1:
            return found[0].lsn
    raise PagesError("the storage nodes never had their newest cut at the same place")


async def _cut_behind(access: Access, address: str, lsn: Lsn) -> Cut:
    async with access.client(address) as client:
        try:
            async with asyncio.timeout(CUT_DEADLINE_S):
                while True:
                    cut = await client.watch(BranchName(access.branch), after=lsn, wait_ms=WATCH_MS)
                    if cut is not None:
                        return cut
        except TimeoutError as error:
            raise PagesError(f"{address} has no cut behind {lsn}") from error


def _blocks(directories: Iterable[Path]) -> int:
    """How many blocks were compared."""
    return sum(file.blocks for one in directories for file in describe_directory(one).files)
