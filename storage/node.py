"""A storage node: its page store, its branches, and the doors to the outside.

    data_dir/lock, pages/, branches/, templates/    one process at a time; the store; what is here
    run_dir/lock, ...                               redo engines, and where they read WAL: a cache

A branch that has a cut here is kept and served. One that has none yet is copied from another node,
or restored from the object store, again and again until that succeeds; others do not notice. When
the store was damaged and is made anew (`healing`), `is_outdated` is set: whoever runs the node
closes it, and starts another one in its place.

Ending is in order: nothing new is taken, engines end, what is being read ends, then the store.
"""

import asyncio
import dataclasses
import random
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from fabric.addresses import Address, parse_address
from fabric.ids import BranchName, Role
from fabric.lsn import Lsn
from fabric.metrics import MetricsServer
from fabric.rpc_errors import BadRequestError, BusyError, RpcError
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, client_context, server_context
from log_service.client import LogClient
from log_service.replication_admission import Admission, Applicant
from log_service.replication_server import ReplicationServer, postgres_socket
from log_service.replication_source import Gate, WalSource
from object_store.interface import ObjectStore, ObjectStoreError
from sqlnode.postgres_settings import SOCKET_PORT
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

from .branch_host import BranchHost, HostContext
from .branch_records import BranchRecord, BranchRecords
from .client import StorageClient
from .cut import Cut
from .first_cut import FirstCut, first_cut, make_template, new_system_identifier
from .handlers import PageHandlers
from .healing import Healer, HealerContext, open_store
from .keeper import KeeperContext
from .methods import LEASE_S_MAX
from .node_directories import DirectoryLocks, empty
from .node_metrics import registry_of
from .node_settings import StorageSettings
from .page_service import BranchReport, PageService
from .page_store import PageStore
from .redo_engine import EngineSettings, end_orphans
from .restore import RestoreProgress, restore_best
from .seeding import CutSources, SeedError
from .snapshot_format import SnapshotError, SnapshotLayout
from .snapshot_task import SnapshotTask
from .threads import in_thread
from .upkeep import Upkeep

log = structlog.get_logger()

BRANCHES_MAX: Final = 1_000
NONCE_BYTES: Final = 32
PIN_TIMEOUT_S: Final = 5.0
PINS_RENEWED_S: Final = 600.0  # computes renew their pins more often than that
assert PINS_RENEWED_S < LEASE_S_MAX


