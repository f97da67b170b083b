"""The log as the core sees it: where it starts and ends, the terms of its entries, what is durable.

The core keeps no entries but the newest, which no Ready has handed out yet (`unstable`). Of the
others it knows only their terms, as runs: a log of a million entries and three leaders is three
pairs of numbers.

Invariants:
- start_index <= commit_index <= last_index; what is committed is never truncated.
- Entries up to stable_index are on our disk. Truncation takes durability back, also from the Readys
  that are still being written: what they hold above the cut is not ours any more.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from .types import Entry, Persisted, Snapshot


class RaftLog:
    """The terms of all entries after the start, and the few entries not handed out yet."""

    __slots__ = (
        "_handed_out",
        "_run_firsts",
        "_run_terms",
        "commit_index",
        "last_index",
        "last_term",
        "stable_index",
        "start_index",
        "start_term",
        "unstable",
    )

    def __init__(self, persisted: Persisted) -> None:
        self._start_after(persisted.snapshot)
        self._check_runs(persisted)
        self._run_firsts = [first for first, _ in persisted.terms]
        self._run_terms = [term for _, term in persisted.terms]
        self.unstable: list[Entry] = []
        self._handed_out: deque[tuple[int, int]] = deque()  # (number of a Ready, its last index)
        if persisted.terms:
            self.last_index = persisted.last_index
            self.last_term = self._run_terms[-1]
        self.stable_index = self.last_index

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, also of the start; None if the entry is not here."""
        if index > self.last_index or index < self.start_index:
            return None
        if self._run_firsts and index >= self._run_firsts[-1]:
            return self.last_term
        if index == self.start_index:
            return self.start_term
        return self._run_terms[bisect_right(self._run_firsts, index) - 1]

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Tell whether a log that ends like this has at least what ours has (section 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def newest_common(self, index: int, term: int) -> int:
        """Return the newest place up to `index` whose term is at most `term`.

        Another log that has `term` at `index` can agree with ours at no later place: this skips
        whole terms. A place before the start means that the answer was trimmed away.
        """
        for first, run_term in zip(
            reversed(self._run_firsts), reversed(self._run_terms), strict=True
        ):
            if index >= first:
                if run_term <= term:
                    return index
                index = first - 1
        if index == self.start_index and self.start_term > term:
            return index - 1
        return index

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries that follow the last one."""
        assert entries[0].index == self.last_index + 1, "a gap in our own log"
        if entries[-1].term != self.last_term or not self._run_firsts:
            self._extend_runs(entries)
        self.unstable.extend(entries)
        self.last_index = entries[-1].index

    def truncate_from(self, index: int) -> None:
        """Forget the entry at `index` and all after it."""
        assert self.commit_index < index <= self.last_index, "committed entries are final"
        while self._run_firsts and self._run_firsts[-1] >= index:
            del self._run_firsts[-1], self._run_terms[-1]
        self.last_index = index - 1
        self.last_term = self._run_terms[-1] if self._run_terms else self.start_term
        if self.unstable:
            del self.unstable[max(0, index - self.unstable[0].index) :]
        self._take_back_durability(index - 1)

    def restore(self, snapshot: Snapshot) -> None:
        """Throw everything away and start after the snapshot; nothing is durable till it is."""
        self._start_after(snapshot)
        self._run_firsts, self._run_terms = [], []
        self.unstable.clear()
        self._take_back_durability(0)

    def trimmed(self, index: int) -> None:
        """Forget the terms before `index`, which becomes the start."""
        term = self.term_at(index)
        if term is None:
            return  # was trimmed before
        run = bisect_right(self._run_firsts, index)
        run_end = self._run_firsts[run] - 1 if run < len(self._run_firsts) else self.last_index
        if run and run_end > index:  # the trimmed place is inside a run: its rest stays
            run -= 1
            self._run_firsts[run] = index + 1
        del self._run_firsts[:run], self._run_terms[:run]
        self.start_index, self.start_term = index, term

    def hand_out(self, number: int, *, is_restored: bool) -> tuple[Entry, ...]:
        """Return the new entries, to be made durable by the shell as Ready `number`."""
        entries = tuple(self.unstable)
        if entries or is_restored:
            self._handed_out.append((number, self.last_index))
        self.unstable.clear()
        return entries

    def persisted(self, number: int) -> None:
        """Note that all Readys up to `number` are durable."""
        while self._handed_out and self._handed_out[0][0] <= number:
            self.stable_index = self._handed_out.popleft()[1]

    def _start_after(self, snapshot: Snapshot) -> None:
        self.start_index = self.last_index = self.commit_index = snapshot.index
        self.start_term = self.last_term = snapshot.term

    def _extend_runs(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.term != self.last_term or not self._run_firsts:
                self._run_firsts.append(entry.index)
                self._run_terms.append(entry.term)
                self.last_term = entry.term

    def _take_back_durability(self, index: int) -> None:
        self.stable_index = min(self.stable_index, index)
        if self._handed_out:
            clipped = ((number, min(last, index)) for number, last in self._handed_out)
            self._handed_out = deque(clipped)

    @staticmethod
    def _check_runs(persisted: Persisted) -> None:
        index, term = persisted.snapshot.index, persisted.snapshot.term
        for first, run_term in persisted.terms:
            if first <= index or run_term < term:
                raise ValueError("the runs of terms must ascend from the snapshot")
            index, term = first, run_term
        if persisted.terms and persisted.terms[0][0] != persisted.snapshot.index + 1:
            raise ValueError("the first run of a term must begin after the snapshot")
        if not persisted.terms and persisted.last_index > index:
            raise ValueError("entries without a term: every entry belongs to a run")
        if persisted.terms and persisted.last_index < index:
            raise ValueError("the last run of a term begins after the last entry")
