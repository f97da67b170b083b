"""Which of several operators works: the one that holds a Lease, as client-go's election does it.

The Lease is one object of the API with a holder and a time of renewal, replaced by compare-and-swap
on its resourceVersion. Who wants to lead reads it every RETRY_EVERY_S; the holder renews it.

Why two never lead at once, whatever their clocks say: the times *in* the Lease are for people, and
nobody computes with another's. A candidate takes the Lease over when *it* has seen the same version
of it for LEASE_S on *its own* clock. The holder stops when RENEW_DEADLINE_S have passed on *its*
clock since it *began* the last renewal that was acknowledged. A version is first seen after its
renewal began, so between the two lie at least

    LEASE_S - RENEW_DEADLINE_S = 10 s

for clocks of different speeds and for the end of what the old leader has under way. What it writes
through asks `is_leader` before each write; so a process that was stopped and goes on later writes
nothing.

kube's own 15/10/2 seconds, slower: a renewal is a write to etcd, and an operator is not so urgent,
since the database fails over without it. One that ends gives the Lease up, and the next one leads
RETRY_EVERY_S later.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from .kube_port import Json, Key

LEASE_S: Final = 30
RENEW_DEADLINE_S: Final = 20.0
RENEW_EVERY_S: Final = 10.0
RETRY_EVERY_S: Final = 2.0

assert RENEW_EVERY_S < RENEW_DEADLINE_S < LEASE_S


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What stands in the Lease."""

    holder: str
    version: str
    lease_s: int = LEASE_S
    transitions: int = 0
    acquired: str = ""
    renewed: str = ""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Write the Lease with us as its holder; over this version of it, or anew."""

    over: LeaseRecord | None


@dataclass(frozen=True, slots=True)
class Renew:
    """Write the Lease again, over this version of it."""

    over: LeaseRecord


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long, then look at the Lease if we do not lead."""

    pause_s: float


Decision = Acquire | Renew | Wait


class Election:
    """Decides. Invariant: while `is_leader`, no other candidate may take the Lease over."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: LeaseRecord | None = None
        self._seen_s = 0.0
        self._leads_since_s: float | None = None  # when the last acknowledged renewal began

    def is_leader(self, now_s: float) -> bool:
        """Return whether we lead."""
        return self._leads_since_s is not None and now_s < self._leads_since_s + RENEW_DEADLINE_S

    def deadline_s(self) -> float:
        """Return until when we lead if no renewal succeeds."""
        assert self._leads_since_s is not None, "we do not lead"
        return self._leads_since_s + RENEW_DEADLINE_S

    def holder(self) -> str:
        """Return who leads, as far as we know."""
        return "" if self._seen is None else self._seen.holder

    def observed(self, record: LeaseRecord | None, now_s: float) -> None:
        """Hear what the Lease is, from a read that has ended now."""
        if record != self._seen:
            self._seen, self._seen_s = record, now_s
        if record is None or record.holder != self.identity:
            self._leads_since_s = None

    def wrote(self, record: LeaseRecord, *, began_s: float, now_s: float) -> None:
        """Hear that the Lease is ours by a write that began then."""
        assert record.holder == self.identity
        self._seen, self._seen_s = record, now_s
        self._leads_since_s = began_s

    def lost(self) -> None:
        """Hear that we stop, whatever the reason."""
        self._leads_since_s = None

    def decide(self, now_s: float) -> Decision:
        """Return what is to be done."""
        if self.is_leader(now_s):
            assert self._seen is not None
            assert self._leads_since_s is not None
            renewal_s = self._leads_since_s + RENEW_EVERY_S
            return Renew(self._seen) if now_s >= renewal_s else Wait(renewal_s - now_s)
        seen = self._seen
        # Our own name in it, without our leading: a write whose answer was lost. It is ours, but
        # only a write of which we know the beginning says until when.
        if seen is None or seen.holder in ("", self.identity):
            return Acquire(seen)
        # Its length is that of the holder, who may be another version of the operator.
        free_s = self._seen_s + max(seen.lease_s, LEASE_S)
        if now_s >= free_s:
            return Acquire(seen)
        return Wait(min(RETRY_EVERY_S, free_s - now_s))

    def next_record(self, over: LeaseRecord | None, now: datetime) -> LeaseRecord:
        """Return what to write to acquire or renew."""
        time = _micro_time(now)
        if over is None:
            return LeaseRecord(self.identity, "", acquired=time, renewed=time)
        if over.holder == self.identity:
            return replace(over, lease_s=LEASE_S, renewed=time)
        transitions = over.transitions + 1
        return LeaseRecord(self.identity, over.version, LEASE_S, transitions, time, time)

    def release_record(self, now: datetime) -> LeaseRecord | None:
        """Return what to write to give the Lease up; None if it is not ours."""
        seen = self._seen
        if self._leads_since_s is None or seen is None:
            return None
        return replace(seen, holder="", lease_s=1, renewed=_micro_time(now))


def record_of(lease: Json) -> LeaseRecord:
    """Read a Lease; what is missing or odd in it is as if nobody held it."""
    spec: dict[str, Any] = lease.get("spec") or {}
    return LeaseRecord(
        holder=str(spec.get("holderIdentity") or ""),
        version=lease["metadata"]["resourceVersion"],
        lease_s=int(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        acquired=str(spec.get("acquireTime") or ""),
        renewed=str(spec.get("renewTime") or ""),
    )


def manifest_of(record: LeaseRecord, key: Key) -> Json:
    """Return the Lease that says so."""
    metadata: Json = {"namespace": key.namespace, "name": key.name}
    if record.version:
        metadata["resourceVersion"] = record.version
    spec: Json = {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": record.lease_s,
        "leaseTransitions": record.transitions,
        "acquireTime": record.acquired or None,
        "renewTime": record.renewed or None,
    }
    return {"metadata": metadata, "spec": {k: v for k, v in spec.items() if v is not None}}


def _micro_time(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
