"""A storage node: its page store, its branches, and the doors to the outside.

    data_dir/lock, pages/, branches/, templates/    one process at a time; the store; what is here
    run_dir/                                        redo engines, and where they read WAL: a cache

A branch that has a cut here is kept and served. One that has none yet is copied from another node,
or restored from the object store, again and again until that succeeds; others do not notice.

Ending is in order: nothing new is taken, engines end, what is being read ends, then the store.
"""

import asyncio
import fcntl
import os
import random
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from fabric.addresses import Address, parse_address
from fabric.ids import BranchName, Role
from fabric.lsn import Lsn
from fabric.rpc_errors import BadRequestError, BusyError
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, client_context, server_context
from log_service.client import LogClient
from log_service.replication_admission import Admission, Applicant
from log_service.replication_server import ReplicationServer, postgres_socket
from log_service.replication_source import Gate, WalSource
from sqlnode.postgres_settings import SOCKET_PORT
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

from .branch_host import BranchHost, HostContext, Restore
from .branch_records import BranchRecord, BranchRecords
from .client import StorageClient
from .first_cut import FirstCut, first_cut, make_template, new_system_identifier
from .handlers import PageHandlers
from .keeper import KeeperContext
from .methods import LEASE_S_MAX
from .node_settings import StorageSettings
from .page_service import BranchReport, PageService
from .redo_engine import EngineSettings
from .rocks_store import RocksStore
from .threads import in_thread
from .upkeep import Upkeep

log = structlog.get_logger()

BRANCHES_MAX: Final = 1_000
NONCE_BYTES: Final = 32
PINS_RENEWED_S: Final = 600.0  # computes renew their pins more often than that
assert PINS_RENEWED_S < LEASE_S_MAX


class NodeError(Exception):
    """The node cannot run here: the sentence says why."""


