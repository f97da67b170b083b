"""Which cluster is to be looked at next: each key once, however often it was woken.

    wake ──► due ──take──► in flight ──done, failed──► due again at some later time
                              │ woken meanwhile: once more, soon

Rules:

- a key is in flight once at most; who wakes it meanwhile gets one more run that begins afterwards;
- a key that was done is not run again within SPACING_S, so that a burst of events is one run, and a
  reconciler that wakes itself does not spin;
- failures in a row double the pause. A wake shortens it, since the cause may have been removed, but
  not below RETRY_WOKEN_S: the attempt itself makes events;
- a key without a time is forgotten, so that the queue does not grow with clusters long gone.

No clock, no task, no lock in here: the time is an argument. Keys that are due come in the order of
their times, so that none starves.
"""

import heapq
import random
from dataclasses import dataclass
from typing import Final

from fabric.backoff import full_jitter_ms

from .kube_port import Key

SPACING_S: Final = 0.1  # half of what kubelet takes to report the next state of a pod
RETRY_WOKEN_S: Final = 1.0
BACKOFF_MIN_S: Final = 0.2
BACKOFF_BASE_MS: Final = 1_000
BACKOFF_CAP_MS: Final = 300_000  # a cluster that cannot be made whole: an attempt in some minutes
RETRY_AFTER_S_MAX: Final = 300.0  # of what the API or the reconciler may ask for after a failure
_STALE_MIN: Final = 64  # entries of the heap that are kept before it is made anew


@dataclass(slots=True)
class _Entry:
    """One key. Invariant: in flight, or due at some time and in the heap with this time."""

    due_s: float | None = None
    is_in_flight: bool = False
    is_woken: bool = False  # while in flight
    not_before_s: float = 0.0  # what a wake may not go below
    failures: int = 0


class WorkQueue:
    """The keys that have work, and when."""

    def __init__(self, *, rng: random.Random) -> None:
        self._rng = rng
        self._entries: dict[Key, _Entry] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0  # of entries in the heap: among equal times the first one comes first
        self.in_flight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def wake(self, key: Key, now_s: float) -> None:
        """Have a key looked at soon, after anything that is known by now."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.is_in_flight:
            entry.is_woken = True
            return
        due_s = max(now_s, entry.not_before_s)
        if entry.due_s is None or due_s < entry.due_s:
            self._schedule(key, entry, due_s)

    def take(self, now_s: float) -> Key | None:
        """Return a key that is due, which is in flight from now on; None if there is none."""
        due_s = self.next_s()
        if due_s is None or due_s > now_s:
            return None
        _, _, key = heapq.heappop(self._heap)
        entry = self._entries[key]
        entry.due_s, entry.is_in_flight, entry.is_woken = None, True, False
        self.in_flight += 1
        return key

    def next_s(self) -> float | None:
        """Return when `take` will return a key, if nobody wakes any."""
        while self._heap:
            due_s, _, key = self._heap[0]
            entry = self._entries.get(key)
            if entry is not None and entry.due_s == due_s:
                return due_s
            heapq.heappop(self._heap)
        return None

    def done(self, key: Key, now_s: float, *, again_s: float | None) -> None:
        """End a run that went well; the next one in `again_s`, or when somebody wakes the key."""
        entry = self._landed(key)
        entry.failures, entry.not_before_s = 0, now_s + SPACING_S
        if entry.is_woken:
            self._schedule(key, entry, entry.not_before_s)
        elif again_s is not None:
            # Not below the spacing either: a reconciler that always says "at once" is a loop.
            self._schedule(key, entry, now_s + max(again_s, SPACING_S))
        else:
            del self._entries[key]

    def failed(self, key: Key, now_s: float, *, retry_after_s: float = 0.0) -> float:
        """End a run that failed, and return after which pause it is tried again."""
        entry = self._landed(key)
        jitter_ms = full_jitter_ms(
            self._rng, failures=entry.failures, base_ms=BACKOFF_BASE_MS, cap_ms=BACKOFF_CAP_MS
        )
        entry.failures += 1
        asked_s = min(retry_after_s, RETRY_AFTER_S_MAX)
        pause_s = max(BACKOFF_MIN_S + jitter_ms / 1000, asked_s)
        # Who asks for a pause does not want to be woken out of it.
        entry.not_before_s = now_s + max(min(pause_s, RETRY_WOKEN_S), asked_s)
        if entry.is_woken:
            pause_s = entry.not_before_s - now_s
        self._schedule(key, entry, now_s + pause_s)
        return pause_s

    def abandon_all(self, now_s: float) -> None:
        """Hear that all runs were cut off; their keys are due at once."""
        for key in [key for key, entry in self._entries.items() if entry.is_in_flight]:
            self._schedule(key, self._landed(key), now_s)

    def failures(self, key: Key) -> int:
        """Return how often a key has failed in a row."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.failures

    def due(self, now_s: float) -> int:
        """Return how many keys wait for a worker."""
        return sum(1 for e in self._entries.values() if e.due_s is not None and e.due_s <= now_s)

    def _landed(self, key: Key) -> _Entry:
        entry = self._entries[key]
        assert entry.is_in_flight, f"{key} was not taken"
        entry.is_in_flight = False
        self.in_flight -= 1
        return entry

    def _schedule(self, key: Key, entry: _Entry, due_s: float) -> None:
        entry.due_s = due_s
        self._serial += 1
        heapq.heappush(self._heap, (due_s, self._serial, key))
        # A key that is woken before its time leaves an entry behind, which is found at that time.
        if len(self._heap) > 2 * len(self._entries) + _STALE_MIN:
            self._heap = [
                (e.due_s, number, k)
                for number, (k, e) in enumerate(self._entries.items())
                if e.due_s is not None
            ]
            heapq.heapify(self._heap)
