"""A bounded cache of two generations: new entries are young; a full young generation becomes old.

An old entry that is used becomes young again, so what is in use stays, and nothing has to be kept
in order: a hit among the young costs one look into a dictionary.
"""

from typing import Generic, TypeVar

V = TypeVar("V")


class Generations(Generic[V]):
    """Values by bytes; at most 2 * entries_max of them, whose keys have 2 * bytes_max bytes."""

    __slots__ = ("_bytes", "_bytes_max", "_entries_max", "_old", "young")

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self.young: dict[bytes, V] = {}
        """For a caller in a hurry to look into; it is the same object for the cache's life."""
        self._old: dict[bytes, V] = {}
        self._bytes = 0  # Invariant: the sum of the lengths of the young keys.
        self._entries_max = entries_max
        self._bytes_max = bytes_max

    def get(self, key: bytes) -> V | None:
        """Return the value of a key, which is young from now on."""
        value = self.young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Keep a value, unless its key alone is too large."""
        if len(key) > self._bytes_max:
            return
        if len(self.young) >= self._entries_max or self._bytes + len(key) > self._bytes_max:
            self._old = self.young.copy()
            self.young.clear()
            self._bytes = 0
        if key not in self.young:
            self._bytes += len(key)
        self.young[key] = value

    def __len__(self) -> int:
        return len(self.young) + len(self._old)
