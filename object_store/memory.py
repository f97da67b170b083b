"""Objects in the memory of this process: for tests, and for trying things out. Nothing survives."""

import threading

from fabric.frames import Payload

from .interface import (
    LIST_COUNT_MAX,
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectRangeError,
    check_listing,
    check_range,
    checked_data,
    checked_name,
)


class MemoryStore:
    """Implements `ObjectStore`."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put_new(self, name: str, data: Payload) -> None:
        """Keep a copy."""
        content = b"".join(checked_data(data))
        with self._lock:
            if checked_name(name) in self._objects:
                raise ObjectExistsError(f"{name} exists already")
            self._objects[name] = content

    def get(self, name: str) -> bytes:
        """Return the object itself."""
        with self._lock:
            content = self._objects.get(checked_name(name))
        if content is None:
            raise ObjectMissingError(f"there is no object {name}")
        return content

    def get_range(self, name: str, start: int, size_bytes: int) -> bytes:
        """Return a copy of the range."""
        check_range(start, size_bytes)
        content = self.get(name)
        if start + size_bytes > len(content):
            raise ObjectRangeError(f"{name} has only {len(content)} bytes")
        return content[start : start + size_bytes]

    def list(
        self, prefix: str, *, after: str = "", count_max: int = LIST_COUNT_MAX
    ) -> list[ObjectInfo]:
        """Sort all names; they are few."""
        check_listing(prefix, count_max)
        with self._lock:
            sizes = {name: len(content) for name, content in self._objects.items()}
        names = sorted(name for name in sizes if name.startswith(prefix) and name > after)
        return [ObjectInfo(name, sizes[name]) for name in names[:count_max]]

    def delete(self, name: str) -> None:
        """Forget the object."""
        with self._lock:
            self._objects.pop(checked_name(name), None)
