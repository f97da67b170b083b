"""Linearizable reads without the log: remember the commit index, then prove that we still lead.

Reads that are asked for between two Readys share one round. Reads asked for before the leader's
first commit wait for it: until then the leader may not know what is committed (section 8).
"""

from collections import deque


class Reads:
    """The reads that were asked for and are not confirmed."""

    __slots__ = ("_asked", "_in_rounds")

    def __init__(self) -> None:
        self._asked: list[int] = []
        self._in_rounds: deque[tuple[int, int, list[int]]] = deque()  # (round, index, contexts)

    @property
    def has_new(self) -> bool:
        """Tell whether reads wait for a round."""
        return bool(self._asked)

    def __bool__(self) -> bool:
        return bool(self._asked or self._in_rounds)

    def ask(self, context: int) -> None:
        """Add a read."""
        self._asked.append(context)

    def take_new(self, index: int) -> list[tuple[int, int]]:
        """Return the new reads as confirmed at `index`: a lease needs no round."""
        taken = [(context, index) for context in self._asked]
        self._asked.clear()
        return taken

    def join_round(self, number: int, index: int) -> None:
        """Let the new reads wait for this round, to be answered from `index`."""
        self._in_rounds.append((number, index, self._asked))
        self._asked = []

    def confirmed(self, number: int) -> list[tuple[int, int]]:
        """Return (context, index) of the reads that waited for this round or an earlier one."""
        done: list[tuple[int, int]] = []
        while self._in_rounds and self._in_rounds[0][0] <= number:
            _, index, contexts = self._in_rounds.popleft()
            done += [(context, index) for context in contexts]
        return done
