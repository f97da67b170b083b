"""The store as the redo engine's page source: newer cuts, dropped ones, damage and healing.

Out of scope: what every source promises (test_page_service_contract).
"""

import pytest
from structlog.testing import capture_logs
from unit.fabric.rpc_world import in_loop
from unit.storage.memory_pages import MAIN, lsn_of, make_cut, page_of
from unit.storage.page_world import client_of, storage_nodes

from sqlnode.page_source import DamagedPageError, PageRange, SourceError
from storage.page_store import StoreBrokenError
from storage.store_source import StoreSource, peer_pages

ONE = PageRange("base/5/1", 0, 1)
TWO = PageRange("base/5/2", 1, 1)


@in_loop
async def test_pages_are_those_of_the_cut_until_it_moves() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        newer = node.publish(200)
        [before] = await source.read([ONE])
        source.move_to(newer)
        [after] = await source.read([ONE])
        assert (before, after) == (page_of("base/5/1", 0, 100), page_of("base/5/1", 0, 200))
        assert source.cut == newer


@in_loop
async def test_the_source_never_goes_back() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        with pytest.raises(ValueError, match="cannot go back"):
            source.move_to(make_cut(1, 50))


@in_loop
async def test_a_dropped_cut_is_an_error_that_says_what_to_do() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        node.publish(200)
        node.drop(1)
        [failed] = await source.read([ONE])
        assert isinstance(failed, SourceError)
        assert "move to a newer one" in str(failed)
        with pytest.raises(SourceError, match="cannot be described"):
            await source.describe()


@in_loop
async def test_a_cut_that_is_dropped_while_it_is_read_gives_way_to_the_newer_one() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        newer = node.publish(200)
        real = node.store.read

        def read_late(*args: object) -> object:
            source.move_to(newer)
            node.store.contents_of.pop((MAIN, make_cut(1, 100).seq), None)
            return real(*args)  # type: ignore[arg-type]  # whatever the pool gave

        node.store.read = read_late  # type: ignore[assignment,method-assign]  # the race itself
        [page] = await source.read([ONE])
        assert not isinstance(page, SourceError)
        assert lsn_of(page) == 200


@in_loop
async def test_damage_is_named_as_damage_and_spoils_no_other_range() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        node.store.damaged.add(("base/5/1", 0))
        damaged, sound = await source.read([ONE, TWO])
        assert isinstance(damaged, DamagedPageError)
        assert sound == page_of("base/5/2", 1, 100)
        assert (source.counters.damaged, source.counters.healed) == (1, 0)


@in_loop
async def test_damage_is_healed_from_another_node() -> None:
    async with storage_nodes(2) as [node, other], client_of(other) as client:
        cut = node.publish(100)
        other.publish(100)
        elsewhere = peer_pages(client, MAIN)
        source = StoreSource(node.service.pool, MAIN, cut, fallback=elsewhere)
        node.store.damaged.add(("base/5/1", 0))
        with capture_logs() as logs:
            pages = await source.read([ONE, TWO])
        assert list(pages) == [page_of("base/5/1", 0, 100), page_of("base/5/2", 1, 100)]
        assert (source.counters.damaged, source.counters.healed) == (1, 1)
        assert other.store.reads == [[ONE]]
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == [
            "storage.page_healed"
        ]
        await source.close()


@in_loop
async def test_what_is_damaged_everywhere_stays_damage() -> None:
    async with storage_nodes(2) as [node, other], client_of(other) as client:
        cut = node.publish(100)
        other.publish(100)
        source = StoreSource(node.service.pool, MAIN, cut, fallback=peer_pages(client, MAIN))
        node.store.damaged.add(("base/5/1", 0))
        other.store.damaged.add(("base/5/1", 0))
        with capture_logs():
            [failed] = await source.read([ONE])
        assert isinstance(failed, DamagedPageError)
        assert "and elsewhere" in str(failed)


@in_loop
async def test_a_broken_store_is_an_error_for_each_range() -> None:
    async with storage_nodes() as [node]:
        source = StoreSource(node.service.pool, MAIN, node.publish(100))
        node.store.error = StoreBrokenError("the disk is gone")
        results = await source.read([ONE, TWO])
        assert [type(result) for result in results] == [SourceError, SourceError]
        with pytest.raises(SourceError, match="the disk is gone"):
            await source.describe()
