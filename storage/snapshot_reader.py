"""Pages of a snapshot, read from the object store a window at a time.

Each layer is asked in turn, the newest first, for what the newer ones have not; what none has is an
error, and never zeros. A layer remembers the index of one part, the bytes of one window of blocks
and the pages of one block. So reading by file and ascending block, as a page store publishes,
fetches everything once, in large pieces; any other order is right too, and slow.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from heapq import merge
from typing import Final

from object_store.interface import ObjectStore
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages

from .snapshot_format import Layer, Manifest, PartRef, SnapshotDamagedError, SnapshotLayout
from .snapshot_layer import PartIndex, open_tail
from .snapshot_objects import read_range

# Of all layers together. A request to a cloud takes 20 to 50 ms: pieces of 4 MiB, 20 MB of pages.
WINDOWS_BYTES: Final = 64 << 20
WINDOW_BYTES_MAX: Final = 4 << 20

Gap = tuple[int, int]  # blocks [first, end) that are still wanted


class SnapshotPages:
    """All pages of one snapshot. Not for several threads at once."""

    def __init__(self, objects: ObjectStore, layout: SnapshotLayout, manifest: Manifest) -> None:
        self._manifest = manifest
        window_bytes = min(WINDOW_BYTES_MAX, WINDOWS_BYTES // max(1, len(manifest.layers)))
        folder = layout.layers(manifest.node)
        self._layers = [
            LayerReader(objects, folder, layer, window_bytes=window_bytes)
            for layer in manifest.layers
        ]

    def read(self, path: str, first: int, blocks: int) -> Pages:
        """Return pages of a file. SnapshotDamagedError: one of them cannot be had."""
        file = self._manifest.contents.files[path]
        pages = memoryview(bytearray(blocks * BLOCK_BYTES))
        gaps: list[Gap] = [(first, first + blocks)] if blocks else []
        for layer in self._layers:
            if not gaps:
                break
            gaps = layer.fill(file.file_id, gaps, first, pages)
        if gaps:
            raise SnapshotDamagedError(
                f"no layer of snapshot {self._manifest.number} of {self._manifest.node} has block "
                f"{gaps[0][0]} of {path}"
            )
        return pages


class LayerReader:
    """One layer."""

    def __init__(
        self, objects: ObjectStore, folder: str, layer: Layer, *, window_bytes: int
    ) -> None:
        self._objects = objects
        self._folder = folder
        self._parts = layer.parts
        self._firsts = [part.first for part in layer.parts]
        self._window_bytes = window_bytes
        self._open: tuple[int, PartIndex] | None = None  # a part, by its number
        self._block: tuple[int, bytes] | None = None  # pages of a block of it
        self._window: tuple[int, memoryview] | None = None  # bytes of it, and where they begin

    def fill(self, file_id: int, gaps: list[Gap], first: int, pages: memoryview) -> list[Gap]:
        """Write what the layer has into `pages`, which begin with block `first`.

        Returns what remains.
        """
        remaining: list[Gap] = []
        for start, end in gaps:
            position = start
            for part in self._parts_of(file_id, start, end):
                index = self._index(part)
                for span in index.spans(file_id, start, end):
                    if span.first > position:
                        remaining.append((position, span.first))
                    if span.at >= 0:
                        target = (span.first - first) * BLOCK_BYTES
                        self._copy(part, span.at, span.end - span.first, pages[target:])
                    position = span.end
            if position < end:
                remaining.append((position, end))
        return remaining

    def live_blocks(self, lengths: Mapping[int, int]) -> Iterator[tuple[int, int]]:
        """Yield (file id, block) of what the layer has of files of these lengths, ascending."""
        for number in range(len(self._parts)):
            for file_id, first, count in self._index(number).runs():
                for block in range(first, min(first + count, lengths.get(file_id, 0))):
                    yield file_id, block

    def _parts_of(self, file_id: int, first: int, end: int) -> Iterator[int]:
        part = max(0, bisect_right(self._firsts, (file_id, first)) - 1)
        while part < len(self._firsts) and self._firsts[part] < (file_id, end):
            yield part
            part += 1

    def _index(self, part: int) -> PartIndex:
        if self._open is None or self._open[0] != part:
            ref = self._parts[part]
            tail = self._read(ref, ref.size_bytes - ref.tail_bytes, ref.tail_bytes)
            self._open = part, open_tail(ref, tail)
            self._block = self._window = None
        return self._open[1]

    def _copy(self, part: int, at: int, count: int, target: memoryview) -> None:
        position, block_pages = 0, self._index(part).block_pages
        while count:
            block, offset = divmod(at, block_pages)
            taken = min(count, block_pages - offset)
            data = memoryview(self._pages(part, block))
            size_bytes = taken * BLOCK_BYTES
            start = offset * BLOCK_BYTES
            target[position : position + size_bytes] = data[start : start + size_bytes]
            at, count, position = at + taken, count - taken, position + size_bytes

    def _pages(self, part: int, block: int) -> bytes:
        index = self._index(part)
        if self._block is None or self._block[0] != block:
            data = self._block_bytes(self._parts[part], index, block)
            self._block = block, index.pages_of(block, data)
        return self._block[1]

    def _block_bytes(self, ref: PartRef, index: PartIndex, block: int) -> memoryview:
        starts = index.block_starts
        start, end = starts[block], starts[block + 1]
        if self._window is not None:
            begin, data = self._window
            if begin <= start and end <= begin + len(data):
                return data[start - begin : end - begin]
        upto = max(block + 1, bisect_right(starts, start + self._window_bytes) - 1)
        data = memoryview(self._read(ref, start, starts[upto] - start))
        self._window = start, data
        return data[: end - start]

    def _read(self, ref: PartRef, start: int, size_bytes: int) -> bytes:
        return read_range(self._objects, self._folder + ref.name, start, size_bytes)


def live_blocks(
    objects: ObjectStore,
    layout: SnapshotLayout,
    manifest: Manifest,
    layers: list[Layer],
    lengths: Mapping[int, int],
) -> Iterator[tuple[int, int]]:
    """Yield (file id, block) of what some layers have, ascending, each once; reads indexes only."""
    folder = layout.layers(manifest.node)
    readers = [LayerReader(objects, folder, layer, window_bytes=0) for layer in layers]
    last: tuple[int, int] | None = None
    for place in merge(*(reader.live_blocks(lengths) for reader in readers)):
        if place != last:
            yield place
        last = place
