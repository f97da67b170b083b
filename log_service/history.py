"""Timeline history files: which timeline's WAL is to be found at which position.

A promotion ends a timeline at its fork and begins the next one. The new timeline's history file
names every ancestor with the position at which it ended, oldest first:

    1<tab>0/3000110<tab>no recovery target specified

    2<tab>0/5000148<tab>no recovery target specified

A byte at `lsn` belongs to the first ancestor that ended beyond it, or else to the timeline itself.
The file's bytes are kept, because standbys must get it as the promoted server wrote it.

Invariants of a `TimelineHistory`: the timelines ascend, all below its own; forks never
descend.

Here is nothing of where the files come from, nor of which history is the right one: a newer one is
only held against what is known (`verify_extends`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fabric.lsn import Lsn, Tli, history_file_name

HISTORY_BYTES_MAX: Final = 128 * 1024  # some 3,000 promotions: a line has about 40 bytes
REASON_CHARACTERS_MAX: Final = 1024  # PostgreSQL itself never reads them

# As PostgreSQL reads a line: white space, number, position, and whatever follows.
_LINE: Final = re.compile(r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s(.*))?")


class HistoryError(ValueError):
    """A history file is not one, or belongs to another timeline: fetch it again."""


class HistoryConflictError(Exception):
    """Two histories exclude each other: at most one of their servers may go on."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a timeline ended. The reason is for people and does not count in comparisons."""

    tli: Tli
    end: Lsn
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """The ancestors of timeline `tli`; a first timeline has none, and no file either."""

    tli: Tli
    forks: tuple[Fork, ...] = ()
    file: bytes = field(default=b"", compare=False, repr=False)

    def __post_init__(self) -> None:
        for before, after in zip(self.forks, self.forks[1:], strict=False):
            if before.tli >= after.tli or before.end > after.end:
                raise HistoryError(
                    f"the history of timeline {self.tli:d} goes backwards, from {_where(before)} "
                    f"to {_where(after)}"
                )
        if self.forks and self.forks[-1].tli >= self.tli:
            raise HistoryError(
                f"the history of timeline {self.tli:d} names timeline {self.forks[-1].tli:d}, "
                "which is not older"
            )

    @property
    def start(self) -> Lsn:
        """Where the timeline itself began."""
        return self.forks[-1].end if self.forks else Lsn(0)

    def owner_of(self, lsn: Lsn) -> Tli:
        """Return the timeline in whose WAL the byte at `lsn` is."""
        return next((fork.tli for fork in self.forks if lsn < fork.end), self.tli)

    def contains(self, tli: Tli) -> bool:
        """Whether `tli` is the timeline itself or an ancestor."""
        return tli == self.tli or self.fork_of(tli) is not None

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """Return what followed an ancestor, and from where; None for every other timeline."""
        for index, fork in enumerate(self.forks):
            if fork.tli == tli:
                later = self.forks[index + 1 :]
                return (later[0].tli if later else self.tli), fork.end
        return None

    def verify_extends(self, known: "TimelineHistory") -> None:
        """Raise HistoryConflictError unless this is `known` or continues it unchanged."""
        if self == known:
            return
        count = len(known.forks)
        continues = len(self.forks) > count and self.forks[count].tli == known.tli
        if not (continues and self.forks[:count] == known.forks):
            raise HistoryConflictError(
                f"the history of {_summary(self)} does not continue that of {_summary(known)}: "
                "the two servers have gone separate ways"
            )


def parse_history(tli: Tli, file: bytes) -> TimelineHistory:
    """Read the history file of timeline `tli`."""
    name = history_file_name(tli)
    if len(file) > HISTORY_BYTES_MAX:
        raise HistoryError(f"{name} exceeds {HISTORY_BYTES_MAX} bytes")
    # The reasons may be in any encoding; only they can hold what is not ASCII.
    forks = tuple(_forks(name, file.decode("utf-8", "replace")))
    if not forks:
        raise HistoryError(f"{name} names no timeline: a first timeline has no such file")
    return TimelineHistory(tli, forks, bytes(file))


def extend_history(known: TimelineHistory, *, tli: Tli, end: Lsn, reason: str) -> TimelineHistory:
    """Return the history of a new timeline that begins at `end` of the known one, with its file."""
    if not reason.isprintable() or len(reason) > REASON_CHARACTERS_MAX:
        raise HistoryError("the reason of a fork must be one line of printable text")
    gap = b"\n" if known.file else b""
    file = known.file + gap + f"{known.tli:d}\t{end}\t{reason}\n".encode()
    return TimelineHistory(tli, (*known.forks, Fork(known.tli, end, reason)), file)


def _forks(name: str, text: str) -> Iterator[Fork]:
    # Only line feeds: splitlines() would also break at what a reason may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        yield _fork(name, number, content)


def _fork(name: str, number: int, line: str) -> Fork:
    match = _LINE.fullmatch(line)
    if match is None:
        raise HistoryError(f"line {number} of {name} is not a timeline and a position")
    try:
        reason = (match[3] or "").strip()[:REASON_CHARACTERS_MAX]
        return Fork(Tli.parse(match[1]), Lsn.parse(match[2]), reason)
    except ValueError as error:
        raise HistoryError(f"line {number} of {name}: {error}") from error


def _where(fork: Fork) -> str:
    return f"the end of {fork.tli:d} at {fork.end}"


def _summary(history: TimelineHistory) -> str:
    forks = ", ".join(_where(fork) for fork in history.forks[-3:])
    return f"timeline {history.tli:d} ({forks or 'no ancestors'})"
