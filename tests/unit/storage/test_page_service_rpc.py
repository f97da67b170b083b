"""The methods of a storage node over RPC: who may call them, what is refused, what is answered.

In scope: certificates, hostile requests, bounded memory on the way out, the end of long polls.
Out of scope: the choice of the cut (test_page_service), several nodes (test_storage_client).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs
from unit.fabric.certificates import Authority
from unit.fabric.rpc_world import in_loop, make_client, raw_peer
from unit.storage.memory_pages import MAIN, pages_of
from unit.storage.page_world import Node, client_of, storage_nodes

from fabric.addresses import parse_address
from fabric.frames import Kind
from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.lsn import Lsn
from fabric.rpc import Method
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import (
    BadRequestError,
    DeniedError,
    RetryError,
    RpcError,
    UnreachableError,
)
from fabric.tls import ClientTls, client_context
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BLOCK_BYTES
from storage.methods import (
    BLOCKS_MAX,
    DESCRIBE_CUT,
    LSN_FIRST,
    LSN_LAST,
    PIN_CUT,
    RANGES_MAX,
    READ_PAGES,
    STATUS,
    UNPIN_CUT,
    WATCH_CUTS,
    BranchStatus,
    CutSummary,
    DescribeCut,
    NodeStatus,
    Nothing,
    PinCut,
    RangeStatus,
    ReadPages,
    UnpinCut,
    WatchCuts,
    WireRange,
)
from storage.page_service import PageServiceSettings

EVERY_CALL: list[tuple[Method[Any, Any], msgspec.Struct]] = [
    (DESCRIBE_CUT, DescribeCut(MAIN)),
    (READ_PAGES, ReadPages(MAIN, Lsn(0), Lsn(100), (WireRange("base/5/1", 0, 1),))),
    (WATCH_CUTS, WatchCuts(MAIN, Lsn(0))),
    (PIN_CUT, PinCut(MAIN, "n1", Lsn(100), 60)),
    (UNPIN_CUT, UnpinCut(MAIN, "n1")),
    (STATUS, Nothing()),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("tls") / "ours")


@asynccontextmanager
async def calling(node: Node) -> AsyncIterator[RpcClient]:
    async with make_client(parse_address(node.address)) as client:
        yield client


@asynccontextmanager
async def calling_as(
    authority: Authority, who: str, *, server: str = "seawall://blue/storage/s1"
) -> AsyncIterator[RpcClient]:
    async with storage_nodes(tls=authority.issue(server)) as [node]:
        node.publish(100)
        context = client_context(authority.issue(who))
        tls = ClientTls(context, ClusterName("blue"), Role.STORAGE)
        async with make_client(parse_address(node.address), tls=tls) as client:
            yield client


# --- Who may call ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["compute", "storage", "admin", "operator"])
@in_loop
async def test_everything_is_offered_to_those_who_need_it(authority: Authority, role: str) -> None:
    async with calling_as(authority, f"seawall://blue/{role}/n1") as client:
        for method, request in EVERY_CALL:
            await client.call(method, request)


@pytest.mark.parametrize("role", ["gateway", "log"])
@in_loop
async def test_nothing_is_offered_to_others(authority: Authority, role: str) -> None:
    async with calling_as(authority, f"seawall://blue/{role}/n1") as client:
        for method, request in EVERY_CALL:
            with pytest.raises(DeniedError):
                await client.call(method, request)


@in_loop
async def test_another_clusters_certificate_opens_nothing(authority: Authority) -> None:
    async with calling_as(authority, "seawall://red/compute/n1") as client:
        for method, request in EVERY_CALL:
            with pytest.raises(UnreachableError, match="only cluster blue is served"):
                await client.call(method, request)


@in_loop
async def test_a_compute_keeps_and_lets_go_of_cuts_under_its_own_name_only(
    authority: Authority,
) -> None:
    async with calling_as(authority, "seawall://blue/compute/c1") as client:
        with pytest.raises(DeniedError, match="as c1 only, not as c2"):
            await client.call(PIN_CUT, PinCut(MAIN, "c2", Lsn(100), 60))
        with pytest.raises(DeniedError, match="as c1 only, not as c2"):
            await client.call(UNPIN_CUT, UnpinCut(MAIN, "c2"))


# --- Hostile requests -----------------------------------------------------------------------------


def read_of(*ranges: Any, branch: str = "main", first: Any = 0, last: Any = 100) -> Any:
    return [branch, first, last, list(ranges)]


HOSTILE: dict[str, tuple[Method[Any, Any], Any]] = {
    "too many ranges": (READ_PAGES, read_of(*[["base/5/1", 0, 1]] * (RANGES_MAX + 1))),
    "no ranges": (READ_PAGES, read_of()),
    "too many blocks": (READ_PAGES, read_of(["base/5/1", 0, BLOCKS_MAX], ["base/5/1", 0, 1])),
    "a huge range": (READ_PAGES, read_of(["base/5/1", 0, BLOCKS_MAX + 1])),
    "no blocks": (READ_PAGES, read_of(["base/5/1", 0, 0])),
    "negative blocks": (READ_PAGES, read_of(["base/5/1", 0, -1])),
    "a negative block": (READ_PAGES, read_of(["base/5/1", -1, 1])),
    "a huge block": (READ_PAGES, read_of(["base/5/1", 2**63, 1])),
    "beyond a segment": (READ_PAGES, read_of(["base/5/1", 131071, 2])),
    "a path outside": (READ_PAGES, read_of(["../../etc/passwd", 0, 1])),
    "an absolute path": (READ_PAGES, read_of(["/etc/passwd", 0, 1])),
    "a path with a detour": (READ_PAGES, read_of(["base/5/../5/1", 0, 1])),
    "a path of WAL": (READ_PAGES, read_of(["pg_wal/000000010000000000000001", 0, 1])),
    "a long path": (READ_PAGES, read_of(["base/5/" + "1" * 50_000, 0, 1])),
    "a number for a path": (READ_PAGES, read_of([5, 0, 1])),
    "a branch with a path": (READ_PAGES, read_of(["base/5/1", 0, 1], branch="../main")),
    "a negative Lsn": (READ_PAGES, read_of(["base/5/1", 0, 1], first=-1)),
    "a range upside down": (READ_PAGES, read_of(["base/5/1", 0, 1], first=101)),
    "a skeleton upside down": (DESCRIBE_CUT, {"branch": "main", "first": 101, "last": 100}),
    "a negative offset": (DESCRIBE_CUT, {"branch": "main", "offset": -1}),
    "an endless wait": (WATCH_CUTS, {"branch": "main", "after": 0, "wait_ms": 10**9}),
    "an endless lease": (
        PIN_CUT,
        {"branch": "main", "holder": "c1", "lsn": 100, "lease_s": 10**9},
    ),
    "an endless name": (
        PIN_CUT,
        {"branch": "main", "holder": "c" * 1000, "lsn": 100, "lease_s": 60},
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
@in_loop
async def test_hostile_requests_are_refused_and_cost_nothing(name: str) -> None:
    method, request = HOSTILE[name]
    async with storage_nodes() as [node], calling(node) as client:
        node.publish(100)
        with pytest.raises(BadRequestError):
            await client.call(method, request)
        assert node.store.reads == []
        assert node.service.budget.used_bytes == 0
        assert node.service.pinned(MAIN) == {}


@in_loop
async def test_an_unknown_branch_is_another_nodes() -> None:
    async with storage_nodes() as [node], calling(node) as client:
        dev = BranchName("dev")
        requests: list[tuple[Method[Any, Any], msgspec.Struct]] = [
            (DESCRIBE_CUT, DescribeCut(dev)),
            (READ_PAGES, ReadPages(dev, Lsn(0), Lsn(1), (WireRange("base/5/1", 0, 1),))),
            (WATCH_CUTS, WatchCuts(dev, Lsn(0), 60_000)),
            (PIN_CUT, PinCut(dev, "c1", Lsn(0), 60)),
        ]
        for method, request in requests:
            with pytest.raises(RetryError, match="ask another one"):
                await client.call(method, request)


@in_loop
async def test_a_path_of_ten_megabytes_ends_its_own_connection_and_no_other() -> None:
    async with storage_nodes() as [node], calling(node) as bystander:
        node.publish(100)
        async with raw_peer(parse_address(node.address)) as peer:
            request: Any = read_of(["base/5/" + "1" * 10_000_000, 0, 1])
            peer.request(1, READ_PAGES.name, request)
            assert (await peer.frame()).kind is Kind.GOODBYE
            await peer.closed()
        good = ReadPages(MAIN, Lsn(0), Lsn(100), (WireRange("base/5/1", 0, 1),))
        answer = await bystander.call(READ_PAGES, good)
        assert answer.response.statuses == (RangeStatus.OK,)
        assert node.service.budget.used_bytes == 0


# --- Answers --------------------------------------------------------------------------------------


@in_loop
async def test_each_range_has_its_own_status_and_the_payload_those_that_are_ok() -> None:
    ranges = [
        WireRange("base/5/1", 0, 2),
        WireRange("base/5/404", 0, 1),
        WireRange("base/5/1", 7, 3),
        WireRange("pg_xact/0000", 1, 2),
    ]
    async with storage_nodes() as [node], calling(node) as client:
        node.publish(100, 200, 300)
        node.store.damaged.add(("base/5/1", 8))
        with capture_logs() as logs:
            answer = await client.call(
                READ_PAGES, ReadPages(MAIN, Lsn(100), Lsn(299), tuple(ranges))
            )
        assert answer.response.lsn == 200
        ok, gone, damaged = RangeStatus.OK, RangeStatus.GONE, RangeStatus.DAMAGED
        assert answer.response.statuses == (ok, gone, damaged, ok)
        pages = pages_of(PageRange(*ranges[0]), 200) + pages_of(PageRange(*ranges[3]), 200)
        assert answer.payload == pages
        assert node.service.budget.used_bytes == 0  # it has been sent
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
            "storage.page_damaged"
        ]


@in_loop
async def test_the_largest_request_is_answered() -> None:
    async with storage_nodes() as [node], calling(node) as client:
        node.publish(100)
        ranges = tuple(WireRange("base/5/1", 0, 1) for _ in range(RANGES_MAX))
        answer = await client.call(READ_PAGES, ReadPages(MAIN, Lsn(0), Lsn(100), ranges))
        assert answer.payload == pages_of(PageRange("base/5/1", 0, 1), 100) * RANGES_MAX


@in_loop
async def test_status_says_what_the_node_and_the_service_know() -> None:
    async with storage_nodes() as [node], client_of(node) as client:
        node.publish(100, 200)
        node.service.pin(MAIN, "c1", Lsn(200), lease_s=60)
        node.service.pin(MAIN, "c2", Lsn(100), lease_s=60)
        assert await client.status(node.address) == NodeStatus(
            NodeName("s1"),
            (
                BranchStatus(
                    branch=MAIN,
                    state="running",
                    cuts=2,
                    oldest=CutSummary(1, Lsn(100), 999.0),
                    newest=CutSummary(2, Lsn(200), 998.0),
                    lag_bytes=7,
                    lag_s=None,
                    complaint="slow",
                    size_bytes=0,
                    pins=2,
                    oldest_pin=Lsn(100),
                ),
            ),
        )
        node.reports.clear()
        assert (await client.status(node.address)).branches == ()


# --- Limits ---------------------------------------------------------------------------------------


@in_loop
async def test_a_peer_that_does_not_read_has_its_share_and_no_more_until_it_has_gone() -> None:
    settings = PageServiceSettings(bytes_under_way_max=4 * BLOCKS_MAX * BLOCK_BYTES)
    async with storage_nodes(settings=settings) as [node], calling(node) as bystander:
        node.publish(100)
        budget, part = node.service.budget, WireRange("base/5/1", 0, 256)
        wanted = ReadPages(MAIN, Lsn(0), Lsn(100), (part,) * 4)
        async with raw_peer(parse_address(node.address)) as lazy:  # it never reads
            for call_id in range(1, 21):
                lazy.request(call_id, READ_PAGES.name, wanted)
            one = ReadPages(MAIN, Lsn(0), Lsn(100), (WireRange("base/5/1", 0, 1),))
            used_bytes_max = 0
            for _ in range(50):
                await bystander.call(READ_PAGES, one)  # never busy: half is not the lazy one's
                used_bytes_max = max(used_bytes_max, budget.used_bytes)
            assert budget.used_bytes > 0  # what waits to be sent
            assert used_bytes_max <= settings.bytes_under_way_max
        while budget.used_bytes:  # as soon as the node has seen that the peer is gone
            await bystander.call(STATUS, Nothing())
        answer = await bystander.call(READ_PAGES, wanted)
        assert len(answer.payload) == BLOCKS_MAX * BLOCK_BYTES


@in_loop
async def test_long_polls_end_when_the_service_closes() -> None:
    async with storage_nodes() as [node], calling(node) as client:
        node.publish(100)
        poll = client.call(WATCH_CUTS, WatchCuts(MAIN, Lsn(100), 60_000), timeout_ms=70_000)
        watching = asyncio.create_task(poll)
        while not node.service._watchers:  # that it has begun shows nowhere else
            await client.call(STATUS, Nothing())
        await node.service.close()
        with pytest.raises(RpcError, match="shutting down"):
            await watching


@in_loop
async def test_a_poll_that_nobody_waits_for_is_forgotten() -> None:
    async with storage_nodes() as [node], calling(node) as bystander:
        node.publish(100)
        async with calling(node) as client:
            poll = client.call(WATCH_CUTS, WatchCuts(MAIN, Lsn(100), 60_000))
            watching = asyncio.create_task(poll)
            while not node.service._watchers:  # as above
                await bystander.call(STATUS, Nothing())
            watching.cancel()
            await asyncio.wait([watching])
        while node.service._watchers:  # as above
            await bystander.call(STATUS, Nothing())


@in_loop
async def test_a_large_skeleton_comes_in_parts() -> None:
    async with storage_nodes() as [node], calling(node) as client:
        node.publish(100)
        first = (await client.call(DESCRIBE_CUT, DescribeCut(MAIN))).response
        behind = DescribeCut(MAIN, LSN_FIRST, LSN_LAST, first.bytes_total)
        answer = await client.call(DESCRIBE_CUT, behind)
        assert answer.response == first
        assert answer.payload == b""
        assert node.service.budget.used_bytes == 0