class StorageNode:
    """One process's worth of storage."""

    def __init__(
        self,
        settings: StorageSettings,
        *,
        binaries: ServerBinaries,
        identity: Identity,
        rng: random.Random,
        restore: Restore | None = None,
    ) -> None:
        self.settings = settings
        self.hosts: dict[BranchName, BranchHost] = {}
        self.rpc_address: Address | None = None
        self.rpc = RpcServer(cluster=settings.cluster)
        self._binaries = binaries
        self._identity = identity
        self._rng = rng
        self._restore = restore
        self._data_dir = Path(settings.data_dir)
        self._run_dir = Path(settings.run_dir)
        self._founding = asyncio.Lock()
        files = settings.tls
        self._server_tls = None if files is None else server_context(files)
        self._client_tls = None if files is None else client_context(files)
        self._lock = -1

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, listen, and keep every branch that is here."""
        settings = self.settings
        self._take_lock()
        self._records = BranchRecords(self._data_dir / "branches")
        self.store = await in_thread(RocksStore, self._data_dir / "pages")
        self.service = PageService(self.store)
        self._log_client = LogClient(settings.log_nodes, rng=self._rng, tls=self._tls(Role.LOG))
        await self._serve_wal()
        self._context = HostContext(
            keeper=self._keeper_context(),
            service=self.service,
            rng=self._rng,
            client_of=self._client_of,
            restore=self._restore,
        )
        for record in self._records.all():
            self._host(record)
        self._upkeep = Upkeep(
            self.store,
            self.service,
            settings.retention,
            kept=self._kept,
            quiet_until_s=time.monotonic() + PINS_RENEWED_S,
        )
        PageHandlers(self.service, node=settings.name, reports=self.reports).serve(self.rpc)
        self.rpc_address = await self.rpc.listen(
            parse_address(settings.rpc_listen), self._server_tls
        )

    async def close(self) -> None:
        """Leave nothing behind but what is on disk."""
        await self._upkeep.close()
        await self.service.close()
        await self.rpc.close()
        for host in self.hosts.values():
            await host.close()
        await self._wal_server.close()
        await self._log_client.close()
        self.store.close()
        os.close(self._lock)

    def _take_lock(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise NodeError(f"another process runs on {self._data_dir}: stop it first") from None

    async def _serve_wal(self) -> None:
        """Make the run directory anew: what engines of an earlier process left is of no use."""
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        await in_thread(_empty, self._run_dir)
        self._wal_server = ReplicationServer(
            source_of=self._source_of,
            gate_of=self._gate_of,
            admission=Admission(trusts_local=True),
        )
        await self._wal_server.listen(postgres_socket(self._run_dir, SOCKET_PORT))

    # --- Branches -----------------------------------------------------------------------------

    async def found(self, branch: BranchName) -> BranchRecord:
        """Make a new cluster, unless the branch is here already; return its record."""
        async with self._founding:
            known = self._records.find(branch)
            if known is not None:
                if known.genesis is None:
                    raise BadRequestError(
                        f"branch {branch} is here already, and was not founded here: "
                        "choose another name"
                    )
                return known
            self._verify_room()
            first = await in_thread(self._first_cut)
            # The record comes last: without it the branch is not here, and a cut that is left over
            # from an attempt before is thrown away.
            self.store.remove_branch(branch)
            await in_thread(self.store.publish, branch, first.new, first.read_pages)
            record = BranchRecord(branch=branch, genesis=first.genesis, first_wal=first.wal)
            self._records.save(record)
            self._host(record)
            return record

    def adopt(self, branch: BranchName, sources: Sequence[str]) -> None:
        """Keep a branch that others have."""
        if branch in self.hosts:
            return
        self._verify_room()
        record = BranchRecord(branch=branch, sources=tuple(sources))
        self._records.save(record)
        self._host(record)

    async def forget(self, branch: BranchName) -> None:
        """Delete all that is here of a branch."""
        host = self.hosts.pop(branch, None)
        if host is not None:
            await host.close()
        self._records.remove(branch)
        self.service.removed(branch)
        await in_thread(self.store.remove_branch, branch)

    def reports(self) -> list[BranchReport]:
        """Say how every branch is."""
        return [host.report() for host in self.hosts.values()]

    def _host(self, record: BranchRecord) -> None:
        self.hosts[record.branch] = BranchHost(record, self._context)

    def _verify_room(self) -> None:
        if len(self.hosts) >= BRANCHES_MAX:
            raise BusyError(f"this node has {BRANCHES_MAX} branches already: use another one")

    def _first_cut(self) -> FirstCut:
        template = make_template(
            self._binaries, self._data_dir / "templates", identity=self._identity
        )
        now_s = time.time()
        return first_cut(
            template,
            system_identifier=new_system_identifier(now_s),
            nonce=secrets.token_bytes(NONCE_BYTES),
            taken_at_s=now_s,
        )

    def _kept(self, branch: BranchName) -> Sequence[Lsn]:
        host = self.hosts.get(branch)
        return [] if host is None else host.kept()

    # --- What branches need -------------------------------------------------------------------

    def _keeper_context(self) -> KeeperContext:
        settings = self.settings
        return KeeperContext(
            node=settings.name,
            store=self.store,
            client=self._log_client,
            binaries=self._binaries,
            identity=self._identity,
            run_dir=self._run_dir,
            wal_conninfo=self._wal_conninfo,
            settings=EngineSettings(shared_buffers=settings.engine_shared_buffers),
            published=self.service.published,
            idle_stop_s=settings.engine_idle_stop_s,
        )

    def _wal_conninfo(self, branch: BranchName) -> str:
        user = f"{self.settings.cluster}.{branch}"
        return f"host={self._run_dir} port={SOCKET_PORT} user={user} application_name=redo"

    def _source_of(self, group: str) -> WalSource | None:
        host = self._host_of(group)
        return None if host is None else host.wal

    def _gate_of(self, applicant: Applicant) -> Gate:
        host = self._host_of(applicant.group)
        gate = None if host is None else host.gate
        return gate or Gate(None)

    def _host_of(self, group: str) -> BranchHost | None:
        cluster, _, branch = group.partition(".")
        if cluster != self.settings.cluster:
            return None
        return self.hosts.get(BranchName(branch))

    def _client_of(self, addresses: Sequence[str]) -> StorageClient:
        return StorageClient(addresses, rng=self._rng, tls=self._tls(Role.STORAGE))

    def _tls(self, role: Role) -> ClientTls | None:
        if self._client_tls is None:
            return None
        return ClientTls(self._client_tls, self.settings.cluster, role)


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
