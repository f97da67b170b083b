"""Rounds: how a leader proves that it still leads. Reads, the lease and check-quorum rest on them.

Every Append carries the number of the newest round; every reply repeats it. A reply to round n
says: after round n had begun, this member knew of no newer leader. When a majority said so:

- a read that was asked for before round n began may be answered (read index, section 8);
- nobody else can have been elected yet for an election timeout, counted from the *beginning* of the
  round (the lease), as long as followers keep their promise;
- the leader is not cut off (check-quorum): without such news for an election timeout it steps down.
"""

from collections import deque

from .settings import RaftSettings


class Rounds:
    """The rounds of one leader in one term."""

    __slots__ = (
        "_begun",
        "_is_resting",
        "_lease_tick",
        "_settings",
        "confirmed",
        "current",
        "quorum_tick",
    )

    def __init__(self, settings: RaftSettings) -> None:
        self._settings = settings
        self._begun: deque[tuple[int, int]] = deque()  # (round, tick) of the first of each tick
        self._lease_tick: int | None = None
        self._is_resting = False
        self.current = 0
        self.confirmed = 0
        self.quorum_tick = 0  # the newest proof that a majority follows

    def begin(self, tick: int) -> int:
        """Start a round and return its number."""
        self.current += 1
        if self._is_resting:
            return self.current
        if not self._begun or self._begun[-1][1] != tick:
            self._begun.append((self.current, tick))
        return self.current

    def confirm(self, number: int) -> None:
        """Note that a majority answered this round."""
        self.confirmed = number
        while self._begun and self._begun[0][0] <= number:
            self._lease_tick = self.quorum_tick = self._begun.popleft()[1]

    def has_lease(self, tick: int) -> bool:
        """Tell whether the followers' promise still holds, with a margin for clock drift."""
        if self._lease_tick is None:
            return False
        ticks_max = self._settings.election_ticks - self._settings.lease_drift_ticks
        return tick - self._lease_tick < ticks_max

    def is_cut_off(self, tick: int) -> bool:
        """Tell whether no majority was heard for an election timeout."""
        return tick - self.quorum_tick >= self._settings.election_ticks

    def rest(self, tick: int) -> None:
        """Prepare for ticks to stop: the lease ends, and silence begins to count anew.

        Rounds of the rest prove reads but give no lease: nobody would count its ticks.
        """
        self._is_resting = True
        self._begun.clear()
        self._lease_tick = None
        self.quorum_tick = tick

    def wake(self) -> None:
        """Note that ticks come again."""
        self._is_resting = False
