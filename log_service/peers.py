"""Raft's messages between nodes: one connection to each, shared by all groups.

Messages out go by the RPC client of the member's address; messages in come by the channel. A
message that cannot be sent now is dropped: Raft says it again. What breaks is told to the groups,
so that they need not wait for a timeout: a leader's node that is gone is noticed by its
connections, both the one that it made to us and ours to it.

Every connection to a node of another cluster, or without a log node's certificate, has been refused
before anything gets here (fabric.rpc_server).
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from fabric.addresses import parse_address
from fabric.rpc import Peer, ReceivedPayload, RpcSettings
from fabric.rpc_client import RpcClient
from fabric.tls import ClientTls
from raft.messages import Append, Message

from .group import Group
from .raft_codec import Introduction, Rest, decode_header, decode_message, encode_message
from .record_bodies import MemberInfo

log = structlog.get_logger()

RAFT_CHANNEL: Final = 1

# Appends that wait in our memory because the peer does not read; it bounds what a stuck peer costs.
LINK_SETTINGS: Final = RpcSettings(
    write_buffer_bytes_max=4 * 1024 * 1024,
    backoff_base_ms=20,
    backoff_cap_ms=500,
)


class Groups(Protocol):
    """The groups of a node."""

    def by_name(self, name: bytes, /) -> Group | None:
        """Return a group that has a replica here."""

    def all(self) -> list[Group]:
        """Return every group here."""

    def take_rest(self, group: Group, message: Rest) -> None:
        """Follow a leader that goes to rest."""


class PeerLinks:
    """The connections of one node to all others."""

    def __init__(
        self,
        groups: Groups,
        *,
        rng: random.Random,
        tls: ClientTls | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self._groups = groups
        self._rng = rng
        self._tls = tls
        self._overrides = overrides or {}
        self._clients: dict[str, RpcClient] = {}  # by address
        self._opening: set[asyncio.Task[RpcClient]] = set()
        self._members_of: dict[int, set[int]] = {}  # by number of the connection they came on
        self._introduced: dict[str, set[tuple[int, int]]] = {}  # by address, while connected
        self._dropped = 0

    # --- Out ----------------------------------------------------------------------------------

    def open(self, group: Group) -> None:
        """Connect to all members: a first message that has to wait for that is a lost vote."""
        for info in group.members:
            if info.member != group.raft.me:
                self.client(self.address_of(info))

    def send(self, group: Group, message: Message | Rest) -> None:
        """Post a message to the node of the member it is for, or drop it."""
        info = group.member_info(message.to)
        if info is None:
            return
        # The address as `address_of` has it. No cache: members and addresses may change, and asking
        # two dictionaries costs less than to keep it right.
        address = self._overrides.get(info.node, info.rpc)
        client = self._clients.get(address)
        if client is None:
            client = self.client(address)
        if (message.sender, message.to) not in self._introduced[address]:
            self._introduce(group, message.to, address)
        header, payload = encode_message(message, group.name_bytes, group.record_of)
        if not client.post(RAFT_CHANNEL, header, payload) and isinstance(message, Append):
            self._dropped += 1
            # Told later, because the core is in the middle of something now.
            asyncio.get_running_loop().call_soon(group.append_dropped, message.to)

    def _introduce(self, group: Group, to: int, address: str) -> None:
        """Say where we are reached, once a connection: who was away may not know us."""
        me = group.member_info(group.raft.me)
        if me is None:
            return
        introduction = Introduction(me.member, to, me)
        header, payload = encode_message(introduction, group.name_bytes, group.record_of)
        if self._clients[address].post(RAFT_CHANNEL, header, payload):
            self._introduced[address].add((me.member, to))

    def address_of(self, info: MemberInfo) -> str:
        """Return where this node reaches a member: an override, or what the member says."""
        return self._overrides.get(info.node, info.rpc)

    def client(self, address: str) -> RpcClient:
        """Return the connection to a node, also for calls."""
        client = self._clients.get(address)
        if client is None:
            self._introduced[address] = set()
            client = self._clients[address] = RpcClient(
                parse_address(address),
                rng=self._rng,
                tls=self._tls,
                settings=LINK_SETTINGS,
                on_change=self._changed(address),
            )
            task = asyncio.get_running_loop().create_task(client.__aenter__())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return client

    async def close(self) -> None:
        """End all connections."""
        if self._opening:
            await asyncio.wait(self._opening)
        for client in self._clients.values():
            await client.close()

    def _changed(self, address: str) -> Callable[[bool], None]:
        def changed(is_connected: bool) -> None:
            if is_connected:
                return
            self._introduced[address].clear()
            for group in self._groups.all():
                for info in group.members:
                    if self.address_of(info) == address:
                        _unreachable(group, info.member)

        return changed

    # --- In -----------------------------------------------------------------------------------

    def received(
        self, peer: Peer, connection_number: int, header: bytes, payload: ReceivedPayload
    ) -> None:
        """Take a message from a node."""
        del peer
        name, kind, numbers = decode_header(header)
        group = self._groups.by_name(name)
        if group is None:
            return  # removed here, or not joined yet: whoever says so will stop, or say it again
        message = decode_message(kind, numbers, payload)
        if message.to != group.raft.me:
            return  # for one that had this place before
        self._members_of.setdefault(connection_number, set()).add(message.sender)
        if isinstance(message, Rest):
            self._groups.take_rest(group, message)
        elif isinstance(message, Introduction):
            group.meet((message.info,))
        else:
            group.step(message)

    def lost(self, connection_number: int) -> None:
        """Tell the groups whose members spoke on a connection."""
        members = self._members_of.pop(connection_number, set())
        for group in self._groups.all():
            for member in members & group.raft.config.members:
                _unreachable(group, member)


def _unreachable(group: Group, member: int) -> None:
    if group.raft.leader == member:
        group.leader_unreachable()
    else:
        group.peer_unreachable(member)