class StorageNode:
    """One process's worth of storage."""

    def __init__(
        self,
        settings: StorageSettings,
        *,
        binaries: ServerBinaries,
        identity: Identity,
        rng: random.Random,
        objects: ObjectStore | None = None,
    ) -> None:
        self.settings = settings
        self.hosts: dict[BranchName, BranchHost] = {}
        self.rpc_address: Address | None = None
        self.rpc = RpcServer(cluster=settings.cluster)
        self._binaries = binaries
        self._identity = identity
        self._rng = rng
        self._objects = objects
        self._data_dir = Path(settings.data_dir)
        self._run_dir = Path(settings.run_dir)
        self._changing = asyncio.Lock()  # which branches are here
        self._metrics: MetricsServer | None = None
        self._is_closing = False
        files = settings.tls
        self._server_tls = None if files is None else server_context(files)
        self._client_tls = None if files is None else client_context(files)
        self.is_outdated = asyncio.Event()

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, listen, and keep every branch that is here.

        Branches come last: what can be refused is refused before there is an engine.
        """
        settings = self.settings
        self._locks = DirectoryLocks(self._data_dir, self._run_dir)
        self._peers = [str(parse_address(address)) for address in settings.storage_nodes]
        self._records = BranchRecords(self._data_dir / "branches")
        self.store = await in_thread(open_store, self._data_dir)
        self.service = PageService(self.store)
        self._log_client = LogClient(settings.log_nodes, rng=self._rng, tls=self._tls(Role.LOG))
        await self._serve_wal()
        sources = CutSources(
            node=settings.name,
            client_of=self._client_of,
            restore=None if self._objects is None else self._restore,
            chosen=self._chosen,
        )
        self._context = HostContext(
            keeper=self._keeper_context(),
            service=self.service,
            rng=self._rng,
            sources=sources,
            peers=self._peers_of,
            snapshots=None if self._objects is None else self._snapshots_of,
        )
        self._healer = Healer(self._healer_context(sources))
        records = list(self._records.all())
        handlers = PageHandlers(self.service, node=settings.name, reports=self.reports)
        handlers.serve(self.rpc)
        self.rpc_address = await self.rpc.listen(
            parse_address(settings.rpc_listen), self._server_tls
        )
        if settings.metrics is not None:
            registry = registry_of(self.hosts, self.store, handlers.counters)
            self._metrics = MetricsServer(
                registry,
                problem=self.problem,
                readiness=self.unreadiness,
                settings=settings.metrics,
            )
            await self._metrics.start()
        for record in records:
            if record.branch not in self.hosts:  # somebody may have been quick
                self._host(record)
        self._upkeep = Upkeep(
            self.store,
            self.service,
            settings.retention,
            kept=self._kept,
            quiet_until_s=time.monotonic() + PINS_RENEWED_S,
        )

    async def close(self) -> None:
        """Leave nothing behind but what is on disk."""
        self._is_closing = True
        if self._metrics is not None:
            await self._metrics.close()
        await self._healer.close()
        await self._upkeep.close()
        # Side by side, since each may have to wait for its engine; and before the service, whose
        # threads engines read with.
        async with asyncio.TaskGroup() as closing:
            for host in self.hosts.values():
                closing.create_task(host.close())
        await self.service.close()
        await self.rpc.close()
        await self._wal_server.close()
        await self._log_client.close()
        self.store.close()
        self._locks.release()

    async def _serve_wal(self) -> None:
        """Make the run directory anew: what engines of an earlier process left is of no use."""
        if orphans := await in_thread(end_orphans, self._run_dir):
            log.warning("engines of an earlier process ended", count=orphans)
        await in_thread(empty, self._run_dir)
        self._wal_server = ReplicationServer(
            source_of=self._source_of,
            gate_of=self._gate_of,
            admission=Admission(trusts_local=True),
        )
        await self._wal_server.listen(postgres_socket(self._run_dir, SOCKET_PORT))

    # --- Branches -----------------------------------------------------------------------------

    async def found(self, branch: BranchName) -> BranchRecord:
        """Make a new cluster, unless the branch is here already; return its record."""
        async with self._changing:
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
        """Keep a branch that others have; what is missing here is got from the nodes named last."""
        for source in sources:
            try:
                parse_address(source)
            except ValueError as error:
                raise BadRequestError(f"no storage node can be at {source!r}: {error}") from error
        record = BranchRecord(branch=branch, sources=tuple(sources))
        host = self.hosts.get(branch)
        if host is not None:
            if self.store.cuts(branch):
                sources = record.sources or host.record.sources
                record = msgspec.structs.replace(host.record, sources=sources)
            self._records.save(record)
            host.look_elsewhere(record)
            return
        self._verify_room()
        if self._records.find(branch) is None:
            # What is here was left by a founding or a forgetting that was interrupted.
            self.store.remove_branch(branch)
        self._records.save(record)
        self._host(record)

    async def forget(self, branch: BranchName) -> None:
        """Delete all that is here of a branch."""
        async with self._changing:
            self._verify_steady()
            host = self.hosts.pop(branch, None)
            if host is not None:
                await host.close()
            self._records.remove(branch)
            self.service.removed(branch)
            await in_thread(self.store.remove_branch, branch)
            if host is not None:
                await self._pin_wal(branch, None)

    def problem(self) -> str | None:
        """Say which branches get no further, for a probe; None if all is well."""
        found = [f"{host.branch}: {host.problem}" for host in self.hosts.values() if host.problem]
        if self._healer.complaint:
            found.append(self._healer.complaint)
        return "; ".join(found) or None

    def unreadiness(self) -> str | None:
        """Say why others should be asked, for a probe; None if pages are served.

        A branch that gets no further is no reason: what it has is served all the same.
        """
        return "it makes its damaged page store anew" if self._healer.is_rebuilding else None

    def reports(self) -> list[BranchReport]:
        """Say how every branch is."""
        sizes = self.store.branch_sizes()
        complaint = self._healer.complaint
        found = []
        for host in self.hosts.values():
            report = host.report()
            complaints = [text for text in (complaint, report.complaint) if text]
            found.append(
                dataclasses.replace(
                    report,
                    state="healing" if self._healer.is_rebuilding else report.state,
                    complaint="; ".join(complaints),
                    size_bytes=sizes.get(host.branch, 0),
                )
            )
        return found

    def _host(self, record: BranchRecord) -> None:
        self.hosts[record.branch] = BranchHost(record, self._context)

    def _verify_steady(self) -> None:
        if self._is_closing:
            raise BusyError("the node is shutting down: ask another one")
        if self._healer.is_rebuilding:
            raise BusyError("the node makes its damaged page store anew: ask again later")

    def _verify_room(self) -> None:
        self._verify_steady()
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

    def _kept(self, branch: BranchName) -> Sequence[Lsn] | None:
        host = self.hosts.get(branch)
        return () if host is None else host.kept()

    # --- The object store ---------------------------------------------------------------------

    def _snapshots_of(self, branch: BranchName) -> SnapshotTask:
        assert self._objects is not None, "the caller looked"
        return SnapshotTask(
            self.store,
            self._objects,
            SnapshotLayout(cluster=self.settings.cluster, branch=branch),
            node=self.settings.name,
            every_s=self.settings.snapshot_every_s,
        )

    def _restore(self, branch: BranchName, store: PageStore) -> Cut:
        assert self._objects is not None, "the caller looked"
        layout = SnapshotLayout(cluster=self.settings.cluster, branch=branch)
        try:
            restored = restore_best(
                self._objects, layout, store, branch, progress=self._restored, on_top=True
            )
        except (ObjectStoreError, SnapshotError) as error:
            raise SeedError(f"{branch} cannot be restored now: {error}") from error
        log.info("branch restored", branch=branch, lsn=str(restored.cut.lsn))
        return restored.cut

    def _restored(self, progress: RestoreProgress) -> None:
        if self._is_closing:
            raise SeedError(f"restoring was given up at {progress.pages} pages: the node ends")

    # --- What branches need -------------------------------------------------------------------

    def _healer_context(self, sources: CutSources) -> HealerContext:
        return HealerContext(
            data_dir=self._data_dir,
            store=self.store,
            hosts=self.hosts,
            sources=sources,
            client=self._log_client,
            own_address=lambda: str(self.rpc_address),
            rebuilt=self.is_outdated.set,
        )

    def _peers_of(self, record: BranchRecord) -> Sequence[str]:
        """Return who else may have a branch: those it was adopted from, then all others."""
        own = str(self.rpc_address)
        return [one for one in dict.fromkeys((*record.sources, *self._peers)) if one != own]

    async def _chosen(self, branch: BranchName, cut: Cut) -> None:
        await self._pin_wal(branch, cut.redo)

    async def _pin_wal(self, branch: BranchName, lsn: Lsn | None) -> None:
        """Keep WAL in the log while there is no keeper to do so; None: no longer."""
        try:
            async with asyncio.timeout(PIN_TIMEOUT_S):
                await self._log_client.set_pin(branch, f"storage.{self.settings.name}", lsn)
        except (RpcError, TimeoutError) as error:
            log.warning("pin of wal is not moved", branch=branch, reason=str(error))

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
