"""What an operator does for a node that has lost its directory: today nothing does it by itself.

    await rebuilder.log("log-2")            # a new member of the branch takes the old one's place
    await rebuilder.storage("storage-1")    # adopts the branch from the other storage nodes

A compute needs none of it: its directory is a cache.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from bench.node_process import HOST
from fabric.addresses import parse_address
from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.tls import ClientTls, TlsFiles, client_context
from log_service.client import LogClient, NodeAddress
from storage.methods import STATUS, Nothing
from storage.node_methods import ADOPT_BRANCH, AdoptBranch

from .target import TargetError

DEADLINE_S: Final = 90.0
RETRY_S: Final = 0.25
CALL_MS: Final = 10_000
CATCH_UP_MS: Final = 60_000


class Rebuilder:
    """Calls to the nodes of one local cluster, as its owner."""

    def __init__(
        self,
        directory: Path,
        *,
        cluster: str,
        branch: str,
        log: Mapping[str, tuple[int, int]],
        storage: Mapping[str, int],
    ) -> None:
        authority = directory / "authority"
        files = TlsFiles(
            ca_file=str(authority / "ca.crt"),
            certificate_file=str(authority / "owner.crt"),
            key_file=str(authority / "owner.key"),
        )
        self._context = client_context(files)
        self._cluster = ClusterName(cluster)
        self._branch = BranchName(branch)
        self._log = {
            name: NodeAddress(NodeName(name), _address(rpc), _address(pg))
            for name, (rpc, pg) in log.items()
        }
        self._storage = {name: _address(port) for name, port in storage.items()}

    async def log(self, name: str) -> None:
        """Have a new member take the place of the one whose promises are lost."""

        async def once() -> None:
            tls = ClientTls(self._context, self._cluster, Role.LOG)
            others = [node.rpc for node in self._log.values() if node.node != name]
            async with LogClient(others, rng=_rng(), tls=tls) as client:
                groups = (await client.node_status(self._log[name].rpc)).groups
                has_begun = {one.member for one in groups if one.branch == self._branch}
                for member in (await client.topology(self._branch)).members:
                    # An attempt that failed half-way may have begun the new one already.
                    if member.node == name and member.member not in has_begun:
                        await client.remove_member(
                            self._branch, member.member, timeout_ms=CATCH_UP_MS
                        )
                await client.add_member(self._branch, self._log[name], timeout_ms=CATCH_UP_MS)

        await _until_done(once, f"a new member of the log on {name}")

    async def storage(self, name: str) -> None:
        """Have an empty storage node adopt the branch, and wait until it has a cut."""
        tls = ClientTls(self._context, self._cluster, Role.STORAGE)
        sources = tuple(address for other, address in self._storage.items() if other != name)

        async def once() -> None:
            address = parse_address(self._storage[name])
            async with RpcClient(address, rng=_rng(), tls=tls) as client:
                adopt = AdoptBranch(self._branch, sources)
                await client.call(ADOPT_BRANCH, adopt, timeout_ms=CALL_MS)
                answer = await client.call(STATUS, Nothing(), timeout_ms=CALL_MS)
                found = [one for one in answer.response.branches if one.branch == self._branch]
                if not found or found[0].newest is None:
                    raise TargetError(f"{name} has no cut yet")

        await _until_done(once, f"the branch on {name}")


async def _until_done(once: Callable[[], Awaitable[None]], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            await once()
        except (OSError, RpcError, TargetError) as error:
            if time.monotonic() > end_s:
                raise TargetError(
                    f"{what} was not made within {DEADLINE_S:g} s: {error}"
                ) from error
        else:
            return
        await asyncio.sleep(RETRY_S)


def _address(port: int) -> str:
    return f"tcp://{HOST}:{port}"


def _rng() -> random.Random:
    return random.Random(secrets.randbits(64))  # noqa: S311  # spreads reconnections, no secret
