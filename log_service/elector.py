"""The shell around the election: a leader's ear for computes, and its hand that grants epochs.

    report ──► Election ──► decision ──► an EPOCH entry ──► committed: topology, ingest, orders

There is an Election while this node leads, a new one in every term. A group without computes that
report costs nothing: the clock looks at an Election only while its group is awake, and a group that
has a holder is. A report that brings a decision wakes the group by its proposal.

Why there are never two that may believe to be the primary. An answer to the holder renews its lease
only with a proof that is no older than PROOF_MS_MAX, that this node led: a round of heartbeats that
a majority answered, begun at time p. Whoever leads next was elected after p, and chooses nobody in
place of a silent holder before it has led for `takeover_ms`. The report was sent before it was
answered, at p + PROOF_MS_MAX at the latest, so the lease is over by p + PROOF_MS_MAX + `lease_ms`,
which is less. Check-quorum alone would do for a node that ticks; one that was stopped and goes on
would believe for some ticks more that it leads.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from fabric.ids import Epoch, NodeName
from fabric.rpc_errors import RetryError
from raft.errors import BusyError, NotLeaderError, RaftError

from .branch import Branch, FenceError
from .compute_methods import ComputeInfo, ComputeReport, ComputeState, Orders
from .election import Election, Seen, Standing, SwitchoverError
from .group import Group
from .group_settings import PROOF_MS_MAX
from .methods import Granted
from .record_bodies import EpochBody, Holder

log = structlog.get_logger()

PRIMARY_REPORTS_S: Final = 1.0  # it does so more often
SWITCHOVER_LOOK_MS: Final = 200  # a switchover that is given up is no event of ours


async def grant(group: Group, holder: Holder | None, *, reason: str) -> Granted:
    """Begin a new epoch: the holder of the old one can never commit again."""
    if group.tail is None:
        raise NotLeaderError(group.raft.leader)
    epoch = group.tail.epoch.next()
    await group.propose(EpochBody(epoch, holder))
    end = group.committed.epoch_start
    log.info(
        "epoch granted",
        group=group.name,
        epoch=int(epoch),
        holder=None if holder is None else holder.name,
        end=str(end),
        reason=reason,
    )
    return Granted(epoch, end)


class Elector:
    """Of one group on one node, whether it leads or not."""

    def __init__(
        self, group: Group, node: NodeName, *, is_primary: Callable[[], None] | None = None
    ) -> None:
        """`is_primary` is called when the holder says that it is the primary."""
        self._group = group
        self._node = node
        self._is_primary = is_primary or (lambda: None)
        self._loop = asyncio.get_running_loop()
        self._election: Election | None = None
        self._term = 0
        self._granting: asyncio.Task[None] | None = None
        self._proved_s = 0.0  # when the round began that proves that we lead
        self._primary_heard_s = 0.0
        self._proof: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Decide nothing any more."""
        self._election = None
        for task in (self._granting, self._proof):
            if task is not None:
                task.cancel()

    # --- What comes in ------------------------------------------------------------------------

    async def report(self, report: ComputeReport) -> Orders:
        """Take a report, and answer with orders; RetryError if we do not lead."""
        election = self._leading()
        election.heard(report, self._now_ms())
        if self._is_granted_to(report):
            self._primary_heard_s = self._loop.time()
            if report.state is ComputeState.PRIMARY and report.epoch == self._branch.epoch:
                self._is_primary()
            await self._prove_lead()
            election = self._leading()
        self._decide(election)
        branch, settings = self._branch, self._group.settings
        return Orders(
            node=self._node,
            term=self._group.raft.term,
            epoch=branch.epoch,
            holder=branch.holder,
            epoch_start=branch.epoch_start,
            tli=branch.tli,
            lease_ms=settings.lease_ms,
            drain=election.must_drain(report),
        )

    def tick(self) -> None:
        """Let time pass, while the group is awake; before the core's tick, and its heartbeats.

        The next report will need a proof. Begun now it travels with the heartbeats, and wakes up
        nobody who would not wake up anyway.
        """
        if self._election is None:
            return
        self._decide(self._election)
        now_s = self._loop.time()
        needs_proof = now_s - self._primary_heard_s < PRIMARY_REPORTS_S
        if needs_proof and (now_s - self._proved_s) * 1000 > PROOF_MS_MAX / 3:
            self._begin_proof()

    def follow(self) -> None:
        """Take note that role, term or epoch may have changed."""
        group = self._group
        if not group.is_leading:
            self._election = None
            return
        if self._election is None or self._term != group.raft.term:
            self._term, self._proved_s = group.raft.term, 0.0
            self._election = Election(group.settings, _standing(self._branch), self._now_ms())
        self._election.follow(_standing(self._branch), self._now_ms())

    async def switchover(self, to: NodeName | None, *, by_force: bool) -> Granted:
        """Make another compute the primary, and wait until it has the epoch."""
        election, before = self._leading(), self._branch.epoch
        if to is not None and self._branch.holder is not None and self._branch.holder.name == to:
            return Granted(before, self._branch.epoch_start)  # asked again, or no news
        target = election.begin_switchover(to, self._now_ms(), by_force=by_force)
        log.info("switchover begins", group=self._group.name, to=target, by_force=by_force)
        self._decide(election)
        changed = asyncio.Event()
        self._group.on_commit.add(changed.set)
        try:
            while self._branch.epoch == before:
                if self._leading() is not election:
                    raise RetryError("the lead was lost and won again: ask again")
                if not election.is_switching and self._granting is None:
                    raise SwitchoverError(
                        f"the switchover to {target} was given up: the primary did not shut down "
                        f"in time, or {target} is gone; ask again, or do it by force"
                    )
                changed.clear()
                self._loop.call_later(SWITCHOVER_LOOK_MS / 1000, changed.set)
                await changed.wait()
        finally:
            self._group.on_commit.discard(changed.set)
        holder = self._branch.holder
        if holder is None or holder.name != target:
            found = "nobody" if holder is None else holder.name
            raise SwitchoverError(f"{found} got the epoch instead of {target}")
        return Granted(self._branch.epoch, self._branch.epoch_start)

    # --- Questions ----------------------------------------------------------------------------

    def computes(self) -> tuple[ComputeInfo, ...]:
        """Return what the computes said last."""
        now_ms = self._now_ms()
        return tuple(_info(seen, now_ms) for seen in self._leading().computes())

    # --- Deciding -----------------------------------------------------------------------------

    @property
    def _branch(self) -> Branch:
        return self._group.committed

    def _leading(self) -> Election:
        self.follow()
        if self._election is None:
            leader = self._group.leader_info
            known = "nobody known" if leader is None else leader.node
            raise RetryError(f"{self._node} does not lead {self._group.name}, but {known}")
        return self._election

    def _is_granted_to(self, report: ComputeReport) -> bool:
        holder = self._branch.holder
        return holder is not None and holder.name == report.name

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def _decide(self, election: Election) -> None:
        tail = self._group.tail
        if self._granting is not None or tail is None or tail.epoch != self._branch.epoch:
            return  # somebody is deciding already
        if self._branch.genesis is None:
            return  # nobody knows yet whose WAL it is for
        election.follow(_standing(self._branch), self._now_ms())
        chosen = election.decide(self._now_ms())
        if chosen is not None:
            self._granting = self._loop.create_task(self._grant(chosen, tail.epoch))
            self._granting.add_done_callback(_verify_ended)

    async def _grant(self, chosen: ComputeReport, after: Epoch) -> None:
        holder = Holder(chosen.name, chosen.address, chosen.user, chosen.instance)
        try:
            if self._group.tail is not None and self._group.tail.epoch == after:
                await grant(self._group, holder, reason="election")
        except (NotLeaderError, BusyError, FenceError) as error:
            log.warning("epoch not granted", group=self._group.name, reason=str(error))
        finally:
            self._granting = None

    async def _prove_lead(self) -> None:
        """Return with a proof that we lead which is fresh enough to renew a lease."""
        while (self._loop.time() - self._proved_s) * 1000 > PROOF_MS_MAX:
            try:
                await asyncio.shield(self._begin_proof())
            except RaftError as error:
                raise RetryError(str(error)) from error

    def _begin_proof(self) -> "asyncio.Task[None]":
        if self._proof is None:
            self._proof = self._loop.create_task(self._find_proof())
            self._proof.add_done_callback(_look_at)  # who waited may have gone
        return self._proof

    async def _find_proof(self) -> None:
        begun_s, term = self._loop.time(), self._group.raft.term
        try:
            await self._group.confirm_lead()
            if term == self._group.raft.term:
                self._proved_s = begun_s
        finally:
            self._proof = None


def _standing(branch: Branch) -> Standing:
    return Standing(branch.epoch, branch.holder, branch.end > branch.epoch_start)


def _info(seen: Seen, now_ms: int) -> ComputeInfo:
    report = seen.report
    return ComputeInfo(
        name=report.name,
        instance=report.instance,
        state=report.state,
        address=report.address,
        client_address=report.client_address,
        user=report.user,
        epoch=report.epoch,
        tli=report.tli,
        received=report.received,
        replayed=report.replayed,
        postmaster_pid=report.postmaster_pid,
        agent_pid=report.agent_pid,
        can_lead=report.can_lead,
        complaint=report.complaint,
        heard_ms_ago=now_ms - seen.heard_ms,
    )


def _look_at(task: "asyncio.Task[None]") -> None:
    if not task.cancelled():
        task.exception()


def _verify_ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("granting failed", exc_info=task.exception())
