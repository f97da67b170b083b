"""What happened in a run, for people: counters that say which faults it met, and lines to read.

Counting is always on: a run that exercises nothing must not pass for a good one. Lines are kept
only when a seed is replayed to be read; they cost more than the run itself.
"""

from collections import Counter

from raft.messages import Append, Message
from raft.types import Entry

from .timeline import Timeline


class Trace:
    """Counts happenings, and writes them down if asked to."""

    def __init__(self, timeline: Timeline, *, is_kept: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self.is_kept = is_kept
        self._timeline = timeline

    def count(self, what: str) -> None:
        """Count something that happens too often for a line."""
        self.counts[what] += 1

    def note(self, what: str, member: int = 0, detail: object = "") -> None:
        """Count something, and write a line about it if lines are kept."""
        self.counts[what] += 1
        if self.is_kept:
            self.line(what, member, detail)

    def line(self, what: str, member: int, detail: object) -> None:
        """Write a line. Call it only if `is_kept`: making the detail costs."""
        self.lines.append(f"{self._timeline.now_us / 1e6:11.6f}  n{member:<3} {what:28} {detail}")


def described(message: Message) -> str:
    """A message in a line that is not longer than it must be."""
    if isinstance(message, Append):
        entries = ", ".join(described_entry(entry) for entry in message.entries)
        return (
            f"Append of n{message.sender} t{message.term} after {message.prev_index}"
            f"/t{message.prev_term} [{entries}] commit {message.commit} round {message.context}"
        )
    return str(message)


def described_entry(entry: Entry) -> str:
    """An entry, the same."""
    content = entry.ref or entry.config or "empty"
    return f"{entry.index}/t{entry.term} {content}"
