"""What becomes of what was asked of a server that is gone. Pure.

For each batch that was not answered there is one of these truths:

    RERUN     it surely did not commit anything: it is asked again, and the client notices nothing
    REFUSED   likewise, but answers of others have to come before or after its own: 40001
    FAILED    the client has its error already, and lacks the answer's end only
    LOST      its transaction was open, so nothing of it was committed: 40001
    BROKEN    a part of the answer is with the client already: 08006
    UNKNOWN   it may have been committed or not, and only its author can find out: 08007

A write that nobody answered is UNKNOWN unless the server has said that it refuses it. A server
that shuts down says so (57P01), and then what was not answered was rolled back.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from .batches import FAILED, IDLE, IN_TRANSACTION, Batch

SHUTTING_DOWN: Final = frozenset({"57P01", "57P03"})  # and nothing unanswered was committed
SURVIVED: Final = SHUTTING_DOWN | {"", "57P02"}
"""Last words of a server after which its sessions go on elsewhere; "": it said nothing."""
ANSWERS_THAT_STAND: Final = frozenset({"57014"})
"""Errors of a replica that the primary is not asked about: the client has cancelled."""

BROKEN_SQLSTATE: Final = "08006"
UNKNOWN_SQLSTATE: Final = "08007"
UNKNOWN_MESSAGE: Final = "the server is gone and has not said whether this was committed"
UNKNOWN_HINT: Final = "Look whether it was done before you do it again."
BROKEN_MESSAGE: Final = "the server is gone in the middle of its answer"


class Fate(Enum):
    """What is true of a batch that was not answered."""

    RERUN = auto()
    REFUSED = auto()
    FAILED = auto()
    LOST = auto()
    BROKEN = auto()
    UNKNOWN = auto()


def fates(batches: Sequence[Batch], *, status: int, farewell: str, reads: bool) -> list[Fate]:
    """Return the fate of each batch; `status` is that before the first of them.

    `reads`: the server was a replica, which commits nothing.
    """
    found = [_fate(batch, status=status, farewell=farewell, reads=reads) for batch in batches]
    if all(fate is Fate.RERUN for fate in found):
        return found
    return [Fate.REFUSED if fate is Fate.RERUN else fate for fate in found]


def _fate(batch: Batch, *, status: int, farewell: str, reads: bool) -> Fate:
    if batch.has_failed and batch.has_answered:
        return Fate.FAILED
    if status in {IN_TRANSACTION, FAILED}:
        may_have_committed = batch.is_commit and status == IN_TRANSACTION and not reads
        return Fate.UNKNOWN if may_have_committed and not _said_no(farewell, batch) else Fate.LOST
    assert status == IDLE, "there are three"
    if batch.has_answered:
        return Fate.BROKEN if reads or batch.is_read else Fate.UNKNOWN
    if batch.is_rerunnable and (reads or batch.is_read or _said_no(farewell, batch)):
        return Fate.RERUN
    return Fate.BROKEN if reads else Fate.UNKNOWN


def _said_no(farewell: str, batch: Batch) -> bool:
    return farewell in SHUTTING_DOWN and not batch.has_answered
