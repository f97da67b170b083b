"""How `seawall up` looks while it works: a line that moves on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from .events import Begun, Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

STEPS: Final = {
    "log": "starting the log",
    "storage": "starting storage",
    "database": "making the database",
    "primary": "waiting for a primary",
    "replicas": "waiting for replicas",
    "gateway": "waiting for the gateway",
}


class UpDisplay:
    """Shows how far a cluster is. Use as `with`; nothing is left of it on a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._progress = _progress()
            self._task = self._progress.add_task("preparing", total=len(STEPS) + 1)
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the moving line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def show_state(self, line: str) -> None:
        """Replace the last line of a terminal; nothing elsewhere."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    def show(self, event: Event) -> None:
        """Show one event."""
        if not isinstance(event, Begun):
            return
        if self._progress is not None and self._task is not None:
            at = list(STEPS).index(event.step) + 1
            self._progress.update(self._task, completed=at, description=STEPS[event.step])


def _progress() -> "Progress":
    from rich.console import Console  # noqa: PLC0415  # 0.1 s that only a terminal is worth
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415  # as above

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        console=Console(stderr=True),
        transient=True,
    )
