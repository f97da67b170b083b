"""What holds whatever happens: leaders, servers and clocks that do anything, in any order.

The model plays the shell and the servers: it obeys actions late, in any order, or not at all, and
answers with every event that a real server could cause. After each step it looks at what there is.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fabric.ids import Epoch, NodeName
from fabric.lsn import Lsn, Tli
from log_service.compute_methods import ComputeState, Orders
from log_service.record_bodies import Holder
from sqlnode.compute.machine import (
    Action,
    Discarded,
    Ended,
    EndLife,
    Event,
    Exit,
    Machine,
    OrdersHeard,
    Positioned,
    Promote,
    Promoted,
    Ready,
    ReportNow,
    ShutDown,
    ShutDownDone,
    StartLife,
    StopRequested,
    Tick,
)

ME, OTHER = NodeName("c1"), NodeName("c2")
INSTANCE = 7
LEADING = {ComputeState.PROMOTING, ComputeState.PRIMARY}


class _Shell(RuleBasedStateMachine):
    """A machine among servers and leaders that it must not trust."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(ME, INSTANCE)
        self.now_ms = 10_000
        self.lives: list[int] = []  # that exist: started and not discarded
        self.ending: set[int] = set()
        self.shutting: set[int] = set()
        self.promoting: dict[int, Epoch] = {}
        self.writable: dict[int, Epoch] = {}  # lives that were told to promote
        self.used: list[Epoch] = []
        self.leases: dict[Epoch, int] = {}  # ours, by epoch: until when
        self.newest = Epoch(1)
        self.holders: dict[Epoch, tuple[Holder | None, Lsn, Tli]] = {
            Epoch(1): (None, Lsn(0), Tli(1))
        }
        self.received: dict[int, tuple[Lsn, Tli]] = {}
        self.heard = Epoch(0)
        self.exited = False
        self.take(Tick())

    def take(self, event: Event) -> None:
        before = self.machine.state
        actions = list(self.machine.take(event, self.now_ms))
        if self.machine.state is not before:
            assert actions[0] == ReportNow(), "a change is reported at once"
        for action in actions:
            self.obey(action)

    def obey(self, action: Action) -> None:
        match action:
            case StartLife(life):
                assert not self.lives, "never two servers"
                assert not self.exited
                self.lives.append(life)
                self.received[life] = (Lsn(0), Tli(1))
            case Promote(life, epoch):
                self.verify_promotion(life, epoch)
                self.promoting[life] = self.writable[life] = epoch
                self.used.append(epoch)
            case ShutDown(life):
                assert life in self.lives
                assert life not in self.shutting, "it is asked once"
                self.shutting.add(life)
            case EndLife(life, _):
                assert life in self.lives
                assert life not in self.ending, "it is ended once"
                self.ending.add(life)
                self.writable.pop(life, None)  # the shell kills it before anything else
            case Exit():
                assert not self.lives, "no server is left behind"
                self.exited = True
            case ReportNow():
                pass

    def verify_promotion(self, life: int, epoch: Epoch) -> None:
        holder, start, tli = self.holders[epoch]
        assert life in self.lives
        assert life not in self.ending
        assert holder is not None
        assert (holder.name, holder.instance) == (ME, INSTANCE), "only the holder promotes"
        assert epoch == self.heard, "under the newest epoch that it has heard of"
        assert epoch not in self.used, "an epoch has one promotion"
        received, its_tli = self.received[life]
        assert its_tli == tli, "on the branch's timeline"
        assert received >= start, "with all WAL of the epochs before"
        assert self.now_ms < self.leases[epoch]

    # What may happen.

    @rule(ms=st.sampled_from([1, 10, 100, 500, 1_000, 4_000]))
    def time_passes(self, ms: int) -> None:
        due_ms = self.machine.deadline_ms()
        while due_ms is not None and due_ms <= self.now_ms + ms:
            wait_ms = max(0, due_ms - self.now_ms)
            self.now_ms += wait_ms
            ms -= wait_ms
            self.take(Tick())
            next_ms = self.machine.deadline_ms()
            assert next_ms != due_ms or next_ms is None or next_ms > self.now_ms, (
                "a timer that spins"
            )
            due_ms = next_ms
        self.now_ms += ms

    @rule(
        who=st.sampled_from([ME, ME, ME, OTHER, None]),
        instance=st.sampled_from([INSTANCE, INSTANCE, INSTANCE, 8]),
        start=st.integers(0, 3),
    )
    def epoch_is_granted(self, who: NodeName | None, instance: int, start: int) -> None:
        self.newest = self.newest.next()
        holder = None if who is None else Holder(who, "unix:///x", instance=instance)
        self.holders[self.newest] = (holder, Lsn(start), Tli(1 + start % 2))

    @rule(
        back=st.sampled_from([0, 0, 0, 0, 1, 2]),
        late_ms=st.sampled_from([0, 0, 0, 100, 2_000]),
        lease_ms=st.integers(500, 3_000),
        drain=st.sampled_from([False, False, False, True]),
    )
    def leader_answers(self, back: int, late_ms: int, lease_ms: int, drain: bool) -> None:
        """Perhaps one that was deposed, perhaps long after the report was sent."""
        epoch = Epoch(max(1, self.newest - back))
        holder, start, tli = self.holders[epoch]
        sent_ms = self.now_ms - late_ms
        is_ours = holder is not None and (holder.name, holder.instance) == (ME, INSTANCE)
        if is_ours:
            self.leases[epoch] = max(self.leases.get(epoch, 0), sent_ms + lease_ms)
        self.heard = max(self.heard, epoch)
        orders = Orders(
            node=NodeName("log-1"), term=1, epoch=epoch, holder=holder, epoch_start=start,
            tli=tli, lease_ms=lease_ms, drain=drain,
        )  # fmt: skip
        self.take(OrdersHeard(sent_ms, orders))

    @rule()
    def all_goes_well(self) -> None:
        """The next steps that are expected, so that promotions are common."""
        if self.ending:
            self.server_is_discarded()
        if not self.lives:
            return
        self.server_is_ready()
        _, start, tli = self.holders[self.newest]
        self.server_moves(int(start), int(tli))
        self.leader_answers(back=0, late_ms=0, lease_ms=1_800, drain=False)
        if self.promoting:
            self.server_is_promoted()

    @precondition(lambda self: self.lives)
    @rule()
    def server_is_ready(self) -> None:
        self.take(Ready(self.lives[0]))

    @precondition(lambda self: self.lives)
    @rule(received=st.sampled_from([0, 1, 2, 3, 3, 3]), tli=st.integers(1, 2))
    def server_moves(self, received: int, tli: int) -> None:
        life = self.lives[0]
        self.received[life] = (Lsn(received), Tli(tli))
        self.take(Positioned(life, Lsn(received), Lsn(received), Tli(tli)))

    @precondition(lambda self: self.promoting)
    @rule()
    def server_is_promoted(self) -> None:
        self.take(Promoted(self.promoting.popitem()[0]))

    @precondition(lambda self: self.lives)
    @rule()
    def server_ends(self) -> None:
        self.writable.pop(self.lives[0], None)
        self.take(Ended(self.lives[0], "it ended"))

    @precondition(lambda self: self.shutting)
    @rule()
    def server_has_shut_down(self) -> None:
        life = self.shutting.pop()
        self.writable.pop(life, None)
        self.take(ShutDownDone(life, Lsn(5)))

    @precondition(lambda self: self.ending)
    @rule()
    def server_is_discarded(self) -> None:
        life = self.ending.pop()
        self.lives.remove(life)
        self.shutting.discard(life)
        self.promoting.pop(life, None)
        self.take(Discarded(life))

    @rule(life=st.integers(0, 3))
    def somebody_speaks_late(self, life: int) -> None:
        """A task of a life that is over."""
        if life not in self.lives:
            for event in (Ready(life), Promoted(life), Ended(life, "late"), Discarded(life)):
                self.take(event)

    @precondition(lambda self: len(self.used) > 2)
    @rule()
    def agent_is_stopped(self) -> None:
        self.take(StopRequested())

    # What must hold.

    @invariant()
    def no_server_writes_without_its_epoch_and_lease(self) -> None:
        for epoch in self.writable.values():
            assert epoch == self.heard, "a newer epoch ends it"
            # Between two ticks time passes; `time_passes` ticks at every deadline.
            assert self.now_ms <= self.leases[epoch]

    @invariant()
    def what_is_reported_is_so(self) -> None:
        state, epoch = self.machine.state, self.machine.epoch
        if state in LEADING:
            holder = self.holders[epoch][0]
            assert holder is not None
            assert holder.name == ME
        if state is ComputeState.PRIMARY:
            assert epoch in self.writable.values() or self.machine.phase.name == "DRAINING"
        if state in {ComputeState.REPLICA, ComputeState.DOWN, ComputeState.STARTING}:
            assert epoch == 0

    @invariant()
    def something_is_always_due_or_under_way(self) -> None:
        """Nobody waits for ever for what nobody does."""
        if not self.lives and not self.exited:
            assert self.machine.deadline_ms() is not None


TestShell = _Shell.TestCase
TestShell.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
