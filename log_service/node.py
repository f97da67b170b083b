"""A log node: its groups, one clock for all that are awake, and the doors to the outside.

    data_dir/lock                      one process at a time
    data_dir/groups/<branch>/          the replica of a branch (group_log.py)

Groups that have nothing to do rest: no timer looks at them, no message is sent for them. A node
with a thousand idle branches costs what a node with none does.

Ending is in order: hand the lead of every group to somebody who is up to date, then let standbys go
elsewhere, then finish what is being written.
"""

import asyncio
import fcntl
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from fabric.addresses import Address, parse_address
from fabric.ids import BranchName, Role
from fabric.metrics import MetricsServer
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import BadRequestError, RetryError
from fabric.rpc_server import RpcServer
from fabric.tls import ClientTls, client_context, server_context
from object_store.interface import ObjectStore
from pgwire.scram import ScramVerifier
from raft.errors import RaftError
from raft.types import Role as RaftRole

from .branch import Branch, encode_branch
from .disk_errors import LogError
from .disk_settings import DiskSettings
from .disk_writer import DiskWriter
from .group import Group
from .group_host import GroupHost, HostContext
from .group_log import GroupLog
from .group_time import CALM_AFTER_TICKS, HEARTBEAT_TICKS
from .log_state import LogStart
from .node_metrics import registry_of
from .node_settings import NodeSettings
from .peers import RAFT_CHANNEL, PeerLinks
from .raft_codec import Rest
from .record_bodies import MemberInfo
from .replication_admission import Admission
from .replication_server import ReplicationServer
from .replication_source import WalSource

log = structlog.get_logger()

HAND_OVER_MS: Final = 2_000
GROUPS_MAX: Final = 10_000
STORE_THREADS: Final = 4  # uploads, and reads of what is in no log any more


class NodeError(Exception):
    """The node cannot run here: the sentence says why."""


