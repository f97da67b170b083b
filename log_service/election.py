"""Who is to be the primary: the rules by which a log leader chooses. No I/O, no clock.

    election.follow(standing, now_ms)        what the log says: epoch and holder
    election.heard(report, now_ms)           what a compute says of itself
    election.decide(now_ms)                  None, or the compute that is to get the next epoch

Nothing here can lose a commit: an epoch that is granted to the wrong compute, or twice, costs a
failover. What is decided here is who serves, how soon, and that there are never two who may believe
to. For the latter a primary may act for `lease_ms` after a report that was answered, and here
nobody is chosen in place of a silent one before `takeover_ms` are over.

A new leader begins with an empty Election: it waits out the lease of a primary that it knows from
the log alone. Time that passed while we did not listen is nobody's silence: when our process was
stopped for a while, what the others said meanwhile is still on its way to us. So there is a second
clock, which stands still then; by it silence is counted, and how long a promotion takes.

Every promotion has an epoch of its own: a compute that failed and comes back gets another one.
"""

from dataclasses import dataclass
from typing import Final

from fabric.ids import Epoch, NodeName
from fabric.lsn import Lsn

from .compute_methods import ComputeReport, ComputeState
from .group_settings import GroupSettings
from .record_bodies import Holder

AWAY_MS: Final = 500  # not called for so long, we were away; it is three bundles of ticks
SWITCHOVER_MS: Final = 10_000
SHORT_REIGN_MS: Final = 10_000
BLEMISH_MS: Final = 60_000  # for so long a short reign is held against a compute
FORGET_MS: Final = 60_000
COMPUTES_MAX: Final = 1_000


