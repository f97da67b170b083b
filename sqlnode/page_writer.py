"""Puts fetched pages where postgres will read them: check, write, publish, in this order. And takes
them out again, to make room.

Nothing in here waits for anything but the local file system, and between looking at a block's state
and publishing it nothing else of the agent runs: so a page that arrives late, for a block that was
meanwhile filled or cut off, is dropped instead of overwriting newer data.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .faults import Fetch, Status
from .page_source import DamagedPageError, SourceError, relation_block
from .pagefault.block_map import (
    BLOCK_BYTES,
    INSTALL_ITEM,
    BlockMap,
    Dropped,
    LsnRange,
    Pages,
    Slot,
)

_OPEN_FILES_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class _Target:
    """An open data file, of one life of its slot."""

    generation: int
    descriptor: int
    path: str
    relation_block: int | None


class PageWriter:
    """The data files of one compute."""

    def __init__(self, block_map: BlockMap, data_dir: Path, *, verify_checksums: bool) -> None:
        self._map = block_map
        self._data_dir = data_dir
        self._verify_checksums = verify_checksums
        self._targets: OrderedDict[int, _Target] = OrderedDict()

    def close(self) -> None:
        """Close the descriptors."""
        while self._targets:
            os.close(self._targets.popitem()[1].descriptor)

    def path_of(self, slot: int, generation: int) -> str | None:
        """The file of a fetch; None when it is gone. Raises `SourceError` if it is spoilt."""
        target = self._target(slot, generation)
        return None if target is None else target.path

    def give_up(self, fetch: Fetch) -> None:
        """The pages will not come: let go of the claim."""
        self._map.release(fetch.slot, fetch.generation, fetch.first, fetch.count)

    def install(self, arrived: Sequence[tuple[Fetch, Pages]]) -> list[Status | SourceError]:
        """Check, write and publish the pages of several fetches; the outcome of each.

        What cannot be installed is given up: its blocks are MISSING again.
        """
        outcomes: list[Status | SourceError] = [Status.GONE] * len(arrived)
        items = bytearray(INSTALL_ITEM.size * len(arrived))
        targets: list[tuple[int, _Target]] = []
        for index, (fetch, pages) in enumerate(arrived):
            try:
                target = self._target(fetch.slot, fetch.generation)
                if target is not None:
                    _require_fit(target, fetch, pages)
            except SourceError as error:
                outcomes[index] = error
                self.give_up(fetch)
                continue
            if target is not None:
                self._pack(items, len(targets), fetch, target)
                targets.append((index, target))
        items = items[: INSTALL_ITEM.size * len(targets)]
        if targets:
            self._map.install(items, _joined([arrived[index][1] for index, _ in targets]))
        for (index, target), result in zip(targets, INSTALL_ITEM.iter_unpack(items), strict=True):
            outcomes[index] = _outcome(target, arrived[index][0], *result[5:8:2])
        return outcomes

    def drop(self, slot: Slot, first: int, count: int, lsns: LsnRange) -> Dropped:
        """Take pages of a relation out of their file; see `Broker.drop`."""
        try:
            target = self._target(slot.number, slot.generation)
        except SourceError:  # in the map before it exists; or spoilt, as the next fault will say
            return Dropped()
        if target is None or target.relation_block is None:
            return Dropped()
        return self._map.drop(
            slot, first, count, descriptor=target.descriptor,
            relation_block=target.relation_block, lsns=lsns,
        )  # fmt: skip

    def _pack(self, items: bytearray, position: int, fetch: Fetch, target: _Target) -> None:
        relation = target.relation_block if self._verify_checksums else None
        INSTALL_ITEM.pack_into(
            items,
            position * INSTALL_ITEM.size,
            fetch.slot,
            fetch.generation,
            fetch.first,
            fetch.count,
            target.descriptor,
            0,
            -1 if relation is None else relation,
            0,
            0,
        )

    def _target(self, slot: int, generation: int) -> _Target | None:
        target = self._targets.get(slot)
        if target is not None and target.generation == generation:
            self._targets.move_to_end(slot)
            return target  # removed meanwhile? The library looks, right before it writes
        if target is not None:
            os.close(self._targets.pop(slot).descriptor)
        return self._open(slot, generation)

    def _open(self, slot: int, generation: int) -> _Target | None:
        """Open the file that the slot stood for when it was asked about.

        A file is removed in this order: generation, name. So whoever opens by name and finds the
        generation unchanged afterwards has the right file.
        """
        facts = self._map.slot(slot)
        if facts is None or facts.generation != generation or not facts.is_live:
            return None
        path = self._data_dir / facts.path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if self._map.generation(slot) != generation:
                return None
            raise SourceError(
                f"{path} cannot be opened ({error.strerror}); rebuild the data directory"
            ) from error
        if self._map.generation(slot) != generation:
            os.close(descriptor)
            return None
        if len(self._targets) >= _OPEN_FILES_MAX:
            os.close(self._targets.popitem(last=False)[1].descriptor)
        target = _Target(generation, descriptor, facts.path, relation_block(facts.path))
        self._targets[slot] = target
        return target


def _joined(pages: Sequence[Pages]) -> bytes | bytearray:
    """One run of bytes; copying 8 KiB costs less than another call."""
    only = pages[0]
    if len(pages) == 1 and not isinstance(only, memoryview):
        return only
    return b"".join(pages)


def _require_fit(target: _Target, fetch: Fetch, pages: Pages) -> None:
    if len(pages) != fetch.count * BLOCK_BYTES:
        raise SourceError(
            f"the source gave {len(pages)} bytes for {fetch.count} blocks of {target.path}; "
            "do source and agent have the same version?"
        )


def _outcome(target: _Target, fetch: Fetch, status: int, bad_block: int) -> Status | SourceError:
    if status != Status.DAMAGED:
        return Status(status)
    return DamagedPageError(
        f"the source gave {target.path} block {fetch.first + bad_block} with a wrong checksum; "
        "check the disk that it is on"
    )
