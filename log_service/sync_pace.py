"""Whether a write may run in the event loop: a fast disk and one busy group, else a thread. Pure.

A sync of a fast disk takes less time than waking a thread, and the thread waking the loop: 0.1 ms
against twice some 0.05 ms, more on a machine whose cores are all busy. While it runs, what arrives
is not looked at; it becomes one batch, which is what a busy log wants anyway. So short writes run
in place as long as they prove to be fast; a second slow one within 64 sends the following into
threads, where nobody but its own group waits for them. (After a single one all would go there and
nothing be gained: it is over.) Large ones, and those of groups that take turns, go there at once.
"""

from typing import Final

SHORT_BYTES_MAX: Final = 64 * 1024
THREADED_JOBS: Final = 64  # after the second slow one, or one of another group


class SyncPace:
    """One for a node. Starts with threads, and has to see fast writes first."""

    def __init__(self, *, fast_us_max: int) -> None:
        self._fast_us_max = fast_us_max
        self._threaded_left = THREADED_JOBS
        self._watched_left = 0  # jobs till a slow one is forgotten
        self._last_owner: object = None

    def may_run_in_place(self, owner: object, size_bytes: int) -> bool:
        """Decide about the next write, of a group, of so many bytes."""
        if owner is not self._last_owner:
            self._last_owner = owner
            self._threaded_left = THREADED_JOBS
        return self._threaded_left == 0 and size_bytes <= SHORT_BYTES_MAX and self._fast_us_max > 0

    def note(self, took_us: float, size_bytes: int) -> None:
        """Take note of how long a write took, wherever it ran."""
        if took_us > self._fast_us_max and size_bytes <= SHORT_BYTES_MAX:
            if self._watched_left:
                self._threaded_left = THREADED_JOBS
            self._watched_left = THREADED_JOBS
            return
        if self._threaded_left:
            self._threaded_left -= 1
        if self._watched_left:
            self._watched_left -= 1
