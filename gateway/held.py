"""The messages of a batch for which no link is chosen yet. Pure.

A batch in the extended protocol might go to a replica as long as nothing in it does more than read,
which is known at its Sync, and not before. What says more, or is too much, decides for the primary.
"""

from typing import TYPE_CHECKING

from .batches import BIND, FLUSH, PARSE
from .wire import first_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from .classification.statements import Query
    from .prepared import Statements


class Held:
    """Invariant: `frames` only read; once something else came, nothing more is taken in."""

    __slots__ = ("_bytes", "_bytes_max", "_is_read", "_statements", "frames")

    def __init__(self, statements: "Statements", *, bytes_max: int) -> None:
        self.frames: list[bytes] = []
        self._statements = statements
        self._bytes = 0
        self._bytes_max = bytes_max
        self._is_read = True

    @property
    def is_read(self) -> bool:
        """Whether there is a batch, and it only reads."""
        return self._is_read and bool(self.frames)

    def take(self, kind: int, frame: bytes, classify: "Callable[[bytes], Query]") -> bool:
        """Keep a message; False: the batch goes to the primary."""
        is_read = self._is_read and self._reads(kind, frame, classify)
        if not is_read or self._bytes + len(frame) > self._bytes_max:
            self._is_read = False
            return False
        self.frames.append(frame)
        self._bytes += len(frame)
        return True

    def release(self) -> list[bytes]:
        """Give the messages away."""
        frames, self.frames = self.frames, []
        self._bytes, self._is_read = 0, True
        return frames

    def _reads(self, kind: int, frame: bytes, classify: "Callable[[bytes], Query]") -> bool:
        """Whether a message leaves it possible that its batch only reads."""
        if kind == PARSE:
            _, at = first_name(frame, 5)
            return classify(first_name(frame, at)[0]).reads_only
        if kind == BIND:
            _, at = first_name(frame, 5)
            name = first_name(frame, at)[0]
            if any(one[0] == PARSE and first_name(one, 5)[0] == name for one in self.frames):
                return True  # it was looked at when it came
            prepared = self._statements.get(name)
            return prepared is not None and prepared.query.reads_only
        return kind != FLUSH
