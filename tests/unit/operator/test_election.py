"""Who leads: one at a time, whatever clocks, networks and processes do, and nearly always somebody.

In scope: the decisions of election.py, by example and in a world of skewed clocks, lost answers and
stopped processes; the shell in virtual time, with work that takes a while to end, and over HTTP.
Out of scope: what the leader does.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from fixtures.kube_api import KubeApi
from fixtures.kube_objects import ApiFault, KubeObjects, Request
from fixtures.virtual_time import run_virtually
from structlog.testing import capture_logs
from unit.fabric.rpc_world import in_loop

from kube_operator.election import (
    LEASE_S,
    RENEW_DEADLINE_S,
    RENEW_EVERY_S,
    RETRY_EVERY_S,
    Acquire,
    Election,
    LeaseRecord,
    Renew,
    Wait,
    manifest_of,
    record_of,
)
from kube_operator.elector import Elector
from kube_operator.kube_port import LEASE, Conflict, Key, Kind, KubePort, NotFound, Unavailable
from kube_operator.lightkube_port import LightkubePort

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Json = dict[str, Any]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
KEY = Key("operators", "seawall-operator")


def held(by: str, version: int = 1, **fields: Any) -> LeaseRecord:
    return LeaseRecord(by, str(version), **fields)


# --- decisions ------------------------------------------------------------------------------------


def test_free_lease_is_taken() -> None:
    for record in (None, held(""), held("me")):
        election = Election("me")
        election.observed(record, 0.0)
        assert election.decide(0.0) == Acquire(record)
        assert not election.is_leader(0.0), "not before it is written"


def test_lease_of_another_is_taken_after_it_has_not_changed_for_its_length() -> None:
    election = Election("me")
    for now_s in range(0, 100, 2):
        election.observed(held("other", now_s), float(now_s))
        assert isinstance(election.decide(now_s + 1.0), Wait)
    election.observed(held("other", 98), 110.0)
    assert isinstance(election.decide(98.0 + LEASE_S - 0.1), Wait)
    assert election.decide(98.0 + LEASE_S) == Acquire(held("other", 98))


def test_times_and_short_lengths_in_the_lease_are_not_believed() -> None:
    election = Election("me")
    election.observed(held("other", lease_s=1, renewed="1970-01-01T00:00:00.000000Z"), 0.0)
    assert isinstance(election.decide(LEASE_S - 1.0), Wait)
    election.observed(held("other", 2, lease_s=600), 0.0)
    assert isinstance(election.decide(599.0), Wait)


def test_holder_renews_and_stops_at_its_deadline_counted_from_the_beginning_of_the_write() -> None:
    election = Election("me")
    election.wrote(held("me"), began_s=5.0, now_s=9.0)
    assert election.decide(9.0) == Wait(RENEW_EVERY_S - 4.0)
    assert election.decide(5.0 + RENEW_EVERY_S) == Renew(held("me"))
    assert election.is_leader(5.0 + RENEW_DEADLINE_S - 0.1)
    assert not election.is_leader(5.0 + RENEW_DEADLINE_S)


def test_holder_that_sees_another_in_the_lease_stops_at_once() -> None:
    for record in (held("other", 2), None):
        election = Election("me")
        election.wrote(held("me"), began_s=0.0, now_s=0.0)
        election.observed(record, 1.0)
        assert not election.is_leader(1.0)


def test_holder_whose_answer_was_lost_goes_on_from_the_version_that_it_sees() -> None:
    election = Election("me")
    election.wrote(held("me", 1), began_s=0.0, now_s=0.0)
    election.observed(held("me", 2), 11.0)
    assert election.decide(12.0) == Renew(held("me", 2))
    assert not election.is_leader(RENEW_DEADLINE_S), "but nothing was acknowledged"


def test_records_tell_people_who_leads_since_when_and_how_often_it_changed() -> None:
    election = Election("me")
    first = election.next_record(None, NOW)
    assert (first.acquired, first.renewed) == ("2026-01-02T03:04:05.000678Z",) * 2
    renewed = election.next_record(replace(first, acquired="then", version="7"), NOW)
    assert (renewed.acquired, renewed.version, renewed.transitions) == ("then", "7", 0)
    taken = election.next_record(held("other", 7, transitions=3, acquired="then"), NOW)
    assert (taken.acquired, taken.version, taken.transitions) == (first.acquired, "7", 4)


def test_record_survives_the_api_and_an_odd_lease_is_nobodys() -> None:
    record = held("me", 7, transitions=2, acquired="a", renewed="b")
    assert record_of(manifest_of(record, KEY)) == record
    odd = record_of({"metadata": {"resourceVersion": "1"}, "spec": None})
    assert (odd.holder, odd.version) == ("", "1")


# --- a world of bad clocks ------------------------------------------------------------------------


@dataclass
class Call:
    """A request on its way: it arrives, perhaps, and is answered, perhaps."""

    write: LeaseRecord | None
    arrives_s: float
    answer_s: float
    began_s: float  # by the clock of the sender
    is_lost: Literal["", "before", "after"]
    answer: tuple[bool, LeaseRecord | None] | None = None


@dataclass
class Candidate:
    """An operator with a clock that is slow or fast, and a process that may be stopped."""

    election: Election
    rate: float
    offset_s: float
    call: Call | None = None
    sleeps_until_s: float = 0.0
    must_look: bool = True

    def clock(self, world_s: float) -> float:
        """Return what its clock says."""
        return self.offset_s + self.rate * world_s


@dataclass
class ClockWorld:
    """Candidates, a Lease, and a network that loses and delays, in steps of STEP_S."""

    STEP_S = 0.25
    rng: random.Random
    candidates: list[Candidate]
    lease: LeaseRecord | None = None
    version: int = 0
    led_s: float = 0.0
    leaders: set[str] = field(default_factory=set)

    def run(self, seconds: float) -> None:
        """Let time pass, and check at every step that at most one leads."""
        now_s = 0.0
        while now_s < seconds:
            now_s += self.STEP_S
            for candidate in self.rng.sample(self.candidates, len(self.candidates)):
                self.serve(candidate, now_s)
                if now_s >= candidate.sleeps_until_s:
                    self.act(candidate, now_s)
            leading = [c for c in self.candidates if c.election.is_leader(c.clock(now_s))]
            assert len(leading) <= 1, f"two lead at {now_s}"
            self.led_s += self.STEP_S * len(leading)
            self.leaders |= {c.election.identity for c in leading}

    def serve(self, candidate: Candidate, now_s: float) -> None:
        """Let the API answer what has arrived."""
        call = candidate.call
        if call is None or call.answer is not None or now_s < call.arrives_s:
            return
        if call.is_lost == "before":
            call.answer = (False, None)
        elif call.write is None:
            call.answer = (True, self.lease)
        elif call.write.version == ("" if self.lease is None else self.lease.version):
            self.version += 1
            self.lease = replace(call.write, version=str(self.version))
            call.answer = (True, self.lease)
        else:
            call.answer = (False, None)
        if call.is_lost == "after":
            call.answer = (False, None)

    def act(self, candidate: Candidate, now_s: float) -> None:
        """Let a candidate do what its election decides."""
        if self.rng.random() < 0.01:  # the process is stopped, or its machine is
            candidate.sleeps_until_s = now_s + self.rng.uniform(0, 90)
            return
        clock_s, call = candidate.clock(now_s), candidate.call
        if call is not None:
            if call.answer is None or now_s < call.answer_s:
                return
            self.hear(candidate, call, clock_s)
            candidate.call = None
            return
        if candidate.must_look:
            self.send(candidate, None, now_s)
            return
        match candidate.election.decide(clock_s):
            case Wait(pause_s):
                is_leader = candidate.election.is_leader(clock_s)
                candidate.sleeps_until_s = now_s + pause_s / candidate.rate
                candidate.must_look = not is_leader
            case Acquire(over) | Renew(over):
                record = candidate.election.next_record(over, NOW)
                self.send(candidate, record, now_s)

    def send(self, candidate: Candidate, write: LeaseRecord | None, now_s: float) -> None:
        """Send a look or a write."""
        slow = self.rng.random() < 0.1
        arrives_s = now_s + self.rng.uniform(0, 14 if slow else 0.5)
        answer_s = arrives_s + self.rng.uniform(0, 14 if slow else 0.5)
        lost = self.rng.choices(["", "before", "after"], [0.8, 0.1, 0.1])[0]
        candidate.call = Call(
            write,
            arrives_s,
            answer_s,
            candidate.clock(now_s),
            cast("Literal['', 'before', 'after']", lost),
        )

    def hear(self, candidate: Candidate, call: Call, clock_s: float) -> None:
        """Let a candidate hear an answer, or that there is none."""
        assert call.answer is not None
        is_well, record = call.answer
        candidate.must_look = not is_well
        if not is_well:
            candidate.sleeps_until_s = 0.0
        elif call.write is None:
            candidate.election.observed(record, clock_s)
        else:
            assert record is not None
            candidate.election.wrote(record, began_s=call.began_s, now_s=clock_s)


@pytest.mark.parametrize("seed", range(25))
def test_two_never_lead_by_their_own_clocks(seed: int) -> None:
    rng = random.Random(seed)
    candidates = [
        # Clocks that go wrong by a tenth: a real one is off by a ten-thousandth.
        Candidate(Election(name), rng.uniform(0.9, 1.1), rng.uniform(0, 1e6))
        for name in ("a", "b", "c")
    ]
    world = ClockWorld(rng, candidates)
    world.run(3600)
    assert world.led_s > 1200, "and there is mostly somebody who leads"
    assert len(world.leaders) > 1, "the world was hard enough for a change"


# --- the shell in virtual time --------------------------------------------------------------------


class LeasePort:
    """The three methods that an elector calls, over objects in memory, with a bad network."""

    def __init__(self, kube: KubeObjects, rng: random.Random) -> None:
        self.kube, self.rng = kube, rng
        self.loss = 0.0
        self.is_cut = False
        self.calls = 0

    async def get(self, kind: Kind, key: Key) -> Json:
        """See KubePort."""
        return await self._ask("GET", kind, key.name, {})

    async def create(self, kind: Kind, manifest: Json) -> Json:
        """See KubePort."""
        return await self._ask("POST", kind, "", manifest)

    async def replace(self, kind: Kind, manifest: Json) -> Json:
        """See KubePort."""
        return await self._ask("PUT", kind, manifest["metadata"]["name"], manifest)

    async def _ask(self, method: str, kind: Kind, name: str, body: Json) -> Json:
        self.calls += 1
        await self._travel()
        request = Request(
            method, kind.plural, KEY.namespace, name, "", kind.api_version, {}, {}, body
        )
        try:
            answer = self.kube.answer(request)
        except ApiFault as fault:
            raise {404: NotFound, 409: Conflict}[fault.code](fault.message) from fault
        await self._travel()
        return answer

    async def _travel(self) -> None:
        await asyncio.sleep(self.rng.uniform(0, 0.2))
        if self.is_cut or self.rng.random() < self.loss:
            await asyncio.sleep(self.rng.uniform(0, 15))
            raise Unavailable("lost")


class Office:
    """What electors work on: one at a time, or it says so."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.kube = KubeObjects()
        self.working: list[str] = []
        self.log: list[tuple[float, str, str]] = []
        self.ends_after_s = 0.0

    def elector(self, name: str) -> tuple[Elector, LeasePort]:
        """Make an elector with a network of its own."""
        port = LeasePort(self.kube, self.rng)
        elector = Elector(
            cast("KubePort", port),
            KEY,
            Election(name),
            wall_clock=lambda: NOW,
            rng=self.rng,
            on_change=lambda leads: self.note(name, "leads" if leads else "ended"),
        )
        return elector, port

    def note(self, name: str, what: str) -> None:
        """Write into the log."""
        self.log.append((asyncio.get_running_loop().time(), name, what))

    def work(self, name: str) -> Callable[[], Any]:
        """Return work that checks that it is alone."""

        async def work() -> None:
            assert not self.working, f"{name} begins while {self.working} works"
            self.working.append(name)
            self.note(name, "works")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(self.ends_after_s)
                self.working.remove(name)
                self.note(name, "stops")

        return work

    def start(self, name: str) -> tuple[asyncio.Task[None], LeasePort]:
        """Start an elector."""
        elector, port = self.elector(name)
        return asyncio.create_task(elector.run(self.work(name))), port

    def when(self, name: str, what: str) -> float:
        """Return when something was noted last."""
        return next(at_s for at_s, who, did in reversed(self.log) if (who, did) == (name, what))


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    await asyncio.wait(tasks)


