"""How a run looks while it works: a bar that moves on a terminal, single lines elsewhere.

    with progress_on(sys.stderr) as progress:
        with progress.steps("tps", 24) as step:
            step("round 1: tpcb, 8 clients, stock")

What is printed goes through `say`, which does not tear the bar apart.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Step = Callable[[str], None]


class Progress(Protocol):
    """Shows how far a run is."""

    def say(self, text: str) -> None:
        """Print lines that stay, on standard output."""

    def warn(self, text: str) -> None:
        """Print a line that stays, on standard error."""

    def steps(self, name: str, total: int) -> contextlib.AbstractContextManager[Step]:
        """Give a function that is called when a step begins."""


class Lines:
    """A line for each step: what a log can use."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        """As Progress has it."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """As Progress has it."""
        print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def steps(self, name: str, total: int) -> Iterator[Step]:
        """As Progress has it."""
        count = 0

        def step(text: str) -> None:
            nonlocal count
            count += 1
            self.warn(f"{name} {count}/{total}: {text}")

        yield step


class Bar:
    """A bar for each part; nothing is left of it."""

    def __init__(self, progress: "RichProgress") -> None:
        self._progress = progress

    def say(self, text: str) -> None:
        """As Progress has it."""
        if sys.stdout.isatty():
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """As Progress has it."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def steps(self, name: str, total: int) -> Iterator[Step]:
        """As Progress has it."""
        task = self._progress.add_task(name, total=total)
        count = 0

        def step(text: str) -> None:
            nonlocal count
            self._progress.update(
                task, completed=count, description=f"{name}: {text}", refresh=True
            )
            count += 1

        try:
            yield step
        finally:
            self._progress.remove_task(task)


@contextlib.contextmanager
def progress_on(stream: TextIO) -> Iterator[Progress]:
    """A bar if somebody looks at it."""
    if not stream.isatty():
        yield Lines(stream)
        return
    from rich.console import Console  # noqa: PLC0415  # 0.1 s that only a terminal is worth
    from rich.progress import (  # noqa: PLC0415  # as above
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    # Standard output may be a pipe while somebody looks at standard error: it is left alone.
    with Progress(
        *columns,
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as shown:
        yield Bar(shown)
