"""Puts fetched pages where postgres will read them: check, write, publish, in this order.

Nothing in here waits for anything but the local file system, and between looking at a block's state
and publishing it nothing else of the agent runs: so a page that arrives late, for a block that was
meanwhile filled or cut off, is dropped instead of overwriting newer data.
"""

import errno
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .faults import Fetch, Status
from .page_source import DamagedPageError, Pages, SourceError, relation_block
from .pagefault.block_map import BLOCK_BYTES, BlockMap, verify_pages

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
        """The file of a fetch; None when it is gone."""
        target = self._target(slot, generation)
        return None if target is None else target.path

    def give_up(self, fetch: Fetch) -> None:
        """The pages will not come: let go of the claim."""
        self._map.release(fetch.slot, fetch.generation, fetch.first, fetch.count)

    def install(self, fetch: Fetch, pages: Pages) -> Status:
        """Write the pages of a fetch and publish them. Raises `SourceError` for damaged pages."""
        target = self._target(fetch.slot, fetch.generation)
        if target is None:
            return Status.GONE
        self._check(target, fetch, pages)
        view = memoryview(pages)
        at = 0
        while at < fetch.count:
            skipped, run = self._map.adopt(fetch.slot, fetch.first + at, fetch.count - at)
            if not run:
                break
            at += skipped
            first = fetch.first + at
            try:
                _write_all(
                    target.descriptor,
                    view[at * BLOCK_BYTES : (at + run) * BLOCK_BYTES],
                    first * BLOCK_BYTES,
                )
            except OSError as error:
                self.give_up(fetch)
                return Status.FULL if error.errno in {errno.ENOSPC, errno.EDQUOT} else Status.FAILED
            self._map.publish(fetch.slot, fetch.generation, first, run)
            at += run
        return Status.OK

    def _check(self, target: _Target, fetch: Fetch, pages: Pages) -> None:
        if len(pages) != fetch.count * BLOCK_BYTES:
            raise SourceError(
                f"the source gave {len(pages)} bytes for {fetch.count} blocks of {target.path}; "
                "do source and agent have the same version?"
            )
        if not self._verify_checksums or target.relation_block is None:
            return
        bad = verify_pages(pages, first_block=target.relation_block + fetch.first)
        if bad is not None:
            raise DamagedPageError(
                f"the source gave {target.path} block {fetch.first + bad} with a wrong checksum; "
                "check the disk that it is on"
            )

    def _target(self, slot: int, generation: int) -> _Target | None:
        target = self._targets.get(slot)
        if target is not None and target.generation == generation == self._map.generation(slot):
            self._targets.move_to_end(slot)
            return target
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
        try:
            descriptor = os.open(self._data_dir / facts.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if self._map.generation(slot) != generation:
            os.close(descriptor)
            return None
        if len(self._targets) >= _OPEN_FILES_MAX:
            os.close(self._targets.popitem(last=False)[1].descriptor)
        target = _Target(generation, descriptor, facts.path, relation_block(facts.path))
        self._targets[slot] = target
        return target


def _write_all(descriptor: int, pages: memoryview, offset: int) -> None:
    while pages:
        written = os.pwrite(descriptor, pages, offset)
        pages = pages[written:]
        offset += written