def virtually(story: Callable[[], Awaitable[None]]) -> list[str]:
    async def run() -> None:
        await story()

    with capture_logs() as logs:
        run_virtually(run())
    return [entry["event"] for entry in logs]


def test_one_of_two_leads_and_the_other_follows_when_it_ends() -> None:
    async def story() -> None:
        office = Office()
        (first, port), (second, _) = office.start("a"), office.start("b")
        await asyncio.sleep(600)
        (leader,) = office.working
        renewals = port.calls if leader == "a" else 0
        assert renewals < 2 + 600 / RENEW_EVERY_S, "a renewal in ten seconds, no more"
        tasks = {"a": first, "b": second}
        other = "b" if leader == "a" else "a"
        await end(tasks[leader])
        ended_s = asyncio.get_running_loop().time()
        await asyncio.sleep(2 * RETRY_EVERY_S)
        assert office.working == [other]
        assert office.when(other, "works") - ended_s < 1.5 * RETRY_EVERY_S
        await end(tasks[other])

    virtually(story)


def test_work_stops_when_the_api_is_away_before_another_may_begin() -> None:
    async def story() -> None:
        office = Office()
        office.ends_after_s = 5.0
        first, port = office.start("a")
        await asyncio.sleep(60)
        second, _ = office.start("b")
        await asyncio.sleep(60)
        assert office.working == ["a"]
        port.is_cut = True
        await asyncio.sleep(60)
        assert office.working == ["b"]
        assert office.when("a", "stops") < office.when("b", "works") - 1
        port.is_cut = False
        await end(second)
        await asyncio.sleep(10)
        assert office.working == ["a"], "it has campaigned again"
        await end(first)

    events = virtually(story)
    assert "this operator does not lead any more" in events