class LogNode:
    """One process's worth of log."""

    def __init__(
        self, settings: NodeSettings, *, store: ObjectStore | None, rng: random.Random
    ) -> None:
        self.settings = settings
        self.hosts: dict[BranchName, GroupHost] = {}
        self.rpc_address: Address | None = None
        self.pg_address: Address | None = None
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._rng = rng
        self._by_name: dict[bytes, Group] = {}
        # Which group has this name? The dictionary's own method: it is asked for every message.
        self.by_name = self._by_name.get
        self._awake: dict[Group, GroupHost] = {}
        self._host_of: dict[Group, GroupHost] = {}
        self._groups_dir = Path(settings.data_dir) / "groups"
        self._lock = -1
        self._writer = DiskWriter(fast_us_max=settings.group.fast_sync_us)
        self._store_threads = DiskWriter(threads=STORE_THREADS)
        files = settings.tls
        self._server_tls = None if files is None else server_context(files)
        self._links = PeerLinks(
            self, rng=rng, tls=self._client_tls(Role.LOG), overrides=settings.peer_addresses
        )
        self._context = HostContext(
            cluster=settings.cluster,
            node=settings.name,
            store=store,
            store_threads=self._store_threads,
            primary_password=settings.primary_password,
            primary_tls=self._client_tls(Role.COMPUTE),
        )
        self.rpc = RpcServer(cluster=settings.cluster)
        self.rpc.add_channel(RAFT_CHANNEL, self._links, roles={Role.LOG})
        password = settings.standby_password
        self._verifier = None if password is None else ScramVerifier.make(password, os.urandom)
        self._verifiers: dict[str, ScramVerifier] = {}
        admission = Admission(
            trusts_local=settings.trusts_local and password is None,
            verifiers=self._verifiers,
            mock_secret=os.urandom(32),
        )
        self.replication = ReplicationServer(source_of=self._source_of, admission=admission)
        self._ticker: asyncio.TimerHandle | None = None
        self._stride = 1  # ticks until it wakes us (group_time.py)
        self._is_closing = False
        self._is_serving = False
        self._metrics: MetricsServer | None = None

    # --- Life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open every log that is here, listen, and let time pass."""
        self._take_lock()
        await self._serve_metrics()  # first: to recover may take longer than a probe waits
        for directory in sorted(self._groups_dir.iterdir()):
            branch = BranchName(directory.name)
            disk = await self._writer.run(lambda d=directory: GroupLog.open(d, self._disk()))  # type: ignore[misc]  # mypy does not infer a lambda with a default
            self._host(branch, disk)
        settings = self.settings
        self.rpc_address = await self.rpc.listen(
            parse_address(settings.rpc_listen), self._server_tls
        )
        if settings.pg_listen is not None:
            self.pg_address = await self.replication.listen(
                parse_address(settings.pg_listen), self._server_tls
            )
        self._is_serving = True
        self._tick()

    async def close(self) -> None:
        """Leave so that nobody notices; then nothing of us is left."""
        self._is_closing = True
        if self._metrics is not None:
            await self._metrics.close()
        await self._hand_over()
        await self.replication.close()
        if self._ticker is not None:
            self._ticker.cancel()
        for host in self.hosts.values():
            await host.close()
        await self.rpc.close()
        await self._links.close()
        self._writer.close()
        self._store_threads.close()
        os.close(self._lock)

    async def _hand_over(self) -> None:
        """Hand the lead of every group to the member that has most of its log."""
        leading = [host.group for host in self.hosts.values() if _can_hand_over(host.group)]
        for group in leading:
            with suppress(RaftError):
                group.transfer(group.best_successor())
        deadline = asyncio.get_running_loop().time() + HAND_OVER_MS / 1000
        while any(group.raft.role is RaftRole.LEADER for group in leading):
            if asyncio.get_running_loop().time() > deadline:
                log.warning("lead not handed over in time")
                return
            await asyncio.sleep(self.settings.group.tick_ms / 1000)

    # --- Probes -------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Say why only a restart can help, for a probe; None if that is not so.

        Neither a missing leader nor a full disk is a reason: a restart would make them worse.
        """
        return f"the disk failed: {self.failure.result()}" if self.failure.done() else None

    def unreadiness(self) -> str | None:
        """Say why this node does not do its part, for a probe; None if it does.

        Whether there is a leader is not this node's part: in a partition it goes on serving.
        """
        if not self._is_serving:
            return f"it opens its logs: {len(self.hosts)} so far"
        full = [host.branch for host in self.hosts.values() if host.group.is_disk_full]
        return f"the disk is full: {full[0]} cannot be written" if full else self.problem()

    async def _serve_metrics(self) -> None:
        settings = self.settings.metrics
        if settings is None:
            return
        self._metrics = MetricsServer(
            registry_of(self), problem=self.problem, readiness=self.unreadiness, settings=settings
        )
        port = await self._metrics.start()
        log.info("metrics are served", host=settings.host, port=port)

    def _take_lock(self) -> None:
        self._groups_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(
            self._groups_dir.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise NodeError(f"another process runs on {self.settings.data_dir}") from None

    # --- Groups -------------------------------------------------------------------------------

    async def found(self, branch: BranchName, member: int, members: tuple[MemberInfo, ...]) -> None:
        """Make a replica: with the founders as members, or none for one that is to join."""
        host = self.hosts.get(branch)
        if host is not None:
            if host.group.raft.me != member:
                raise BadRequestError(
                    f"branch {branch} has a replica here that is member {host.group.raft.me}: "
                    "remove that first"
                )
            host.group.meet(members)
            return
        if len(self.hosts) >= GROUPS_MAX:
            raise RetryError(f"this node has {GROUPS_MAX} branches already: use another one")
        state = encode_branch(Branch(members=members))
        start = LogStart(index=0, term=0, state=state)
        directory = self._groups_dir / branch
        try:
            disk = await self._writer.run(
                lambda: GroupLog.create(directory, self._disk(), member=member, snapshot=start)
            )
        except LogError as error:
            raise RetryError(str(error)) from error
        if branch in self.hosts:  # another call was faster
            disk.close()
            return
        self._host(branch, disk)

    async def drop(self, branch: BranchName, member: int) -> None:
        """Delete a replica; the caller has made sure that it is no member any more."""
        host = self.hosts.get(branch)
        if host is None:
            return
        if host.group.raft.me != member:
            raise BadRequestError(f"the replica of {branch} here is not member {member}")
        del self.hosts[branch]
        group = host.group
        self._by_name.pop(group.name_bytes, None)
        self._verifiers.pop(group.name, None)
        self._host_of.pop(group, None)
        self._awake.pop(group, None)
        self.replication.disconnect(group.name)
        await host.close()
        await self._writer.run(lambda: shutil.rmtree(self._groups_dir / branch))

    def all(self) -> list[Group]:
        """Return every group here."""
        return list(self._by_name.values())

    def take_rest(self, group: Group, message: Rest) -> None:
        """Follow a leader that goes to rest."""
        if group.take_rest(message):
            self._awake.pop(group, None)

    def is_resting(self, group: Group) -> bool:
        """Whether no timer looks at a group."""
        return group not in self._awake

    def client_of(self, info: MemberInfo) -> RpcClient:
        """Return the connection to a member's node, for calls."""
        return self._links.client(self._links.address_of(info))

    def _host(self, branch: BranchName, disk: GroupLog) -> None:
        name = f"{self.settings.cluster}.{branch}"
        group = Group(
            name,
            disk,
            writer=self._writer,
            links=self._links,
            settings=self.settings.group,
            rng=random.Random(self._rng.getrandbits(64)),  # noqa: S311  # spreads elections, no secret
            wake=self._wake,
            fatal=self._failed,
        )
        host = GroupHost(group, branch, self._context)
        self.hosts[branch] = host
        self._by_name[group.name_bytes] = group
        self._host_of[group] = host
        self._awake[group] = host
        self._links.open(group)
        host.watch(lambda: self._links.open(group))
        if self._verifier is not None:
            self._verifiers[name] = self._verifier
        if disk.recovery.torn_bytes:
            log.warning("torn tail cut", group=name, torn_bytes=disk.recovery.torn_bytes)
        if group.raft.config.voters == {group.raft.me}:
            group.raft.campaign()  # nobody to wait for
            group.flush()

    def _wake(self, group: Group) -> None:
        if group not in self._awake:
            host = self._host_of.get(group)
            if host is not None:
                self._awake[group] = host
        if self._stride > 1 and not _is_calm(group) and self._ticker is not None:
            self._ticker.cancel()  # somebody may be lost
            self._tick_after(1)

    def _tick_after(self, ticks: int) -> None:
        self._stride = ticks
        wait_s = ticks * self.settings.group.tick_ms / 1000
        self._ticker = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        count = self._stride
        is_calm = all(map(_is_calm, self._awake))
        self._tick_after(HEARTBEAT_TICKS if is_calm else 1)
        for group, host in list(self._awake.items()):
            host.elector.tick()
            group.tick(count)
            if group.rest_if_idle(is_needed=host.is_needed):
                self._awake.pop(group, None)

    def _failed(self, error: BaseException) -> None:
        log.critical("log node must end", reason=str(error), kind=type(error).__name__)
        if not self.failure.done():
            self.failure.set_result(error)

    def _source_of(self, name: str) -> WalSource | None:
        group = self._by_name.get(name.encode())
        if group is None or group.committed.genesis is None:
            return None
        return self._host_of[group].wal

    # --- Settings -----------------------------------------------------------------------------

    def _disk(self) -> DiskSettings:
        return DiskSettings(segment_bytes=self.settings.group.segment_bytes)

    def _client_tls(self, role: Role) -> ClientTls | None:
        files = self.settings.tls
        if files is None:
            return None
        return ClientTls(client_context(files), self.settings.cluster, role)


def _can_hand_over(group: Group) -> bool:
    return group.raft.role is RaftRole.LEADER and len(group.raft.config.voters) > 1


def _is_calm(group: Group) -> bool:
    """Whether there is a leader, and for a while nothing but heartbeats."""
    return group.quiet_ticks > CALM_AFTER_TICKS and bool(group.raft.leader)
