"""Carry a plan out: signals, links cut, disks filled, directories deleted; and heal everything.

    nemesis = Nemesis(target)
    await nemesis.run(plan)         # notes in `nemesis.happenings` what was really done
    await nemesis.heal()            # also after a failure
    await wait_whole(target)

A process gets a signal only if its command line is what the target said it is.
"""

import asyncio
import contextlib
import math
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.storage.processes import all_processes, descendants

from .plan import CALM_S, LASTING, SLOW_S, Action, Blow, Fault
from .target import Component, Disk, Kind, Link, Target, TargetError

WHOLE_DEADLINE_S: Final = 120.0
LOOK_S: Final = 0.25
GONE_DEADLINE_S: Final = 10.0
GONE_LOOK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Happening:
    """What was done to whom, and when it was over."""

    action: Action
    kind: Kind
    name: str
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class Nemesis:
    """Breaks a target, and knows what has to be healed."""

    target: Target
    happenings: list[Happening] = field(default_factory=list)
    _paused: list[int] = field(default_factory=list)  # pidfds
    _cut: list[Link] = field(default_factory=list)
    _full: list[Disk] = field(default_factory=list)

    async def run(self, plan: Sequence[Fault], *, seconds: float = math.inf) -> None:
        """All faults at their times, which are from now on, as far as the seconds reach.

        On a machine that is too slow for the plan, calm times between faults still are calm.
        """
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        calm_until_s = start_s
        for fault in plan:
            due_s = max(start_s + fault.at_s, calm_until_s)
            if due_s >= start_s + seconds:
                return
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self.strike(fault)
            calm_until_s = loop.time() + CALM_S[0]

    async def strike(self, fault: Fault) -> None:
        """One fault, from the first blow to the end of the last."""
        components = await self.target.components()
        hit: list[tuple[Blow, Component, int]] = []
        for blow in fault.blows:
            for victim in blow.victims(components):
                hit.append((blow, victim, time.monotonic_ns()))
                await self._hit(blow.action, victim)
        if any(blow.action in LASTING for blow, _, _ in hit):
            await asyncio.sleep(fault.lasts_s)
            await self.heal()
        end_ns = time.monotonic_ns()
        lost = [victim for blow, victim, _ in hit if blow.action is Action.DELETE]
        for victim in lost:
            await self.target.rebuild(victim)
        rebuilt_ns = time.monotonic_ns()

        def over_ns(action: Action, start_ns: int) -> int:
            if action is Action.DELETE:
                return rebuilt_ns
            return end_ns if action in LASTING else start_ns

        self.happenings += [
            Happening(
                blow.action,
                victim.kind,
                victim.name,
                start_ns,
                over_ns(blow.action, start_ns),
            )
            for blow, victim, start_ns in hit
        ]

    async def heal(self) -> None:
        """Let everything go on that was stopped or cut, and give disks room."""
        for disk in self._full:
            await asyncio.to_thread(disk.free)
        self._full.clear()
        for link in self._cut:
            link.mend()
        self._cut.clear()
        while self._paused:
            descriptor = self._paused.pop()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)

    async def _hit(self, action: Action, victim: Component) -> None:
        match action:
            case Action.KILL:
                self._signal(victim, signal.SIGKILL)
            case Action.PAUSE:
                self._paused += self._signal(victim, signal.SIGSTOP)
            case Action.DELETE:
                await self._delete(victim)
            case Action.FILL:
                disk = self.target.disks[victim.name]
                self._full.append(disk)
                await asyncio.to_thread(disk.fill)
            case Action.SLOW:
                link = self.target.links[victim.name]
                self._cut.append(link)
                link.slow(SLOW_S)
            case Action.CUT | Action.CUT_THERE | Action.CUT_BACK:
                link = self.target.links[victim.name]
                self._cut.append(link)
                if action is not Action.CUT_BACK:
                    link.cut_there()
                if action is not Action.CUT_THERE:
                    link.cut_back()

    async def _delete(self, victim: Component) -> None:
        """Kill, and delete before anybody can start it again: a node must not lose files under way,
        which is not what a lost disk does.
        """
        keeper = self.target.keeper_pid
        descriptor = -1
        if keeper is not None:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(keeper)
        try:
            if descriptor >= 0:
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
            self._signal(victim, signal.SIGKILL)
            await _gone(victim.pids)
            if victim.directory is not None:
                await asyncio.to_thread(_emptied, victim.directory)
        finally:
            if descriptor >= 0:
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
                os.close(descriptor)

    def _signal(self, victim: Component, number: signal.Signals) -> list[int]:
        """Send a signal to all that belongs to the victim; pidfds of those who got SIGSTOP."""
        kept = []
        for descriptor in _opened(victim, number):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            if number is signal.SIGSTOP:
                kept.append(descriptor)
            else:
                os.close(descriptor)
        return kept


def _opened(victim: Component, number: signal.Signals) -> list[int]:
    """Of each process that gets the signal a pidfd.

    A machine that dies or hangs takes all its processes along. Otherwise an agent is one process
    although postgres is its child, and the death of a postmaster is something that its backends
    have to notice by themselves.
    """
    found = []
    takes_all = victim.kind is Kind.COMPUTE or (
        number is signal.SIGSTOP and victim.kind is not Kind.AGENT
    )
    processes = all_processes() if takes_all else []
    for pid in victim.pids:
        below = [process.pid for process in descendants(pid, processes)]
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            descriptor = os.pidfd_open(pid)
            # Looked at after it was opened: from here on the number cannot become another's.
            if victim.mark.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.close(descriptor)
                continue
            found.append(descriptor)
            for child in below:
                with contextlib.suppress(ProcessLookupError):
                    found.append(os.pidfd_open(child))
    return found


def _emptied(directory: Path) -> None:
    """Delete all that is in a directory; what is started meanwhile may put files there again."""
    with contextlib.suppress(FileNotFoundError):
        for path in list(directory.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


async def _gone(pids: Sequence[int]) -> None:
    """Until these processes are no more, or only for their parents to be asked about."""
    end_s = time.monotonic() + GONE_DEADLINE_S
    while any(map(_runs, pids)) and time.monotonic() < end_s:  # noqa: ASYNC110  # nobody tells us
        await asyncio.sleep(GONE_LOOK_S)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][:1] not in {"Z", "X"}


async def wait_whole(target: Target, *, deadline_s: float = WHOLE_DEADLINE_S) -> float:
    """Until a target is whole again; after how many seconds. TargetError if it never is."""
    start_s = time.monotonic()
    while missing := await target.missing():
        if time.monotonic() - start_s > deadline_s:
            raise TargetError(f"not whole after {deadline_s:g} s: {missing}")
        await asyncio.sleep(LOOK_S)
    return time.monotonic() - start_s
