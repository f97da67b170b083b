"""How calls find their node: the connections to the log nodes, and who leads.

`client.py` says what is asked; here is whom, and how often. A call that needs the leader is tried
until its time is up: a node that does not lead says so, and the next one is asked. A report alone
is tried once, because the next one is about to come anyway: at the leader that is known, and when
that is none any more, of all nodes at once.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Final, Self

from fabric.addresses import parse_address
from fabric.ids import BranchName
from fabric.rpc import Answer, Method, Q, R
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import CallError, DeadlineError, RetryError, RpcError, UnreachableError
from fabric.tls import ClientTls

from .compute_methods import REPORT, ComputeReport, Orders
from .methods import WATCH_TOPOLOGY, Topology, WatchTopology

TIMEOUT_MS_DEFAULT: Final = 10_000
PAUSE_MS: Final = 20
ONE_CALL_MS: Final = 2_000
HANGING_MS: Final = 100


class LogCalls:
    """The connections to the log nodes of one cluster."""

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        rng: random.Random,
        tls: ClientTls | None = None,
        lend: Callable[[str], Awaitable[RpcClient]] | None = None,
    ) -> None:
        """`lend`: gives the connection to an address, if the caller has connections of its own, or
        knows better than DNS where a node is reached. Whoever lends them closes them.
        """
        self._lend = lend
        self._addresses = list(dict.fromkeys(addresses))
        self._rng = rng
        self._tls = tls
        self._clients: dict[str, RpcClient] = {}
        self._leaders: dict[BranchName, str] = {}
        self._terms: dict[BranchName, int] = {}  # the newest that anybody gave orders in

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

    async def report_once(self, report: ComputeReport, timeout_ms: int) -> Orders:
        """Report to the leader that is known; if it does not answer as one, to everybody else."""
        branch = report.branch
        deadline = self._deadline(timeout_ms)
        known = self._leaders.get(branch)
        failure: RpcError | None = None
        if known is not None:
            try:
                return await self._report_to(known, report, deadline)
            except DeadlineError:
                self._leaders.pop(branch, None)
                raise
            except RpcError as error:
                self._leaders.pop(branch, None)
                if not isinstance(error, RetryError):
                    raise
                failure = error
        others = [address for address in self._addresses if address != known]
        tasks = {asyncio.create_task(self._report_to(o, report, deadline)) for o in others}
        try:
            return await self._first_orders(tasks, failure)
        finally:
            for task in tasks:
                task.cancel()

    async def _first_orders(
        self, pending: set[asyncio.Task[Orders]], failure: RpcError | None
    ) -> Orders:
        """Return what a leader among them says; one that hangs holds nobody up who says no."""
        while pending:
            timeout_s = None if failure is None else HANGING_MS / 1000
            done, pending = await asyncio.wait(
                pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for error in [task.exception() for task in done]:
                if isinstance(error, RpcError):
                    failure = error
                elif error is not None:
                    raise error
            for task in done:
                if task.exception() is None:
                    return task.result()
        if isinstance(failure, CallError):  # to repeat it would not help
            raise failure
        raise RetryError(f"no leader took the report: {failure or 'no log node is known'}")

    async def _report_to(self, address: str, report: ComputeReport, deadline: float) -> Orders:
        client = await self._client(address)
        call = client.call(REPORT, report, timeout_ms=self._left_ms(deadline))
        orders = (await call).response
        newest = self._terms.get(report.branch, 0)
        if orders.term < newest:
            raise RetryError(f"{orders.node} led in term {orders.term}, by now it is {newest}")
        self._terms[report.branch], self._leaders[report.branch] = orders.term, address
        return orders

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
                self._learn(topology)
                if topology.is_leading:
                    self._leaders[branch] = address
                    return address
                reasons.append(f"{topology.node} does not lead")
            await self._pause(deadline, f"nobody leads {branch} ({'; '.join(reasons)})")

    def _learn(self, topology: Topology) -> None:
        for info in topology.members:
            if info.rpc not in self._addresses:
                self._addresses.append(info.rpc)

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
        if self._lend is not None:
            return await self._lend(address)
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
