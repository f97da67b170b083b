"""The client of the log: finds the leader of a branch, and asks it.

    async with LogClient(addresses, rng=rng, tls=tls) as client:
        await client.create_branch(BranchName("main"), genesis, nodes)
        granted = await client.grant_epoch(branch, holder)
        topology = await client.topology(branch)

`addresses` are some log nodes; the others are learned from what they say. A call that needs the
leader is tried until its time is up: a node that does not lead says so, and the next one is asked.
A call whose connection broke is tried again too: each of them is harmless to repeat, except
`grant_epoch`, for which `after` makes sure that it happens once.
"""

import asyncio
import random
import secrets
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from fabric.addresses import parse_address
from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer, Method, Q, R
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import DeadlineError, RetryError, RpcError, UnreachableError
from fabric.tls import ClientTls

from .methods import (
    ADD_MEMBER,
    BEGIN_LOG,
    DROP_REPLICA,
    FOUND_GROUP,
    GRANT_EPOCH,
    JOIN_GROUP,
    READ_HISTORY,
    READ_WAL,
    REMOVE_MEMBER,
    SET_PIN,
    STATUS,
    TRANSFER_LEAD,
    WATCH_TOPOLOGY,
    AddMember,
    BeginLog,
    DropReplica,
    FoundGroup,
    Granted,
    GrantEpoch,
    JoinGroup,
    NodeStatus,
    Nothing,
    ReadHistory,
    ReadWal,
    RemoveMember,
    SetPin,
    Topology,
    TransferLead,
    Wal,
    WatchTopology,
)
from .record_bodies import Genesis, Holder, MemberInfo

TIMEOUT_MS_DEFAULT: Final = 10_000
CHANGE_TIMEOUT_MS: Final = 120_000  # a new member has to catch up
PAUSE_MS: Final = 20
ONE_CALL_MS: Final = 2_000
MEMBER_BITS: Final = 63

T = TypeVar("T", bound=msgspec.Struct)


class NodeAddress(msgspec.Struct, frozen=True):
    """A log node that is to get a replica."""

    node: NodeName
    rpc: str
    pg: str = ""


