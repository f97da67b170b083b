"""Harvest: exactly which blocks and files of a data directory changed since the last time.

    harvester.take()    what changed, set aside; postgres may go on
    ... make it durable somewhere ...
    harvester.commit()  storage has it     or     harvester.undo()  it counts as changed again

The bytes are those of a consistent state only if the server was quiet behind a restartpoint when
they were read (design: the gate); which blocks are listed is right at any time.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .directory_source import describe_small_files
from .pagefault.block_map import BLOCK_BYTES, BlockMap, SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """What to do to a copy of the file: cut to `keep_blocks`, set the length, write `changed`.

    Blocks that the new length adds and that are not in `changed` are zeros.
    """

    path: str
    blocks: int
    keep_blocks: int | None  # earlier blocks from here on are void; 0: a new file; None: all count
    changed: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Harvest:
    """Everything that changed since the last committed harvest."""

    files: Sequence[ChangedFile]
    removed: Sequence[str]
    small_files: Mapping[str, bytes]  # all of them, each time: there are few
    directories: Sequence[str]

    @property
    def changed_blocks(self) -> int:
        """How many pages have to travel."""
        return sum(len(file.changed) for file in self.files)


class Harvester:
    """Takes the changes of one data directory. One at a time: it owns DIRTY and TAKEN."""

    def __init__(self, block_map: BlockMap, data_dir: Path) -> None:
        self._map = block_map
        self._data_dir = data_dir
        self._taken: list[int] = []
        self._removed: list[int] = []

    def take(self) -> Harvest:
        """Set aside and describe what has changed. Ends with `commit` or `undo`."""
        assert not self._taken, "commit or undo the last harvest first"
        assert not self._removed, "commit or undo the last harvest first"
        try:
            return self._take_all()
        except BaseException:
            self.undo()
            raise

    def _take_all(self) -> Harvest:
        files: list[ChangedFile] = []
        removed: list[str] = []
        number = self._map.next_changed(0)
        while number is not None:
            slot = self._map.slot(number)
            assert slot is not None
            if slot.state is SlotState.REMOVED:
                self._removed.append(number)
                removed.append(slot.path)
            elif slot.is_live:
                file = self._take_file(number)
                if file is not None:
                    files.append(file)
            number = self._map.next_changed(number + 1)
        small_files, directories = describe_small_files(self._data_dir)
        return Harvest(
            files=files, removed=removed, small_files=small_files, directories=directories
        )

    def commit(self) -> None:
        """Storage has the harvest, durably."""
        for number in self._taken:
            self._map.commit(number)
        for number in self._removed:
            self._map.forget_removed(number)
        self._forget()

    def undo(self) -> None:
        """Storage has it not: the next take brings all of it again."""
        for number in self._taken:
            self._map.undo(number)
        self._forget()

    def _forget(self) -> None:
        self._taken.clear()
        self._removed.clear()

    def _take_file(self, number: int) -> ChangedFile | None:
        changed = self._map.take(number)
        self._taken.append(number)
        slot = self._map.slot(number)  # after the take: a truncation in between is the next one's
        assert slot is not None
        try:
            length = os.stat(self._data_dir / slot.path).st_size
        except FileNotFoundError:
            self._taken.pop()
            self._map.undo(number)
            return None  # not made yet, or removed this moment: the next take knows
        blocks, torn = divmod(length, BLOCK_BYTES)
        if torn and blocks in changed:
            self._map.keep_dirty(number, blocks)  # not harvested before it is whole
        return ChangedFile(
            path=slot.path,
            blocks=blocks,
            keep_blocks=0 if slot.taken_is_new else slot.taken_low,
            changed=[block for block in changed if block < blocks],
        )
