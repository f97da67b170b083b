"""The network between the nodes: loss, repetition, delay, reordering, and links that are cut.

Two kinds of weather. `is_ordered`: like connections, messages of one link arrive in order, and a
loss may break the connection, which both ends notice. Otherwise like datagrams: anything may arrive
late, twice, or after what was sent behind it. What is on its way to a node that crashes reaches its
next life, if it lives by then: no real network is so cruel, and the core must not care.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from raft.messages import Message

from .timeline import MILLISECOND_US, Timeline
from .trace import Trace


@dataclass(slots=True)
class Weather:
    """How the network behaves now; the faults change it."""

    loss: float = 0.0
    repetition: float = 0.0
    delay_us: int = 500
    spread_us: int = 500


class Network:
    """Carries messages to `deliver`; tells `notice` that a connection broke."""

    def __init__(
        self,
        timeline: Timeline,
        trace: Trace,
        rng: random.Random,
        *,
        is_ordered: bool,
        deliver: Callable[[Message], None],
        notice: Callable[[int, int], None],
    ) -> None:
        self.weather = Weather()
        self.cut: set[tuple[int, int]] = set()
        self._timeline = timeline
        self._trace = trace
        self._rng = rng
        self._is_ordered = is_ordered
        self._deliver = deliver
        self._notice = notice
        self._busy_until_us: dict[tuple[int, int], int] = {}

    def send(self, message: Message) -> None:
        """Take a message; whether and when it arrives is a matter of luck."""
        self._trace.counts[type(message).__name__] += 1
        link = (message.sender, message.to)
        weather = self.weather
        if link in self.cut:
            self._trace.counts["message cut off"] += 1
        elif weather.loss and self._rng.random() < weather.loss:
            self._lose(link)
        else:
            self._carry(link, message)
            if weather.repetition and self._rng.random() < weather.repetition:
                self._trace.counts["message repeated"] += 1
                self._carry(link, message)

    def isolate(self, some: Collection[int], others: Collection[int], *, is_one_way: bool) -> None:
        """Cut the links from `some` to `others`, and back unless only one way is meant."""
        self.cut |= {(a, b) for a in some for b in others if a != b}
        if not is_one_way:
            self.cut |= {(b, a) for a in some for b in others if a != b}

    def heal(self) -> None:
        """Every link works again."""
        self.cut.clear()

    def _carry(self, link: tuple[int, int], message: Message) -> None:
        weather = self.weather
        delay_us = weather.delay_us + int(self._rng.random() * weather.spread_us)
        if self._is_ordered:
            arrival_us = self._timeline.now_us + delay_us
            arrival_us = max(arrival_us, self._busy_until_us.get(link, 0))
            self._busy_until_us[link] = arrival_us
            delay_us = arrival_us - self._timeline.now_us
        self._timeline.after(delay_us, self._deliver, message)

    def _lose(self, link: tuple[int, int]) -> None:
        self._trace.counts["message lost"] += 1
        if self._is_ordered and self._rng.random() < 0.3:
            self._trace.counts["connection broken"] += 1
            self._timeline.after(5 * MILLISECOND_US, self._notice, *link)
            self._timeline.after(5 * MILLISECOND_US, self._notice, *reversed(link))
