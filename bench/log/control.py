"""Ask log nodes, each by itself, from code that blocks.

    with log_control(nodes, branch="main") as control:
        control.create_group(data_dir, "18.4")
        control.grant_epoch(holder="p", server=primary)
        control.status("log-1")

The connections live in a thread with an event loop of its own, because a node that hears nothing
from a client for a while takes it for dead. What needs the leader is asked of whoever says it
leads, again and again until a deadline; a status is asked of one node, which may well be stopped or
cut off.
"""

import asyncio
import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from fabric.addresses import parse_address
from fabric.ids import BranchName, NodeName, SystemIdentifier
from fabric.lsn import Lsn
from fabric.rpc import Method
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import DeadlineError, RetryError, RpcError
from log_service.methods import (
    ADD_MEMBER,
    BEGIN_LOG,
    FOUND_GROUP,
    GRANT_EPOCH,
    JOIN_GROUP,
    REMOVE_MEMBER,
    SET_PIN,
    STATUS,
    TRANSFER_LEAD,
    AddMember,
    BeginLog,
    FoundGroup,
    GrantEpoch,
    GroupStatus,
    JoinGroup,
    Nothing,
    RemoveMember,
    SetPin,
    TransferLead,
)
from log_service.record_bodies import Genesis, Holder, MemberInfo
from sqlnode.control_file import read_control_file
from sqlnode.postgres import Postgres

from .nodes import LogNode

STATUS_TIMEOUT_MS: Final = 500  # takes 1 ms; a stopped node must not hold up who looks for a leader
CALL_TIMEOUT_MS: Final = 10_000
DEADLINE_S: Final = 30.0
RETRY_PAUSE_S: Final = 0.02
MEMBER_BITS: Final = 63

T = TypeVar("T")
Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class ClusterError(Exception):
    """The nodes did not get where they should in time; the text says what they said last."""


class LogControl:
    """Calls to the nodes of one group."""

    def __init__(self, nodes: Mapping[str, LogNode], branch: str) -> None:
        self._nodes = nodes
        self._branch = BranchName(branch)
        self._members: dict[str, MemberInfo] = {}
        self._clients: dict[str, RpcClient] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log control")
        self._thread.start()

    # Questions.

    def status(self, node: str) -> GroupStatus | None:
        """What a node says of the group; None if it does not answer, or has no replica of it."""
        try:
            found = self._call(node, STATUS, Nothing(), timeout_ms=STATUS_TIMEOUT_MS)
        except RpcError:
            return None
        return next((group for group in found.groups if group.branch == self._branch), None)

    def leader(self) -> str | None:
        """Who leads and serves; of several that say so, the one of the newest term."""
        running = [name for name, node in self._nodes.items() if node.running]
        found = {name: status for name in running if (status := self.status(name))}
        leading = [(s.topology.term, name) for name, s in found.items() if s.topology.is_leading]
        return max(leading)[1] if leading else None

    # Orders.

    def create_group(self, data_dir: Path, server_version: str) -> None:
        """Make a group of all nodes, for the WAL of a data directory that was shut down cleanly."""
        self.begin(genesis_of(data_dir, server_version))

    def begin(self, genesis: Genesis, first_wal: bytes = b"") -> None:
        """Make a group of all nodes, for the WAL that a genesis names; it may begin with some."""
        self._members = {name: self._member_info(node) for name, node in self._nodes.items()}
        members = tuple(self._members.values())
        for name, info in self._members.items():
            self._ask_node(name, FOUND_GROUP, FoundGroup(self._branch, info.member, members))
        self._ask_leader(BEGIN_LOG, BeginLog(self._branch, genesis, first_wal))

    def grant_epoch(self, *, holder: str, server: Postgres) -> Lsn:
        """Make a server the one source of WAL; where its WAL begins."""
        socket = server.run_dir / f".s.PGSQL.{server.port}"
        request = GrantEpoch(self._branch, Holder(NodeName(holder), f"unix://{socket}"))
        return self._ask_leader(GRANT_EPOCH, request).end

    def unpin(self, name: str) -> None:
        """Let the log trim what somebody has kept."""
        self._ask_leader(SET_PIN, SetPin(self._branch, name, None))

    def transfer(self, to: str) -> None:
        """Have a node lead."""
        self._ask_leader(TRANSFER_LEAD, TransferLead(self._branch, NodeName(to)))

    def replace(self, name: str) -> None:
        """Give a node whose replica is lost a new one: a new member, in place of the old."""
        gone, new = self._members[name], self._member_info(self._nodes[name])
        self._ask_leader(REMOVE_MEMBER, RemoveMember(self._branch, gone.member))
        others = tuple(info for info in self._members.values() if info != gone)
        self._ask_node(name, JOIN_GROUP, JoinGroup(self._branch, new.member, others))
        self._ask_leader(ADD_MEMBER, AddMember(self._branch, new))
        self._members[name] = new

    # The thread.

    def close(self) -> None:
        """End the connections and the thread."""
        try:
            for client in self._clients.values():
                self._run(client.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _ask_leader(self, method: Method[Q, R], request: Q) -> R:
        return self._ask(self.leader, method, request)

    def _ask_node(self, node: str, method: Method[Q, R], request: Q) -> R:
        """A node that has just been started again may still count as unreachable."""
        return self._ask(lambda: node, method, request)

    def _ask(self, whom: Callable[[], str | None], method: Method[Q, R], request: Q) -> R:
        end_s = time.monotonic() + DEADLINE_S
        reason = "nobody leads"
        while time.monotonic() < end_s:
            node = whom()
            if node is not None:
                try:
                    return self._call(node, method, request)
                except (DeadlineError, RetryError) as error:
                    reason = str(error)
            time.sleep(RETRY_PAUSE_S)
        raise ClusterError(f"{method.name} was not answered within {DEADLINE_S:g} s: {reason}")

    def _call(
        self, node: str, method: Method[Q, R], request: Q, *, timeout_ms: int = CALL_TIMEOUT_MS
    ) -> R:
        async def call() -> R:
            client = self._clients.get(node)
            if client is None:
                address = parse_address(self._nodes[node].spec.rpc_address)
                rng = random.Random(secrets.randbits(32))  # noqa: S311  # spreads reconnections
                client = self._clients[node] = RpcClient(address, rng=rng)
                await client.__aenter__()
            return (await client.call(method, request, timeout_ms=timeout_ms)).response

        return self._run(call())

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _member_info(self, node: LogNode) -> MemberInfo:
        return MemberInfo(
            member=1 + secrets.randbelow(2**MEMBER_BITS - 1),
            node=NodeName(node.name),
            rpc=node.spec.rpc_address,
            pg=node.spec.pg_address,
        )


def genesis_of(data_dir: Path, server_version: str) -> Genesis:
    """Whose WAL it is, from the segment on that a copy of the directory needs to start."""
    control = read_control_file(data_dir)
    return Genesis(
        system_identifier=SystemIdentifier(control.system_identifier),
        tli=control.tli,
        start=control.redo.segment_start(control.wal_segment_bytes),
        segment_bytes=control.wal_segment_bytes,
        server_version=server_version,
    )


@contextlib.contextmanager
def log_control(nodes: Mapping[str, LogNode], *, branch: str) -> Iterator[LogControl]:
    """Connections that end."""
    control = LogControl(nodes, branch)
    try:
        yield control
    finally:
        control.close()
