"""The log of a simulated node as its core sees it: complete in memory, yet not always at hand.

A real log serves its newest entries from memory and must fetch older ones from disk; here the node
decides by chance what is at hand. Each entry has its chain: one number for the entry and everything
before it, by which the checkers compare whole logs in one step.
"""

from collections.abc import Callable, Sequence

from raft.types import Config, Entry, Snapshot

from .operations import State, chained


class NodeLog:
    """Entries after a start. Implements `raft.types.LogView`."""

    def __init__(self, start: Snapshot, is_at_hand: Callable[[int], bool]) -> None:
        """`is_at_hand` is asked with the first index wanted; it sees to what follows a no."""
        self._is_at_hand = is_at_hand
        self.reset(start)

    def reset(self, start: Snapshot) -> None:
        """Forget everything, begin after `start`."""
        self.start = start
        self.list: list[Entry] = []
        self.chains: list[int] = []
        self.configs: list[tuple[int, Config]] = []

    @property
    def last_index(self) -> int:
        """The index of the newest entry."""
        return self.start.index + len(self.list)

    def append(self, entry: Entry) -> None:
        """Add the next entry."""
        assert entry.index == self.last_index + 1
        self.chains.append(chained(self.chains[-1] if self.chains else self._start_chain, entry))
        self.list.append(entry)
        if entry.config is not None:
            self.configs.append((entry.index, entry.config))

    def cut(self, first: int) -> None:
        """Drop the entries from `first` on."""
        keep = first - self.start.index - 1
        del self.list[keep:]
        del self.chains[keep:]
        while self.configs and self.configs[-1][0] >= first:
            self.configs.pop()

    def trim(self, start: Snapshot) -> None:
        """Drop the entries up to and including the new start."""
        drop = start.index - self.start.index
        del self.list[:drop]
        del self.chains[:drop]
        self.configs = [item for item in self.configs if item[0] > start.index]
        self.start = start

    def entry(self, index: int) -> Entry:
        """The entry at an index that the log has."""
        return self.list[index - self.start.index - 1]

    def chain(self, index: int) -> int | None:
        """What stands for the log up to `index`; None if the log does not have it."""
        position = index - self.start.index - 1
        if 0 <= position < len(self.chains):
            return self.chains[position]
        return self._start_chain if position == -1 else None

    def config_before(self, first: int) -> Config:
        """The configuration in effect just before `first`."""
        return next((c for i, c in reversed(self.configs) if i < first), self.start.config)

    def entries(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        """See LogView."""
        assert self.start.index < first <= last <= self.last_index, "the core asks beyond the log"
        if not self._is_at_hand(first):
            return ()
        position = first - self.start.index - 1
        found = self.list[position : position + last - first + 1]
        size_bytes = 0
        for count, entry in enumerate(found):
            size_bytes += entry.size_bytes
            if size_bytes > bytes_max and count:
                return found[:count]
        return found

    def snapshot(self) -> Snapshot | None:
        """See LogView."""
        return self.start if self._is_at_hand(0) else None

    @property
    def _start_chain(self) -> int:
        state = self.start.ref
        assert isinstance(state, State)
        return state.chain
