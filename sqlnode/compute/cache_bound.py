"""Which blocks a compute lets go of when its cache is full. Pure; docs/adr/0022 has the reasons.

A block may leave its file if storage gives its page again, so that nobody can tell. That needs a
*proof*: a cut S, not ahead of the compute, whose files are known, and of whose time no transaction
is at work any more (what it has noted in pages besides WAL, storage does not have). With it:

    file     main fork of a logged relation; in the cut; the same file as there, see `Sightings`
    block    below the file's length in the cut
    page     its Lsn is a position of WAL, at most S (pagefault/drop.c looks)

Where a fault asks for pages since is never before S: the cut of a compute only moves forward.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fabric.lsn import Lsn
from sqlnode.page_source import relation_block
from sqlnode.pagefault.block_map import BLOCK_BYTES, Slot

LSN_MIN: Final = Lsn(1 << 20)  # WAL begins behind its first segment; below are pages without WAL
FILE_BLOCKS_MIN: Final = 2  # less is nothing to win; and sequences, whose pages are behind WAL
TRIM_PERCENT: Final = 90  # of the bound, so that not every new block makes for work
WATCH_PERCENT: Final = 75  # from here on new files are noted


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says, in one answer."""

    position: Lsn  # replayed, or written
    in_recovery: bool
    workers: frozenset[str]  # transactions that have an id or may be vacuuming


@dataclass(slots=True)
class Proof:
    """A cut, its files with their lengths, and which transactions of its time are still at work."""

    lsn: Lsn
    blocks: Mapping[str, int]
    workers: frozenset[str] | None = None  # None: nobody has looked yet


class Proofs:
    """The newest cut that is proved, and one that is on trial."""

    def __init__(self) -> None:
        self.proved: Proof | None = None
        self._trial: Proof | None = None

    def wants(self, cut_lsn: Lsn) -> bool:
        """Whether to describe this cut, and `begin` with it."""
        return self._trial is None and (self.proved is None or cut_lsn > self.proved.lsn)

    def begin(self, cut_lsn: Lsn, blocks: Mapping[str, int]) -> None:
        """Take a cut on trial; its files are known, so it exists, and so does its WAL."""
        self._trial = Proof(cut_lsn, blocks)

    def look(self, facts: Facts) -> None:
        """Learn from an answer whose question was asked after `begin`.

        A replica is at work on nothing: what it has in pages comes of WAL.
        """
        trial = self._trial
        if trial is None or facts.position < trial.lsn:
            return
        workers = frozenset() if facts.in_recovery else facts.workers
        # The name of a transaction is never used again, so who is not there now has ended.
        trial.workers = workers if trial.workers is None else trial.workers & workers
        if not trial.workers:
            self.proved, self._trial = trial, None

    def forget(self) -> None:
        """Let go of the memory: there is room."""
        self.proved = self._trial = None


@dataclass(slots=True)
class Sightings:
    """Since when files have been known to be there that this life of the compute has made.

    A name may be used again. A cut behind the sighting of a file has the removal of the one that
    had its name before; so what it has under that name is this very file.
    """

    _since: dict[tuple[int, int], Lsn] = field(default_factory=dict)

    def note(self, slots: Iterable[Slot], position: Lsn) -> None:
        """Note files; `position` was asked for after they were seen."""
        new = [(slot.number, slot.generation) for slot in slots if slot.is_new]
        self._since = {key: self._since.get(key, position) for key in new}

    def is_known_at(self, slot: Slot, lsn: Lsn) -> bool:
        """Whether the cut at `lsn` can have no other file under this name."""
        since = self._since.get((slot.number, slot.generation))
        return not slot.is_new or (since is not None and since <= lsn)


def candidates(slots: Sequence[Slot], proof: Proof, sightings: Sightings) -> list[tuple[Slot, int]]:
    """Return the files some of whose blocks may be dropped, and how many from the first on."""
    names = {slot.path for slot in slots}
    found = []
    for slot in slots:
        blocks = proof.blocks.get(slot.path, 0)
        if (
            slot.is_live
            and blocks >= FILE_BLOCKS_MIN
            and slot.missing < blocks
            and is_main_fork(slot.path)
            and not _is_unlogged(slot.path, names, proof.blocks)
            and sightings.is_known_at(slot, proof.lsn)
        ):
            found.append((slot, blocks))
    return found


def is_main_fork(path: str) -> bool:
    """Whether it is a relation's content. The other forks change without their Lsn."""
    return relation_block(path) is not None and path.rpartition("/")[2].replace(".", "").isdigit()


def _is_unlogged(path: str, *known: Iterable[str]) -> bool:
    """An unlogged relation has a fork that says what it is like when it is empty."""
    folder, _, name = path.rpartition("/")
    init = f"{folder}/{name.partition('.')[0]}_init"
    return any(init in paths for paths in known)


def blocks_over(used_bytes: int, bytes_max: int) -> int:
    """Return how many blocks have to go: none, or so many that there is room for a while."""
    if used_bytes <= bytes_max:
        return 0
    return -((bytes_max * TRIM_PERCENT // 100 - used_bytes) // BLOCK_BYTES)


def is_watched(used_bytes: int, bytes_max: int) -> bool:
    """Whether there may be something to drop soon."""
    return used_bytes * 100 >= bytes_max * WATCH_PERCENT


@dataclass(slots=True)
class Hand:
    """Of a clock: goes over all files, block by block, and stops where there is room again.

    A block that was read since the hand came by stays this time (`BLOCK_USED`). Of a file that was
    whole so far, nothing is known of its reads.
    """

    slot: int = 0
    block: int = 0

    def ordered(self, files: Sequence[tuple[Slot, int]]) -> list[tuple[Slot, int, int]]:
        """Return (file, first, end) for one way round; the hand may be inside of a file."""
        ahead = [(slot, 0, end) for slot, end in files if slot.number > self.slot]
        behind = [(slot, 0, end) for slot, end in files if slot.number < self.slot]
        own = [(slot, end) for slot, end in files if slot.number == self.slot]
        return [
            *((slot, min(self.block, end), end) for slot, end in own),
            *ahead,
            *behind,
            *((slot, 0, min(self.block, end)) for slot, end in own),
        ]