class LogClient:
    """Calls to the log nodes of one cluster."""

    def __init__(
        self, addresses: Iterable[str], *, rng: random.Random, tls: ClientTls | None = None
    ) -> None:
        self._addresses = list(dict.fromkeys(addresses))
        self._rng = rng
        self._tls = tls
        self._clients: dict[str, RpcClient] = {}
        self._leaders: dict[BranchName, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    # --- Branches and members -----------------------------------------------------------------

    async def create_branch(
        self,
        branch: BranchName,
        genesis: Genesis,
        nodes: Sequence[NodeAddress],
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        """Make a log on these nodes; going on with what an earlier attempt has begun is fine."""
        members = await self._members_begun(branch, nodes)
        if members is None:
            members = tuple(_new_member(node) for node in nodes)
        for info in members:
            found = FoundGroup(branch, info.member, members)
            await self.call_node(info.rpc, FOUND_GROUP, found, timeout_ms=timeout_ms)
        self._addresses = list(dict.fromkeys([*self._addresses, *(n.rpc for n in nodes)]))
        await self.call_leader(branch, BEGIN_LOG, BeginLog(branch, genesis), timeout_ms=timeout_ms)

    async def _members_begun(
        self, branch: BranchName, nodes: Sequence[NodeAddress]
    ) -> tuple[MemberInfo, ...] | None:
        for node in nodes:
            for group in (await self.node_status(node.rpc)).groups:
                if group.branch == branch and group.topology.members:
                    return group.topology.members
        return None

    async def add_member(
        self, branch: BranchName, node: NodeAddress, *, timeout_ms: int = CHANGE_TIMEOUT_MS
    ) -> MemberInfo:
        """Give the branch a replica on another node; done when it has caught up and votes."""
        info = _new_member(node)
        for group in (await self.node_status(node.rpc)).groups:
            if group.branch == branch:
                info = MemberInfo(group.member, node.node, node.rpc, node.pg)
        members = (await self.topology(branch)).members
        join = JoinGroup(branch, info.member, members)
        await self.call_node(node.rpc, JOIN_GROUP, join, timeout_ms=TIMEOUT_MS_DEFAULT)
        await self.call_leader(branch, ADD_MEMBER, AddMember(branch, info), timeout_ms=timeout_ms)
        return info

    async def remove_member(
        self, branch: BranchName, member: int, *, timeout_ms: int = CHANGE_TIMEOUT_MS
    ) -> None:
        """Take a replica out of the branch."""
        request = RemoveMember(branch, member)
        await self.call_leader(branch, REMOVE_MEMBER, request, timeout_ms=timeout_ms)

    async def drop_replica(self, address: str, branch: BranchName, member: int) -> None:
        """Delete what a removed replica left on its node."""
        await self.call_node(address, DROP_REPLICA, DropReplica(branch, member))

    async def transfer(
        self,
        branch: BranchName,
        to: NodeName | None = None,
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> None:
        """Hand the lead over."""
        request = TransferLead(branch, to)
        await self.call_leader(branch, TRANSFER_LEAD, request, timeout_ms=timeout_ms)

    # --- The epoch ----------------------------------------------------------------------------

    async def grant_epoch(
        self,
        branch: BranchName,
        holder: Holder | None,
        *,
        after: Epoch | None = None,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Granted:
        """Make `holder` the only one that can commit."""
        request = GrantEpoch(branch, holder, after)
        return (
            await self.call_leader(branch, GRANT_EPOCH, request, timeout_ms=timeout_ms)
        ).response

    async def set_pin(self, branch: BranchName, name: str, lsn: Lsn | None) -> None:
        """Keep WAL from `lsn` on; None: no longer."""
        await self.call_leader(branch, SET_PIN, SetPin(branch, name, lsn))

    # --- Reading ------------------------------------------------------------------------------

    async def topology(
        self, branch: BranchName, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> Topology:
        """Return who is who, as the leader says."""
        deadline = self._deadline(timeout_ms)
        while True:
            topology = await self._ask(await self._leader(branch, deadline), branch)
            if isinstance(topology, Topology) and topology.is_leading:
                return topology
            self._leaders.pop(branch, None)
            await self._pause(deadline, f"{branch} has no leader")

    async def watch_topology(self, branch: BranchName, known: str, *, wait_ms: int) -> Topology:
        """Return who is who once that is not `known` any more, or after `wait_ms`."""
        request = WatchTopology(branch, known, wait_ms)
        timeout_ms = wait_ms + TIMEOUT_MS_DEFAULT
        return await self._any(branch, request, self._deadline(timeout_ms))

    async def read_wal(
        self,
        branch: BranchName,
        *,
        tli: Tli,
        lsn: Lsn,
        bytes_max: int,
        wait_ms: int = 0,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Answer[Wal]:
        """Return committed WAL as the payload; none if there is none within `wait_ms`."""
        request = ReadWal(branch, tli, lsn, bytes_max, wait_ms)
        return await self._any_answer(
            branch, READ_WAL, request, self._deadline(timeout_ms + wait_ms)
        )

    async def read_history(self, branch: BranchName, tli: Tli) -> bytes:
        """Return the history file of a timeline."""
        deadline = self._deadline(TIMEOUT_MS_DEFAULT)
        answer = await self._any_answer(branch, READ_HISTORY, ReadHistory(branch, tli), deadline)
        return answer.response.content

    async def node_status(
        self, address: str, *, timeout_ms: int = TIMEOUT_MS_DEFAULT
    ) -> NodeStatus:
        """Return all that one node knows."""
        return (await self.call_node(address, STATUS, Nothing(), timeout_ms=timeout_ms)).response

    # --- Calls --------------------------------------------------------------------------------

    async def call_node(
        self, address: str, method: Method[Q, R], request: Q, *, timeout_ms: int = ONE_CALL_MS
    ) -> Answer[R]:
        """Call one node, and no other."""
        deadline = self._deadline(timeout_ms)
        while True:
            try:
                client = await self._client(address)
                left_ms = self._left_ms(deadline)
                return await client.call(method, request, timeout_ms=left_ms)
            except UnreachableError as error:
                await self._pause(deadline, str(error))

    async def call_leader(
        self,
        branch: BranchName,
        method: Method[Q, R],
        request: Q,
        *,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
    ) -> Answer[R]:
        """Call the leader of a branch, whoever that is until the time is up."""
        deadline = self._deadline(timeout_ms)
        reason = ""
        while True:
            address = await self._leader(branch, deadline)
            try:
                client = await self._client(address)
                return await client.call(method, request, timeout_ms=self._left_ms(deadline))
            except RetryError as error:
                reason = str(error)
                self._leaders.pop(branch, None)
                await self._pause(deadline, reason)
            except DeadlineError as error:
                raise _late(error, reason) from error

    async def _leader(self, branch: BranchName, deadline: float) -> str:
        address = self._leaders.get(branch)
        if address is not None:
            return address
        while True:
            reasons = []
            for address in list(self._addresses):
                topology = await self._ask(address, branch)
                if isinstance(topology, RpcError):
                    reasons.append(str(topology))
                    continue
                for info in topology.members:
                    if info.rpc not in self._addresses:
                        self._addresses.append(info.rpc)
                if topology.is_leading:
                    self._leaders[branch] = address
                    return address
                reasons.append(f"{topology.node} does not lead")
            await self._pause(deadline, f"nobody leads {branch} ({'; '.join(reasons)})")

    async def _ask(self, address: str, branch: BranchName) -> Topology | RpcError:
        try:
            client = await self._client(address)
            request = WatchTopology(branch)
            return (await client.call(WATCH_TOPOLOGY, request, timeout_ms=ONE_CALL_MS)).response
        except RpcError as error:
            return error

    async def _any(self, branch: BranchName, request: WatchTopology, deadline: float) -> Topology:
        return (await self._any_answer(branch, WATCH_TOPOLOGY, request, deadline)).response

    async def _any_answer(
        self, branch: BranchName, method: Method[Q, R], request: Q, deadline: float
    ) -> Answer[R]:
        """Ask the leader if it is known, else whoever answers."""
        reason = ""
        while True:
            known = self._leaders.get(branch)
            reasons = []
            for address in [known] if known else list(self._addresses):
                try:
                    client = await self._client(address)
                    return await client.call(method, request, timeout_ms=self._left_ms(deadline))
                except RetryError as error:
                    reasons.append(str(error))
                    self._leaders.pop(branch, None)
                except DeadlineError as error:
                    raise _late(error, "; ".join(reasons) or reason) from error
            reason = "; ".join(reasons)
            await self._pause(deadline, reason)

    async def _client(self, address: str) -> RpcClient:
        client = self._clients.get(address)
        if client is None:
            client = RpcClient(parse_address(address), rng=self._rng, tls=self._tls)
            self._clients[address] = client
            await client.__aenter__()
        return client

    def _deadline(self, timeout_ms: int) -> float:
        return asyncio.get_running_loop().time() + timeout_ms / 1000

    def _left_ms(self, deadline: float) -> int:
        return max(1, int((deadline - asyncio.get_running_loop().time()) * 1000))

    async def _pause(self, deadline: float, reason: str) -> None:
        if asyncio.get_running_loop().time() >= deadline:
            raise DeadlineError(f"time is up: {reason}")
        await asyncio.sleep(PAUSE_MS / 1000)


def _late(error: DeadlineError, reason: str) -> DeadlineError:
    """Return why time was up: for the last attempt there may have been hardly any left."""
    return DeadlineError(f"time is up: {reason}") if reason else error


def _new_member(node: NodeAddress) -> MemberInfo:
    member = secrets.randbits(MEMBER_BITS) or 1
    return MemberInfo(member, node.node, node.rpc, node.pg)
