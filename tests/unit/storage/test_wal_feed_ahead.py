"""The search for the last checkpoint of much WAL, from its end.

In scope: that it finds what a search from the beginning finds, wherever blocks end. Out of scope:
the log it is read from (test_wal_feed.py).
"""

import random

import pytest
from unit.fabric.rpc_world import in_loop
from unit.storage.wal_writer import PAGE_BYTES, SEGMENT_BYTES, START, Writer

from fabric.lsn import Lsn
from storage.wal_feed_ahead import last_checkpoint
from storage.wal_scan import CheckpointFound


def some_wal(seed: int) -> tuple[bytes, list[CheckpointFound]]:
    """WAL of half a MiB, and its checkpoints, some of them across the end of a page."""
    rng, writer = random.Random(seed), Writer()
    found = []
    while len(writer.content) < 512 * 1024:
        for _ in range(rng.randrange(6)):
            writer.record(rng.randbytes(rng.randrange(40_000)))
        if rng.random() < 0.5:
            writer.fill_page_but(8 * rng.randrange(3, 12))
        found.append(writer.checkpoint())
    return bytes(writer.content), found


@in_loop
async def search_everywhere(seed: int) -> None:
    content, checkpoints = some_wal(seed)
    rng = random.Random(seed)

    async def read(lsn: Lsn, bytes_max: int) -> bytes:
        assert bytes_max > 0
        offset = lsn - START
        return content[offset : offset + rng.randint(1, bytes_max)]

    end = START + len(content)
    for _ in range(60):
        after, upto = sorted((Lsn(rng.randrange(START, end)), Lsn(rng.randrange(START, end + 1))))
        wanted = [one for one in checkpoints if after < one.end <= upto]
        for block_bytes in (PAGE_BYTES, 5 * PAGE_BYTES, 64 * PAGE_BYTES):
            found = await last_checkpoint(
                read, after=after, upto=upto, segment_bytes=SEGMENT_BYTES, block_bytes=block_bytes
            )
            begins_after = [one for one in wanted if one.start >= after - after % PAGE_BYTES]
            assert found == (begins_after[-1] if begins_after else None)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_last_one_between_two_positions_whatever_the_blocks(seed: int) -> None:
    search_everywhere(seed)
