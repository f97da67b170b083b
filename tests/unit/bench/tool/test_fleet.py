"""Which targets are up when: what is left out, what is stopped for others, what is started anew.

In scope: bench.tool.fleet over targets that are only noted down. Out of scope: real ones, see
tests/integration/bench.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.pagefault.workspace import Workspace
from bench.targets.target import Address, Blow, Target, TargetError, TargetSettings
from bench.tool import fleet as fleet_module
from bench.tool.fleet import Fleet, LeftOutError, fleet_of
from bench.tool.options import Options
from bench.tool.progress import Lines
from bench.tool.record import Record
from bench.tool.rounds import Case
from bench.tool.work import Work

ADDRESS = Address(host="127.0.0.1", port=1, user="u", database="d")


@dataclass(slots=True)
class Noted:
    """A target that is nowhere."""

    name: str
    journal: list[str]
    is_mendable: bool = True
    description: str = "nowhere"
    direct: Address = ADDRESS
    front: Address = ADDRESS
    readers: Sequence[Address] = ()
    pids: Sequence[int] = (os.getpid(),)
    blows: frozenset[Blow] = frozenset()
    facts: Mapping[str, object] = field(default_factory=dict)

    def strike(self, blow: Blow) -> None:
        """As Target has it."""
        raise AssertionError(f"nobody hits it with {blow}")

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """As Target has it."""
        if not self.is_mendable:
            raise TargetError(f"{self.name} is not whole after {deadline_seconds:g} s")
        self.journal.append(f"~{self.name}")


@dataclass(slots=True)
class Starter:
    """Notes who was started (+), mended (~) and stopped (-)."""

    journal: list[str] = field(default_factory=list)
    missing: frozenset[str] = frozenset()
    unmendable: frozenset[str] = frozenset()

    @contextlib.contextmanager
    def __call__(self, name: str, place: Workspace, settings: TargetSettings) -> Iterator[Target]:
        """As Start has it."""
        assert place.directory.is_dir()
        assert settings.shared_buffers
        if name in self.missing:
            raise TargetError(f"install the package of {name}")
        self.journal.append(f"+{name}")
        try:
            yield Noted(name, self.journal, is_mendable=name not in self.unmendable)
        finally:
            self.journal.append(f"-{name}")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(fleet_module, "IDLE_SECONDS", 0.01)


def work_of(tmp_path: Path, **options: tuple[str, ...]) -> Work:
    place = Workspace.__new__(Workspace)  # nothing of this test needs a server
    place.directory = tmp_path
    record = Record(command=[], commit="", seed=1, is_quick=True, machine={})
    return Work(
        options=Options(**options),  # type: ignore[arg-type]  # of the one field that is given
        place=place,
        record=record,
        progress=Lines(sys.stderr),
    )


@contextlib.contextmanager
def fleet_with(
    work: Work, starter: Starter, *names: str, idle_share_max: float = 1.0
) -> Iterator[Fleet]:
    with fleet_of(work, names, TargetSettings(), starter, idle_share_max=idle_share_max) as fleet:
        yield fleet


def test_all_stay_up_and_are_stopped_at_the_end(tmp_path: Path) -> None:
    starter = Starter()
    with fleet_with(work_of(tmp_path), starter, "a", "b") as fleet:
        for step in fleet.plan([Case("tpcb", 8)], 2):
            fleet.target(step.target)
        assert starter.journal == ["+a", "+b"]
    assert starter.journal == ["+a", "+b", "-b", "-a"]


def test_targets_that_are_too_much_together_are_up_one_at_a_time(tmp_path: Path) -> None:
    starter = Starter()
    # Nothing is little enough for a share below 0.
    with fleet_with(work_of(tmp_path), starter, "a", "b", idle_share_max=-1.0) as fleet:
        assert not fleet.arranged.is_together
        del starter.journal[:]
        for step in fleet.plan([Case("tpcb", 8), Case("tpcb", 32)], 2):
            assert fleet.target(step.target).name == step.target
            assert list(fleet.up) == [step.target]
    first, second = starter.journal[0], starter.journal[2]
    # ABBA: who is last in a round is first in the next, and stays up.
    assert starter.journal == [
        first, first.replace("+", "-"), second, second.replace("+", "-"),
        first, first.replace("+", "-"),
    ]  # fmt: skip


def test_a_target_that_is_missing_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    work = work_of(tmp_path)
    with fleet_with(work, Starter(missing=frozenset("b")), "a", "b") as fleet:
        assert [step.target for step in fleet.plan([Case("tpcb", 8)], 1)] == ["a"]
    assert work.record.failures == ["b was left out: install the package of b"]
    assert work.record.unmeasured == 0


def test_it_is_a_failure_when_it_was_asked_for(tmp_path: Path) -> None:
    work = work_of(tmp_path, targets=("a", "b"))
    with fleet_with(work, Starter(missing=frozenset("b")), "a", "b"):
        pass
    assert work.record.unmeasured == 1


def test_without_any_target_there_is_nothing_to_measure(tmp_path: Path) -> None:
    with (
        pytest.raises(LeftOutError),
        fleet_with(work_of(tmp_path), Starter(missing=frozenset("a")), "a"),
    ):
        pass


def test_what_went_wrong_is_mended_and_prepared_again(tmp_path: Path) -> None:
    starter, prepared = Starter(), []
    with fleet_with(work_of(tmp_path), starter, "a") as fleet:
        fleet.prepare("a", "tpcb", lambda: prepared.append(1))
        fleet.prepare("a", "tpcb", lambda: prepared.append(2))
        fleet.mend("a")
        fleet.prepare("a", "tpcb", lambda: prepared.append(3))
    assert prepared == [1, 3]
    assert starter.journal == ["+a", "~a", "-a"]


def test_what_cannot_be_mended_is_started_anew(tmp_path: Path) -> None:
    starter = Starter(unmendable=frozenset("a"))
    work = work_of(tmp_path)
    with fleet_with(work, starter, "a") as fleet:
        fleet.mend("a")
        assert starter.journal == ["+a", "-a"]
        fleet.target("a")
        assert starter.journal == ["+a", "-a", "+a"]
    assert starter.journal[-1] == "-a"
    assert "a is not whole again" in work.record.failures[0]


def test_targets_are_stopped_when_a_part_fails(tmp_path: Path) -> None:
    starter = Starter()
    with (
        contextlib.suppress(KeyboardInterrupt),
        fleet_with(work_of(tmp_path), starter, "a", "b"),
    ):
        raise KeyboardInterrupt
    assert starter.journal == ["+a", "+b", "-b", "-a"]
