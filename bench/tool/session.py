"""One run of the tool: its parts one after the other, and files that are right at any moment.

A part that fails stops no other one. Whoever interrupts or terminates the run gets everything that
was started stopped, and what was measured so far written; the exit status is then 2.
"""

import contextlib
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from bench.pagefault.workspace import Workspace

from .bars import ALL_QUICK_MINUTES, PROMISES, bar_line, judge, status_of
from .options import Options, Output
from .progress import Progress
from .record import Record
from .refusals import REFUSALS
from .work import Part, Work
from .writing import write


def run_parts(
    parts: Sequence[Part],
    *,
    is_all: bool,
    options: Options,
    output: Output,
    place: Workspace,
    record: Record,
    progress: Progress,
) -> int:
    """Run them, and write what they found; the exit status."""
    is_interrupted = False
    try:
        for part in parts:
            _run_part(part, options, place, record, progress)
            write(record.result(), output.directory, makes_report=False)
    except KeyboardInterrupt:
        is_interrupted = True
        record.failures.append("The run was interrupted: what came later is missing.")
        progress.warn("interrupted: what was measured so far is being written")
    if is_all and options.is_quick and not is_interrupted:
        _judge_minutes(record, progress)
    progress.say(write(record.result(), output.directory, makes_report=output.makes_report))
    promises = [*PROMISES, *(one for part in parts for one in part.promises)]
    return status_of(
        record.judgements,
        promises,
        is_quick=options.is_quick,
        unmeasured=record.unmeasured + is_interrupted,
    )


def _run_part(
    part: Part, options: Options, place: Workspace, record: Record, progress: Progress
) -> None:
    budget_seconds = part.quick_minutes * 60 if options.is_quick else None
    work = Work(
        options=options,
        place=place,
        record=record,
        progress=progress,
        budget_seconds=budget_seconds,
    )
    try:
        part.measure(work)
    except REFUSALS as refusal:
        work.fail(f"{part.name} could not be measured: {sentence_of(refusal)}")
    except Exception as error:  # noqa: BLE001  # whatever it is must not cost the hours of the others
        progress.warn(traceback.format_exc())
        work.fail(f"{part.name} ended early: {sentence_of(error)}")
    taken_minutes = (time.monotonic() - work.start_s) / 60
    planned = f" of {part.quick_minutes:g} planned" if options.is_quick else ""
    progress.warn(f"{part.name} took {taken_minutes:.1f} minutes{planned}")


def sentence_of(error: BaseException) -> str:
    """What went wrong first; the others of a group of tasks ended because of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or type(error).__name__


def _judge_minutes(record: Record, progress: Progress) -> None:
    minutes = (time.monotonic() - record.start_s) / 60
    for judgement in judge(PROMISES, {ALL_QUICK_MINUTES: minutes}):
        record.judgements.append(judgement)
        progress.say(bar_line(judgement))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Terminated as well as interrupted, once: what follows must not disturb the stopping."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
