"""What the simulated group agrees on: a list of unique numbers, and WAL that epochs fence.

`Add` stands for any command: the list must hold every acknowledged number once, and clients may
repeat one whose fate they do not know. `Wal` and `Epoch` are the product's own entries, reduced to
what safety is about: the holder of an epoch streams WAL; once `Epoch(e)` is in the log, no WAL of
an older epoch follows it, and WAL has neither gaps nor overlaps.

`Fence` is checked twice: by the leader against the end of its log before it proposes, and by every
replica that applies an entry. The second never refuses anything unless the first is wrong.
"""

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from raft.types import Config, Entry


@dataclass(frozen=True, slots=True)
class Add:
    """Append `number`, unless the list has it."""

    number: int
    digest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hash((1, self.number)))


@dataclass(frozen=True, slots=True)
class Wal:
    """WAL from `start` to `end`, written by the holder of `epoch`."""

    epoch: int
    start: int
    end: int
    digest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hash((2, self.epoch, self.start, self.end)))


@dataclass(frozen=True, slots=True)
class Epoch:
    """A new holder writes from `start`, which is the end of all WAL before it in the log."""

    epoch: int
    start: int
    digest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hash((3, self.epoch, self.start)))


Operation: TypeAlias = Add | Wal | Epoch


@dataclass(frozen=True, slots=True)
class Fence:
    """Which epoch may write, and from where."""

    epoch: int = 0
    wal_end: int = 0

    def admits(self, operation: object) -> bool:
        """Whether `operation` may be the next one."""
        match operation:
            case Wal():
                return operation.epoch == self.epoch and operation.start == self.wal_end
            case Epoch():
                return operation.epoch == self.epoch + 1 and operation.start == self.wal_end
            case _:
                return True

    def after(self, operation: object) -> "Fence":
        """The fence behind an operation that was admitted."""
        match operation:
            case Wal():
                return replace(self, wal_end=operation.end)
            case Epoch():
                return replace(self, epoch=operation.epoch)
            case _:
                return self


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the entries up to one index amount to: what a snapshot carries."""

    numbers: tuple[int, ...]
    fence: Fence
    chain: int


EMPTY_STATE = State((), Fence(), 0)


class Machine:
    """The state machine of one replica."""

    def __init__(self, index: int, config: Config, state: State) -> None:
        self.index = index
        self.config = config
        self.fence = state.fence
        self.numbers = list(state.numbers)
        self.known = set(state.numbers)

    def apply(self, entry: Entry) -> None:
        """Apply the entry after `index`."""
        self.index = entry.index
        operation = entry.ref
        if isinstance(operation, Add):
            if operation.number not in self.known:
                self.known.add(operation.number)
                self.numbers.append(operation.number)
        elif operation is not None:
            self.fence = self.fence.after(operation)
        elif entry.config is not None:
            self.config = entry.config

    def state(self, chain: int) -> State:
        """A copy for a snapshot; `chain` is the log's at this index."""
        return State(tuple(self.numbers), self.fence, chain)


def chained(chain: int, entry: Entry) -> int:
    """A number that stands for `entry` and, through `chain`, for everything before it."""
    operation, config = entry.ref, entry.config
    if operation is not None:
        content = operation.digest  # type: ignore[attr-defined]  # every ref here is an Operation
    elif config is not None:
        content = hash((tuple(sorted(config.voters)), tuple(sorted(config.learners))))
    else:
        content = 0
    return hash((chain, entry.index, entry.term, content))