def test_lease_that_is_deleted_or_taken_ends_the_work() -> None:
    async def story() -> None:
        office = Office()
        task, _ = office.start("a")
        await asyncio.sleep(30)
        lease = office.kube.objects["leases", *KEY]
        taken = {**lease, "spec": {**lease["spec"], "holderIdentity": "thief"}}
        office.kube.put("leases", taken)
        await asyncio.sleep(RENEW_EVERY_S + 1)
        assert office.working == []
        office.kube.remove("leases", *KEY)
        await asyncio.sleep(2 * RETRY_EVERY_S)
        assert office.working == ["a"]
        await end(task)

    virtually(story)


def test_work_that_fails_ends_the_elector_and_gives_the_lease_up() -> None:
    async def story() -> None:
        office = Office()
        elector, _ = office.elector("a")

        async def work() -> None:
            await asyncio.sleep(5)
            raise ValueError("a bug")

        with pytest.raises(ValueError, match="a bug"):
            await elector.run(work)
        assert record_of(office.kube.objects["leases", *KEY]).holder == ""

    virtually(story)


@pytest.mark.parametrize("seed", range(12))
def test_works_never_overlap_on_a_bad_network(seed: int) -> None:
    async def story() -> None:
        office = Office(seed)
        office.ends_after_s = 8.0  # longer than it should be, shorter than the margin
        started = [office.start(name) for name in "abc"]
        for _ in range(60):
            for _, port in started:
                port.is_cut = office.rng.random() < 0.2
                port.loss = office.rng.choice([0.0, 0.3, 0.7])
            await asyncio.sleep(office.rng.uniform(0, 60))
        assert len({who for _, who, what in office.log if what == "works"}) > 1
        await end(*(task for task, _ in started))

    virtually(story)


# --- over HTTP ------------------------------------------------------------------------------------


@in_loop
async def test_lease_is_taken_and_given_up_over_http() -> None:
    async with KubeApi() as api:
        port = LightkubePort(api.config())
        leads = asyncio.Event()
        elector = Elector(
            port,
            KEY,
            Election("me"),
            wall_clock=lambda: NOW,
            rng=random.Random(1),
            on_change=lambda is_leader: leads.set() if is_leader else None,
        )

        async def work() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(elector.run(work))
        await leads.wait()
        assert (await port.get(LEASE, KEY))["spec"]["holderIdentity"] == "me"
        await end(task)
        assert (await port.get(LEASE, KEY))["spec"]["holderIdentity"] == ""
        await port.close()