class SwitchoverError(Exception):
    """A switchover cannot begin, or did not succeed: the sentence says why."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is committed. `has_begun`: there is WAL of this epoch, so its holder was promoted."""

    epoch: Epoch = Epoch(0)  # noqa: RUF009  # an immutable value
    holder: Holder | None = None
    has_begun: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A compute: its last report, when that came, also by the clock that stands still while we are
    away, and since when by that one it says the same of its role.
    """

    report: ComputeReport
    heard_ms: int
    heard_clock_ms: int
    since_clock_ms: int


@dataclass(frozen=True, slots=True)
class _Switchover:
    target: NodeName
    end_ms: int
    by_force: bool


class Election:
    """One leader's view, in one term. `now_ms` never goes backwards."""

    def __init__(self, settings: GroupSettings, standing: Standing, now_ms: int) -> None:
        self._settings = settings
        self._standing = standing
        self._computes: dict[NodeName, Seen] = {}
        self._called_ms = now_ms
        self._away_ms = 0
        # Of the epoch and of its WAL, as far as we know: when we began to lead, if before.
        self._granted_clock_ms = self._begun_clock_ms = now_ms
        self._is_grant_known = False  # whether we saw the epoch begin
        self._blemished_ms: dict[NodeName, int] = {}
        self._switchover: _Switchover | None = None

    # --- What happens -------------------------------------------------------------------------

    def follow(self, standing: Standing, now_ms: int) -> None:
        """Take what the log says now."""
        clock_ms = self._pass_time(now_ms)
        before, self._standing = self._standing, standing
        if standing.has_begun and (standing.epoch != before.epoch or not before.has_begun):
            self._begun_clock_ms = clock_ms
        if standing.epoch == before.epoch:
            return
        reign_ms = clock_ms - self._granted_clock_ms
        if before.holder is not None and self._is_grant_known and reign_ms < SHORT_REIGN_MS:
            self._blemished_ms[before.holder.name] = now_ms
        self._granted_clock_ms, self._is_grant_known = clock_ms, True
        self._switchover = None

    def heard(self, report: ComputeReport, now_ms: int) -> None:
        """Take a report."""
        since_ms = clock_ms = self._pass_time(now_ms)
        before = self._computes.get(report.name)
        if before is not None and _role_of(before.report) == _role_of(report):
            since_ms = before.since_clock_ms
        if before is None and len(self._computes) >= COMPUTES_MAX:
            longest = min(self._computes.values(), key=lambda seen: seen.heard_ms)
            del self._computes[longest.report.name]
        self._computes[report.name] = Seen(report, now_ms, clock_ms, since_ms)

    def _pass_time(self, now_ms: int) -> int:
        """Forget what is over; return what the clock says that stands still while we are away."""
        if now_ms - self._called_ms >= AWAY_MS:
            self._away_ms += now_ms - self._called_ms
        self._called_ms = now_ms
        for seen in [s for s in self._computes.values() if now_ms - s.heard_ms >= FORGET_MS]:
            del self._computes[seen.report.name]
        for name, since_ms in list(self._blemished_ms.items()):
            if now_ms - since_ms >= BLEMISH_MS:
                del self._blemished_ms[name]
        if self._switchover is not None and now_ms >= self._switchover.end_ms:
            self._switchover = None
        return now_ms - self._away_ms

    def begin_switchover(self, to: NodeName | None, now_ms: int, *, by_force: bool) -> NodeName:
        """Begin to make another compute the primary; return which one."""
        self._pass_time(now_ms)
        if self._switchover is not None:
            raise SwitchoverError(f"a switchover to {self._switchover.target} is under way")
        candidates = [seen for seen in self._candidates(now_ms) if not self._is_holder(seen)]
        if to is None:
            if not candidates:
                raise SwitchoverError("there is no replica that could become the primary")
            to = self._best(candidates).name
        elif to not in {seen.report.name for seen in candidates}:
            raise SwitchoverError(f"{to} cannot become the primary: {self._why_not(to, now_ms)}")
        self._switchover = _Switchover(to, now_ms + SWITCHOVER_MS, by_force)
        return to

    # --- Questions ----------------------------------------------------------------------------

    @property
    def is_switching(self) -> bool:
        """Whether a switchover is under way."""
        return self._switchover is not None

    def must_drain(self, report: ComputeReport) -> bool:
        """Tell whether this compute is the primary and is to shut down for another one."""
        return (
            self._switchover is not None
            and not self._switchover.by_force
            and self._is_granted(report)
        )

    def computes(self) -> list[Seen]:
        """Return who reported lately, by name."""
        return [self._computes[name] for name in sorted(self._computes)]

    def decide(self, now_ms: int) -> ComputeReport | None:
        """Return who is to get the next epoch; None: all is well, or nobody can. Ask often."""
        clock_ms = self._pass_time(now_ms)
        candidates = self._candidates(now_ms)
        holder = self._standing.holder
        is_vacant = holder is None or self._is_gone(holder, clock_ms)
        if self._switchover is not None:
            target = next((c for c in candidates if c.report.name == self._switchover.target), None)
            if target is None:
                self._switchover = None  # an ordinary failover, if there has to be one
            elif is_vacant or self._switchover.by_force:
                # Drained, most of the time. That the target has all WAL by then is its own affair:
                # it promotes no sooner, and asks for it more often than its reports come.
                return target.report
        if not is_vacant and self._is_stuck(clock_ms):
            candidates = [seen for seen in candidates if not self._is_holder(seen)]
            is_vacant = True
        return self._best(candidates) if is_vacant and candidates else None

    # --- The holder ---------------------------------------------------------------------------

    def _is_gone(self, holder: Holder, clock_ms: int) -> bool:
        """Tell whether the holder is not the primary, and is not about to be."""
        seen = self._computes.get(holder.name)
        if seen is None or seen.heard_clock_ms < self._granted_clock_ms:
            return self._is_silent(seen, clock_ms)  # nothing since the grant
        if not self._is_granted(seen.report):
            return True  # another life of its agent
        match seen.report.state:
            case ComputeState.PRIMARY | ComputeState.PROMOTING:
                is_ours = seen.report.epoch == self._standing.epoch
                return not is_ours or self._is_silent(seen, clock_ms)
            case ComputeState.REPLICA:
                return self._has_missed_it(seen, clock_ms) or self._is_silent(seen, clock_ms)
            case ComputeState.STARTING | ComputeState.DOWN | ComputeState.DRAINED:
                return True

    def _has_missed_it(self, seen: Seen, clock_ms: int) -> bool:
        """Tell whether a holder that says it is a replica will not become the primary any more.

        Usually it has not heard of its luck yet. But there may be WAL of its epoch: then it was the
        primary, and failed, and is back. Reports that were under way when it was promoted do not
        count.
        """
        if self._standing.has_begun:
            return seen.heard_clock_ms - self._begun_clock_ms >= self._settings.fresh_ms
        return clock_ms - self._granted_clock_ms >= self._settings.promote_ms

    def _is_silent(self, seen: Seen | None, clock_ms: int) -> bool:
        since_ms = self._granted_clock_ms
        if seen is not None:
            since_ms = max(since_ms, seen.heard_clock_ms)
        return clock_ms - since_ms >= self._settings.takeover_ms

    def _is_stuck(self, clock_ms: int) -> bool:
        """Tell whether the holder has been becoming the primary for too long."""
        holder = self._standing.holder
        seen = None if holder is None else self._computes.get(holder.name)
        return (
            seen is not None
            and seen.report.state is ComputeState.PROMOTING
            and clock_ms - seen.since_clock_ms >= self._settings.promote_ms
        )

    def _is_granted(self, report: ComputeReport) -> bool:
        """Tell whether the epoch was granted to this compute, in this life of it."""
        holder = self._standing.holder
        return (
            holder is not None
            and holder.name == report.name
            and holder.instance in {0, report.instance}
        )

    def _is_holder(self, seen: Seen) -> bool:
        holder = self._standing.holder
        return holder is not None and holder.name == seen.report.name

    # --- Candidates ---------------------------------------------------------------------------

    def _candidates(self, now_ms: int) -> list[Seen]:
        return [seen for seen in self._computes.values() if self._can_lead(seen, now_ms)]

    def _can_lead(self, seen: Seen, now_ms: int) -> bool:
        return (
            seen.report.state is ComputeState.REPLICA
            and seen.report.can_lead
            and now_ms - seen.heard_ms <= self._settings.fresh_ms
        )

    def _best(self, candidates: list[Seen]) -> ComputeReport:
        """Return the one that has most; last comes who has just failed, so that two that fail do
        not pass the epoch to and fro beside a third that works.
        """

        def rank(seen: Seen) -> tuple[bool, bool, Lsn, Lsn]:
            report = seen.report
            is_blemished = report.name in self._blemished_ms
            return not self._is_holder(seen), not is_blemished, report.received, report.replayed

        by_name = sorted(candidates, key=lambda seen: seen.report.name)
        return max(by_name, key=rank).report

    def _why_not(self, name: NodeName, now_ms: int) -> str:
        seen = self._computes.get(name)
        if seen is None or now_ms - seen.heard_ms > self._settings.fresh_ms:
            return "it does not report"
        if seen.report.state is not ComputeState.REPLICA:
            return f"it is {seen.report.state}, not a replica"
        if not seen.report.can_lead:
            return "its settings say that it never leads"
        return "it has the epoch already"


def _role_of(report: ComputeReport) -> tuple[int, ComputeState, Epoch]:
    return report.instance, report.state, report.epoch
