"""Cuts as values: what cannot be one, and which one answers a request."""

import pytest

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli
from storage.cut import Cut, newest_in_range


def cut(seq: int, lsn: int) -> Cut:
    return Cut(seq=CutSeq(seq), tli=Tli(1), lsn=Lsn(lsn), redo=Lsn(lsn), taken_at_s=0.0)


CUTS = [cut(4, 100), cut(7, 200), cut(8, 300)]


@pytest.mark.parametrize(
    ("first", "last", "seq"),
    [(0, 500, 8), (0, 300, 8), (0, 299, 7), (100, 100, 4), (101, 199, None), (301, 900, None)],
)
def test_a_request_is_answered_from_the_newest_cut_in_its_range(
    first: int, last: int, seq: int | None
) -> None:
    for cuts in (CUTS, CUTS[::-1]):
        found = newest_in_range(cuts, first=Lsn(first), last=Lsn(last))
        assert (None if found is None else found.seq) == seq


def test_a_cut_cannot_begin_its_replay_behind_itself() -> None:
    with pytest.raises(ValueError, match="replay"):
        Cut(seq=CutSeq(1), tli=Tli(1), lsn=Lsn(5), redo=Lsn(6), taken_at_s=0.0)
