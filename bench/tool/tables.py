"""What is printed of trials: medians with spread for each target, and ratios a round. Pure.

    tpcb, 8 clients        tps                         p99_ms
      seawall-ha              1234 (1200 to 1250)       12.10 (11.90 to 14.00)   5 rounds
      stock-sync              1300 (1250 to 1310)       11.80 (11.60 to 12.20)   5 rounds
      seawall-ha / stock-sync, tps: 0.950 (0.930 to 0.970); rounds 0.950 0.930 0.970 0.955 0.940

A ratio is of two trials of one round, never of two medians.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.pagefault.report import Measurement, figure
from bench.results import figures
from bench.results.comparison import words
from bench.results.record import Trial
from bench.results.statistics import paired_difference

Group = tuple[str, int]  # workload and clients


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which figure is held against which targets."""

    subject: str
    figure: str


def groups(trials: Iterable[Trial]) -> list[Group]:
    """What was done, in the order in which it was done first."""
    return list(dict.fromkeys((trial.workload, trial.clients) for trial in trials))


def over_rounds(
    trials: Iterable[Trial], group: Group, target: str, name: str
) -> Measurement | None:
    """One figure of one target over the rounds."""
    values = tuple(
        trial.figures[name]
        for trial in sorted(trials, key=lambda one: one.round)
        if (trial.workload, trial.clients) == group
        and trial.target == target
        and name in trial.figures
    )
    return Measurement(name, "", values) if values else None


def ratios(
    trials: Iterable[Trial], group: Group, name: str, *, subject: str, peer: str
) -> Measurement | None:
    """The subject's figure by the peer's, of each round in which both were measured."""
    by_round: dict[int, dict[str, float]] = {}
    for trial in trials:
        if (trial.workload, trial.clients) == group and name in trial.figures:
            by_round.setdefault(trial.round, {})[trial.target] = trial.figures[name]
    values = tuple(
        found[subject] / found[peer]
        for _, found in sorted(by_round.items())
        if subject in found and found.get(peer)
    )
    return Measurement(f"{subject}/{peer}", "", values) if values else None


def of_group(trials: Iterable[Trial], group: Group) -> list[Trial]:
    """The trials of one thing that was done."""
    return [trial for trial in trials if (trial.workload, trial.clients) == group]


def target_lines(trials: Sequence[Trial], group: Group, names: Sequence[str]) -> list[str]:
    """A heading, and a line for each target; figures that nobody has are left out."""
    targets = _targets(trials, group)
    shown = [
        name
        for name in names
        if any(over_rounds(trials, group, target, name) for target in targets)
    ]
    head = f"{title(group):34}" + "".join(f"{name:30}" for name in shown).rstrip()
    return [head, *(_target_line(trials, group, target, shown) for target in targets)]


def ratio_lines(trials: Sequence[Trial], group: Group, comparison: Comparison) -> list[str]:
    """The subject beside everybody else."""
    found = []
    for peer in _targets(trials, group):
        if peer == comparison.subject:
            continue
        measured = ratios(trials, group, comparison.figure, subject=comparison.subject, peer=peer)
        if measured is not None:
            each = " ".join(figure(value) for value in measured.rounds)
            said = words(paired_difference(measured.rounds), figures.direction(comparison.figure))
            found.append(
                f"  {comparison.subject} / {peer}, {comparison.figure}: {told(measured)};"
                f" rounds {each}; {said}"
            )
    return found


def title(group: Group) -> str:
    """As in `tpcb, 8 clients`."""
    workload, clients = group
    return f"{workload}, {clients} clients" if clients else workload


def told(measured: Measurement) -> str:
    """The median and where the middle half lies."""
    low, high = measured.spread
    return f"{figure(measured.value)} ({figure(low)} to {figure(high)})"


def _targets(trials: Iterable[Trial], group: Group) -> list[str]:
    return list(dict.fromkeys(trial.target for trial in of_group(trials, group)))


def _target_line(trials: Sequence[Trial], group: Group, target: str, names: Sequence[str]) -> str:
    cells, rounds = [], 0
    for name in names:
        measured = over_rounds(trials, group, target, name)
        rounds = max(rounds, len(measured.rounds) if measured else 0)
        cells.append(f"{told(measured) if measured else '-':30}")
    return f"  {target:32}{''.join(cells)}{rounds} rounds"
