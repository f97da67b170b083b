"""Cuts: the points of a branch's history at which storage has every page. Pure values.

A cut carries (seq, tli, lsn, redo). `lsn` is S: all WAL before it is in the pages, nothing behind
it is. `redo` is R: whoever starts from the cut replays from there, and what lies between R and S is
harmless to replay again, because pages know their Lsn.

Every storage node makes its own cuts of the same WAL. A cut of one node is as good as that of
another with the same `lsn`, but `seq` counts on one node only: between nodes a cut is named by its
`lsn`, as requests do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One published cut."""

    seq: CutSeq
    tli: Tli
    lsn: Lsn
    redo: Lsn
    taken_at_s: float  # Unix time: retention and point-in-time recovery choose by it

    def __post_init__(self) -> None:
        if self.redo > self.lsn:
            raise ValueError(f"a cut at {self.lsn} cannot start its replay at {self.redo}")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data file of a cut. `file_id` names its pages; a file made anew has another."""

    path: str
    file_id: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutContents:
    """Everything of a cut but its pages."""

    cut: Cut
    files: Mapping[str, StoredFile]  # by path
    small_files: Mapping[str, bytes]
    directories: Sequence[str]  # parents first


def newest_in_range(cuts: Iterable[Cut], *, first: Lsn, last: Lsn) -> Cut | None:
    """Return the newest cut with first <= lsn <= last; None if there is none (yet)."""
    fitting = [cut for cut in cuts if first <= cut.lsn <= last]
    return max(fitting, key=lambda cut: cut.lsn) if fitting else None
