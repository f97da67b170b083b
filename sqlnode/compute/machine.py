"""What a compute does next: a state machine without I/O. Events and the time in, actions out.

    WAITING ─► STARTING ─► REPLICA ─► PROMOTING ─► PRIMARY ─► DRAINING ─► DRAINED ─┐
       ▲           └───────────┴──────────┴───────────┴──────────┴─► ENDING ───────┤
       └───────────────────────────────────────────────────────────────────────────┘

One *life* is one data directory and the postgres over it: built from a cut, started as a replica,
ended once, never started again. Whatever is in doubt ends the life; the next one is built at once,
or after a pause that grows when lives end soon after they began.

The rules that keep data safe are the log's; those here keep a compute from being in their way, and
from serving what is not true any more:

- It promotes only under an epoch of which it is the holder, this very life of the agent, and only
  once for an epoch; only when it has received all WAL up to the epoch's start, on its timeline.
- It acts as the primary for as long as its lease, counted from when the last report that was
  answered was *sent*; and until it hears of another epoch. Then its postgres is killed.
- There are never two servers: a life begins when the one before is gone, directory and all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

from fabric.ids import Epoch, NodeName
from fabric.lsn import Lsn, Tli
from log_service.compute_methods import COMPLAINT_CHARACTERS_MAX, ComputeState, Orders


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """Times, in milliseconds."""

    pause_ms_min: int = 200  # after the second failure in a row; after the first there is none
    pause_ms_max: int = 5_000
    settled_ms: int = 3_000  # a life that was ready for so long has not failed
    patience_ms: int = 2_000  # a holder that cannot promote for so long says why
    promote_ms_max: int = 60_000
    shutdown_ms_max: int = 60_000  # the lease ends most of them sooner
    drain_ms: int = 0  # for statements on a replica that is told to end, before it shuts down
    drained_ms_max: int = 3_000  # nobody took over for so long: be a replica that can


class Phase(Enum):
    """Where a compute is."""

    WAITING = auto()  # for the next life
    STARTING = auto()
    REPLICA = auto()
    PROMOTING = auto()
    PRIMARY = auto()
    DRAINING = auto()  # a primary that shuts down in order
    DRAINED = auto()  # that has; all of its WAL is in the log
    STOPPING = auto()  # a replica that shuts down because the agent ends
    ENDING = auto()  # it is killed, and its directory removed
    EXITED = auto()


_LEADING: Final = frozenset({Phase.PROMOTING, Phase.PRIMARY, Phase.DRAINING})
_STATES: Final = {
    Phase.WAITING: ComputeState.DOWN,
    Phase.STARTING: ComputeState.STARTING,
    Phase.REPLICA: ComputeState.REPLICA,
    Phase.PROMOTING: ComputeState.PROMOTING,
    Phase.PRIMARY: ComputeState.PRIMARY,
    Phase.DRAINING: ComputeState.PRIMARY,
    Phase.DRAINED: ComputeState.DRAINED,
    Phase.STOPPING: ComputeState.DOWN,
    Phase.ENDING: ComputeState.DOWN,
    Phase.EXITED: ComputeState.DOWN,
}


# --- Events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OrdersHeard:
    """The leader has answered a report that was sent at `sent_ms`."""

    sent_ms: int
    orders: Orders


@dataclass(frozen=True, slots=True)
class Ready:
    """The server takes connections, as a replica."""

    life: int


@dataclass(frozen=True, slots=True)
class Positioned:
    """How much WAL the server has, and of which timeline."""

    life: int
    received: Lsn
    replayed: Lsn
    tli: Tli


@dataclass(frozen=True, slots=True)
class Promoted:
    """The server takes writes."""

    life: int


@dataclass(frozen=True, slots=True)
class ShutDownDone:
    """The server has shut down in order; where its WAL ends."""

    life: int
    end: Lsn


@dataclass(frozen=True, slots=True)
class Ended:
    """The server is gone, could not be started, or is not to be trusted any more."""

    life: int
    reason: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """Nothing is left of a life: no process, no file that a later one could see."""

    life: int


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The agent shall end."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = (
    OrdersHeard
    | Ready
    | Positioned
    | Promoted
    | ShutDownDone
    | Ended
    | Discarded
    | StopRequested
    | Tick
)


# --- Actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartLife:
    """Build a directory from the newest cut, and start postgres over it; then Ready, or Ended."""

    life: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Make it a primary; then Promoted, or Ended."""

    life: int
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Shut it down in order; then ShutDownDone, or Ended."""

    life: int


@dataclass(frozen=True, slots=True)
class EndLife:
    """Kill it now, and remove its directory; then Discarded."""

    life: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReportNow:
    """Tell the leader, without waiting for the next regular report."""


@dataclass(frozen=True, slots=True)
class Exit:
    """There is nothing left to do: the agent ends."""


Action: TypeAlias = StartLife | Promote | ShutDown | EndLife | ReportNow | Exit


# --- The machine ----------------------------------------------------------------------------------


class Machine:
    """Invariant: `_has_server` from StartLife until Discarded, and then never twice at a time."""

    def __init__(
        self, name: NodeName, instance: int, settings: MachineSettings | None = None
    ) -> None:
        self.phase = Phase.WAITING
        self.life = 0
        self.received, self.replayed, self.tli = Lsn(0), Lsn(0), Tli(1)
        self._name, self._instance = name, instance
        self._settings = settings or MachineSettings()
        self._now_ms = 0
        self._since_ms = 0  # when the phase began
        self._ready_ms: int | None = None  # when the server of this life was
        self._actions: list[Action] = []
        self._has_server = False
        self._is_stopping = False
        self._failures = 0
        self._reason = ""  # why the last life ended
        # What the leader said last.
        self._epoch, self._epoch_start, self._branch_tli = Epoch(0), Lsn(0), Tli(1)
        self._is_holder = self._drains = False
        self._lease_until_ms = 0
        self._granted_ms = 0
        # Under which epoch this agent has promoted last; it never does so twice under one.
        self._used_epoch = Epoch(0)

    # What is told of it.

    @property
    def state(self) -> ComputeState:
        """What the leader is told."""
        if self.phase is Phase.REPLICA and self._wants_promotion:
            return ComputeState.PROMOTING
        return _STATES[self.phase]

    @property
    def epoch(self) -> Epoch:
        """Under which it is promoting, primary or drained; else 0."""
        if self.phase is Phase.REPLICA:
            return self._epoch if self._wants_promotion else Epoch(0)
        is_used = self.phase in _LEADING or self.phase is Phase.DRAINED
        return self._used_epoch if is_used else Epoch(0)

    @property
    def lease_left_ms(self) -> int:
        """For how long it may act as the primary."""
        return max(0, self._lease_until_ms - self._now_ms)

    @property
    def complaint(self) -> str:
        """What is wrong, for whoever looks at the cluster; empty if all is well."""
        if self.phase is Phase.REPLICA and self._wants_promotion:
            if self._now_ms - self._granted_ms < self._settings.patience_ms:
                return ""
            return (
                f"it cannot be promoted yet: epoch {self._epoch:d} begins at {self._epoch_start} "
                f"on timeline {self._branch_tli:d}, and it has WAL up to {self.received} "
                f"on timeline {self.tli:d}"
            )
        if self.phase in {Phase.WAITING, Phase.STARTING, Phase.ENDING}:
            return self._reason[:COMPLAINT_CHARACTERS_MAX]
        return ""

    def deadline_ms(self) -> int | None:
        """When a Tick is due even if nothing happens; None: never."""
        settings, due_ms = self._settings, []
        if self.phase in _LEADING or (self.phase is Phase.REPLICA and self._wants_promotion):
            due_ms.append(self._lease_until_ms)
        if not self._has_server:
            pauses_ms = {
                Phase.WAITING: self._pause_ms,
                Phase.DRAINED: settings.drained_ms_max,
            }
        else:
            pauses_ms = {
                Phase.PROMOTING: settings.promote_ms_max,
                Phase.DRAINING: settings.shutdown_ms_max,
                Phase.STOPPING: settings.drain_ms + settings.shutdown_ms_max,
            }
        if self.phase in pauses_ms:
            due_ms.append(self._since_ms + pauses_ms[self.phase])
        return min(due_ms, default=None)

    # What happens.

    def take(self, event: Event, now_ms: int) -> Sequence[Action]:
        """Take an event; what to do now, in this order."""
        before = self.state
        self._now_ms, self._actions = max(now_ms, self._now_ms), []
        if isinstance(event, OrdersHeard):
            self._hear(event.sent_ms, event.orders)
        elif isinstance(event, StopRequested):
            self._is_stopping = True
        elif not isinstance(event, Tick) and event.life == self.life:
            self._live(event)
        self._decide()
        if self.state is not before:
            self._actions.insert(0, ReportNow())
        return self._actions

    def _hear(self, sent_ms: int, orders: Orders) -> None:
        if orders.epoch < self._epoch:
            return  # of a leader that was deposed
        if orders.epoch > self._epoch:
            self._lease_until_ms, self._granted_ms = 0, self._now_ms
        self._epoch, self._epoch_start, self._branch_tli = (
            orders.epoch, orders.epoch_start, orders.tli,
        )  # fmt: skip
        holder = orders.holder
        self._is_holder = holder is not None and (holder.name, holder.instance) == (
            self._name, self._instance,
        )  # fmt: skip
        self._drains = orders.drain and self._is_holder
        if self._is_holder:
            self._lease_until_ms = max(self._lease_until_ms, sent_ms + orders.lease_ms)

    def _live(
        self, event: Ready | Positioned | Promoted | ShutDownDone | Ended | Discarded
    ) -> None:
        match event:
            case Ready() if self.phase is Phase.STARTING:
                self._ready_ms = self._now_ms
                self._enter(Phase.REPLICA)
            case Positioned(_, received, replayed, tli) if self.phase is not Phase.DRAINED:
                self.received, self.replayed, self.tli = received, replayed, tli
            case Promoted() if self.phase is Phase.PROMOTING:
                self._enter(Phase.PRIMARY)
            case ShutDownDone(_, end) if self.phase is Phase.DRAINING:
                self.received = self.replayed = end
                self._enter(Phase.DRAINED)
                self._actions.append(EndLife(self.life, "it has shut down in order"))
            case ShutDownDone() if self._has_server:
                self._end("postgres has shut down", is_failure=True)
            case Ended(_, reason) if self._has_server:
                self._end(reason, is_failure=True)
            case Discarded() if self._has_server:
                self._has_server = False
                if self.phase is Phase.ENDING:
                    self._enter(Phase.WAITING)
            case _:
                pass

    # What follows from it.

    def _decide(self) -> None:
        if self._is_stopping:
            self._stop()
        elif self.phase is Phase.DRAINED and not self._has_server and self._is_over():
            self._failures = 0
            self._enter(Phase.WAITING)
        if self.phase in _LEADING:
            self._verify_lead()
        stopping_ms_max = self._settings.drain_ms + self._settings.shutdown_ms_max
        if self.phase is Phase.STOPPING and self._lasts(stopping_ms_max):
            self._end("it did not shut down in time")
        if self.phase is Phase.WAITING and not self._has_server and self._lasts(self._pause_ms):
            self._begin()
        if self.phase is Phase.REPLICA and self._may_promote():
            self._used_epoch = self._epoch
            self._enter(Phase.PROMOTING)
            self._actions.append(Promote(self.life, self._epoch))
        if self.phase is Phase.PRIMARY and (self._drains or self._is_stopping):
            self._enter(Phase.DRAINING)
            self._actions.append(ShutDown(self.life))

    def _stop(self) -> None:
        if self.phase is Phase.EXITED:
            return
        if not self._has_server:
            # The leader keeps what it was told last: that a primary has drained.
            self.phase = Phase.EXITED if self.phase is not Phase.DRAINED else self.phase
            self._actions.append(Exit())
        elif self.phase in {Phase.STARTING, Phase.PROMOTING}:
            self._end("the agent ends")
        elif self.phase is Phase.REPLICA:
            self._enter(Phase.STOPPING)
            self._actions.append(ShutDown(self.life))

    def _verify_lead(self) -> None:
        settings = self._settings
        if not self._is_holder or self._used_epoch != self._epoch:
            self._end(f"it is not the primary any more: epoch {self._epoch:d} is another's")
        elif self._now_ms >= self._lease_until_ms:
            self._end("it is cut off from the log's leader: its lease has ended")
        elif self.phase is Phase.PROMOTING and self._lasts(settings.promote_ms_max):
            self._end("it did not become a primary in time", is_failure=True)
        elif self.phase is Phase.DRAINING and self._lasts(settings.shutdown_ms_max):
            self._end("it did not shut down in time", is_failure=True)

    def _begin(self) -> None:
        self.life += 1
        self._has_server = True
        self.received = self.replayed = Lsn(0)
        self.tli, self._ready_ms = Tli(1), None
        self._enter(Phase.STARTING)
        self._actions.append(StartLife(self.life))

    def _end(self, reason: str, *, is_failure: bool = False) -> None:
        """Once a life, whatever comes first."""
        if self.phase in {Phase.ENDING, Phase.DRAINED, Phase.EXITED}:
            return
        settled_ms = self._settings.settled_ms
        has_settled = self._ready_ms is not None and self._now_ms >= self._ready_ms + settled_ms
        if not is_failure or has_settled:
            self._failures = 0
        self._failures += is_failure
        self._reason = reason
        self._enter(Phase.ENDING)
        self._actions.append(EndLife(self.life, reason))

    def _enter(self, phase: Phase) -> None:
        self.phase, self._since_ms = phase, self._now_ms

    def _lasts(self, duration_ms: int) -> bool:
        return self._now_ms >= self._since_ms + duration_ms

    @property
    def _pause_ms(self) -> int:
        """No pause after a first failure: it need not happen again."""
        settings = self._settings
        if self._failures < 2:  # noqa: PLR2004  # the second
            return 0
        doublings = min(self._failures - 2, 20)
        return min(settings.pause_ms_max, settings.pause_ms_min << doublings)

    @property
    def _wants_promotion(self) -> bool:
        return (
            self._is_holder
            and self._epoch > self._used_epoch
            and self._now_ms < self._lease_until_ms
            and not self._is_stopping
        )

    def _may_promote(self) -> bool:
        """Whether all WAL of the epochs before is here.

        On an older timeline it would fork off a second time, and take a number that is used.
        """
        has_all = self.tli == self._branch_tli and self.received >= self._epoch_start
        return self._wants_promotion and has_all

    def _is_over(self) -> bool:
        return self._epoch != self._used_epoch or self._lasts(self._settings.drained_ms_max)
