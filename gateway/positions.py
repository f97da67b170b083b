"""How far the computes are, and when that was heard: which replica may answer a read. Pure.

    note_primary(lsn, asked_s)           the primary was there, when it was asked
    note_replica(name, lsn, heard_s)     a replica has replayed so far
    choose(names, loads, ...)            the replica that is to answer, or None: ask the primary

Behind by a time: whoever has replayed what the primary had at a moment shows the data of that
moment at least. So the lag of a replica is the age of the newest sample of the primary that it has
replayed, and nothing at all for whoever has the last one: what the primary did since that was
taken, which is a heartbeat ago, nobody knows. A lag that is not known is too long for everybody.

Invariants: samples grow in position and in time; there are at most SAMPLES_MAX. When there are
more, every second one of the older half goes, so that the past is remembered for long, and less and
less exactly; a sample that is missing makes a lag longer, never shorter. A replica's position is
that of one life of it: whoever hears that a life has ended calls `forget`.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fabric.lsn import Lsn

SAMPLES_MAX: Final = 1_024  # of a heartbeat of 200 ms, more than the last minute and a half exactly
HEARD_S_MAX: Final = 1.0  # a replica that was not heard of for longer has no known lag
REPLICAS_MAX: Final = 1_000  # the log remembers no more computes, either


@dataclass(slots=True)
class _Replica:
    lsn: Lsn
    heard_s: float


class Positions:
    """What is known of one branch. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._lsns: list[Lsn] = []
        self._asked_s: list[float] = []  # the time of each of them
        self._replicas: dict[str, _Replica] = {}

    # --- What was heard -----------------------------------------------------------------------

    def note_primary(self, lsn: Lsn, asked_s: float) -> None:
        """Take the primary's position, which it had at that time or later."""
        if self._lsns:
            if lsn < self._lsns[-1] or asked_s < self._asked_s[-1]:
                return  # an answer that was overtaken by a later one
            if lsn == self._lsns[-1]:
                self._asked_s[-1] = asked_s
                return
        self._lsns.append(lsn)
        self._asked_s.append(asked_s)
        if len(self._lsns) > SAMPLES_MAX:
            half = SAMPLES_MAX // 2
            self._lsns[:half] = self._lsns[:half:2]
            self._asked_s[:half] = self._asked_s[:half:2]

    def note_replica(self, name: str, lsn: Lsn, heard_s: float) -> None:
        """Take what a replica has replayed. It only grows, as long as nobody says `forget`."""
        known = self._replicas.get(name)
        if known is not None:
            known.lsn = max(known.lsn, lsn)
            known.heard_s = max(known.heard_s, heard_s)
        elif len(self._replicas) < REPLICAS_MAX:
            self._replicas[name] = _Replica(lsn, heard_s)

    def forget(self, name: str) -> None:
        """Know nothing of a replica any more: it has gone, or begins another life."""
        self._replicas.pop(name, None)

    def begin_epoch(self) -> None:
        """Forget the primary's samples: what an old primary wrote last may be nobody's past."""
        self._lsns.clear()
        self._asked_s.clear()

    # --- Questions ----------------------------------------------------------------------------

    @property
    def primary(self) -> Lsn | None:
        """The last position of the primary that was heard; None: there is none."""
        return self._lsns[-1] if self._lsns else None

    def replayed(self, name: str) -> Lsn | None:
        """Return how far a replica is at least; None: not known."""
        known = self._replicas.get(name)
        return None if known is None else known.lsn

    def replica_has(self, name: str, lsn: Lsn) -> bool:
        """Whether a replica is known to have replayed up to a position."""
        known = self._replicas.get(name)
        return known is not None and known.lsn >= lsn

    def lag_ms(self, name: str, now_s: float) -> float | None:
        """Return how old a replica's data are at most, up to a heartbeat; None: not known."""
        known = self._replicas.get(name)
        if known is None or not self._lsns or now_s - known.heard_s > HEARD_S_MAX:
            return None
        at = bisect_right(self._lsns, known.lsn) - 1
        if at < 0:
            return None
        age_s = max(0.0, now_s - self._asked_s[at])
        is_newest = at == len(self._lsns) - 1
        return 0.0 if is_newest and age_s <= HEARD_S_MAX else age_s * 1000

    def choose(
        self,
        names: Sequence[str],
        loads: Mapping[str, int],
        *,
        now_s: float,
        floor: Lsn | None = None,
        lag_ms_max: float | None = None,
        sticky: str | None = None,
    ) -> str | None:
        """Return the least loaded replica that is good enough; of equals `sticky`, or the first.

        `floor`: what it has to have replayed; `lag_ms_max`: how old its data may be. Without either
        everyone will do.
        """
        best: tuple[int, bool] | None = None
        chosen: str | None = None
        for name in names:
            if floor is not None and not self.replica_has(name, floor):
                continue
            if lag_ms_max is not None:
                lag_ms = self.lag_ms(name, now_s)
                if lag_ms is None or lag_ms > lag_ms_max:
                    continue
            rank = (loads.get(name, 0), name != sticky)
            if best is None or rank < best:
                best, chosen = rank, name
        return chosen

    def keep(self, names: Collection[str]) -> None:
        """Forget every replica but these."""
        for name in [name for name in self._replicas if name not in names]:
            del self._replicas[name]
