"""Read the log of transactions that pgbench writes with `--log`. Pure.

    client  count  latency_us  script  seconds  microseconds  [schedule_lag_us]

The time is the end of the transaction on the clock of the day, and the latency of an open loop
counts from when it was due, so it includes the lag. In place of a latency stands `failed` where a
transaction was given up, `skipped` where it was never begun (PostgreSQL 15 and later; before, a
failed transaction ended its client).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .load import LoadSettings
from .tally import LoadError, Tally


@dataclass(frozen=True, slots=True)
class Line:
    """One transaction."""

    end_seconds: float  # since 1970
    latency_seconds: float | None  # None: it failed

    @property
    def begin_seconds(self) -> float:
        """When it was begun, or due."""
        return self.end_seconds - (self.latency_seconds or 0.0)


def parse(lines: Iterable[str]) -> Iterator[Line]:
    """The transactions in the order of the log; LoadError if it is none."""
    for text in lines:
        fields = text.split()
        try:
            end_seconds = int(fields[4]) + int(fields[5]) / 1e6
            latency = int(fields[2]) / 1e6 if fields[2].isdigit() else None
        except (IndexError, ValueError) as error:
            raise LoadError(
                f"pgbench logged {text[:80]!r}, which is no transaction: use pgbench 12 to 18"
            ) from error
        yield Line(end_seconds, latency)


def tally_of(transactions: Sequence[Line], settings: LoadSettings, *, kind: str) -> Tally:
    """What counts of them. The load began with the first one that began, or was due."""
    tally = Tally(settings.seconds)
    if not transactions:
        return tally
    counting = min(line.begin_seconds for line in transactions) + settings.warm_seconds
    for line in transactions:
        end_seconds = line.end_seconds - counting
        due_seconds = None if settings.rate is None else line.begin_seconds - counting
        if line.latency_seconds is None:
            tally.fail(end_seconds, "failed", due_seconds=due_seconds)
        else:
            tally.acknowledge(end_seconds, line.latency_seconds, kind, due_seconds=due_seconds)
    return tally
