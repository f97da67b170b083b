"""A program that reads a data file under the preload library, one block at a time.

    python -P -m bench.pagefault.probe FILE BLOCK_COUNT WANTED HINTS_AHEAD

Reads WANTED random blocks of the file, none twice, through the C library as postgres does, and
prints JSON: how long all of it took in seconds, and each read in microseconds. With HINTS_AHEAD
above 0 it gives posix_fadvise(WILLNEED) for so many blocks before it needs them, which is what
PostgreSQL's recovery and bitmap scans do.
"""

import json
import os
import random
import sys
import time

BLOCK_BYTES = 8192
SEED = 8192


def main() -> None:
    """Read as told by the arguments."""
    path = sys.argv[1]
    block_count, wanted, hints_ahead = map(int, sys.argv[2:])
    blocks = scattered(block_count, wanted)
    descriptor = os.open(path, os.O_RDONLY)
    begin_s = time.perf_counter()
    reads_us = _read_hinted(descriptor, blocks, hints_ahead)
    end_s = time.perf_counter()
    os.close(descriptor)
    print(json.dumps({"seconds": end_s - begin_s, "reads_us": reads_us}))


def scattered(block_count: int, wanted: int) -> list[int]:
    """So many blocks of a file, none twice, in no order but always the same."""
    return random.Random(SEED).sample(range(block_count), wanted)  # noqa: S311  # no secret


def _read_hinted(descriptor: int, blocks: list[int], hints_ahead: int) -> list[float]:
    durations_us = []
    hinted = 0
    for index, block in enumerate(blocks):
        while hinted < min(len(blocks), index + hints_ahead):
            os.posix_fadvise(
                descriptor, blocks[hinted] * BLOCK_BYTES, BLOCK_BYTES, os.POSIX_FADV_WILLNEED
            )
            hinted += 1
        start_ns = time.perf_counter_ns()
        page = os.pread(descriptor, BLOCK_BYTES, block * BLOCK_BYTES)
        durations_us.append((time.perf_counter_ns() - start_ns) / 1000)
        assert page.strip(b"\0"), f"block {block} reads as zeros"
    return durations_us


if __name__ == "__main__":
    main()
