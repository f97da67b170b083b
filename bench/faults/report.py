"""What a run has shown: for people a page of text and a picture, for programs JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from .history import Level, Lists, edn, write_history
from .nemesis import Happening
from .suite import Check, Run
from .timeline import Gap, gaps, primaries, timeline_svg

FINDINGS_TOLD_MAX: Final = 10
GAPS_TOLD_MAX: Final = 10
NEAR_NS: Final = 2_000_000_000  # a fault that long before a pause may be its reason


def violation_count(checks: Sequence[Check], *, strict: bool) -> int:
    """How much is wrong."""
    return sum(len(check.violations(strict=strict)) for check in checks)


def summary(run: Run, checks: Sequence[Check], *, strict: bool) -> str:
    """The page of text."""
    return "\n".join(_summary_lines(run, checks, strict=strict)) + "\n"


def _summary_lines(run: Run, checks: Sequence[Check], *, strict: bool) -> Iterator[str]:
    seconds = (run.end_ns - run.start_ns) / 1e9
    yield f"seed {run.seed}, {seconds:.1f} s, whole again after {run.whole_after_s:.1f} s"
    results = Counter((type(one).__name__, one.result.value) for one in run.operations)
    told = ", ".join(
        f"{name} {result} {count}" for (name, result), count in sorted(results.items())
    )
    yield f"operations: {told}"
    actions = Counter(f"{one.action} {one.kind}" for one in run.happenings)
    yield "faults: " + (", ".join(f"{n} x {what}" for what, n in sorted(actions.items())) or "none")
    yield "primaries (timeline@port): " + ", ".join(
        f"{one.server} from {(one.first_ns - run.start_ns) / 1e9:.2f} s"
        for one in primaries(run.operations)
    )
    longest = sorted(gaps(run.operations), key=lambda gap: -gap.seconds)[:GAPS_TOLD_MAX]
    yield "longest pauses: " + (
        ", ".join(
            f"{gap.seconds:.2f} s at {(gap.start_ns - run.start_ns) / 1e9:.1f} s"
            f" ({' + '.join(faults_at(gap, run.happenings)) or 'NO FAULT NEAR'})"
            for gap in longest
        )
        or "none"
    )
    for check in checks:
        found = check.violations(strict=strict)
        verdict = f"{len(found)} VIOLATIONS" if found else "ok"
        waived = len(check.findings) - len(found)
        more = f" ({waived} against the clock alone)" if waived else ""
        yield f"CHECK {check.name}: {check.judged} judged, {verdict}{more}"
        for finding in check.findings[:FINDINGS_TOLD_MAX]:
            yield f"  {finding.anomaly}: {finding.text}"
    yield from run.notes
    total = violation_count(checks, strict=strict)
    yield f"{total} violations" if total else "no violations"


def faults_at(gap: Gap, happenings: Sequence[Happening]) -> list[str]:
    """What was broken in a pause or shortly before it: a pause without any is to be explained."""
    return [
        f"{one.action} {one.name}"
        for one in sorted(happenings, key=lambda one: one.start_ns)
        if one.start_ns <= gap.end_ns and one.end_ns >= gap.start_ns - NEAR_NS
    ]


def as_json(run: Run, checks: Sequence[Check], *, strict: bool) -> dict[str, object]:
    """Everything but the history; times in seconds since the start."""

    def since(at_ns: int) -> float:
        return round((at_ns - run.start_ns) / 1e9, 3)

    results = Counter((type(one).__name__.lower(), one.result.value) for one in run.operations)
    return {
        "seed": run.seed,
        "seconds": since(run.end_ns),
        "whole_after_s": round(run.whole_after_s, 3),
        "complaint": run.complaint,
        "notes": run.notes,
        "operations": [
            {"kind": kind, "result": result, "count": count}
            for (kind, result), count in sorted(results.items())
        ],
        "plan": [asdict(fault) for fault in run.plan],
        "happenings": [
            {
                "action": one.action, "kind": one.kind, "name": one.name,
                "start_s": since(one.start_ns), "end_s": since(one.end_ns),
            }
            for one in run.happenings
        ],
        "primaries": [
            {"server": one.server, "first_s": since(one.first_ns)}
            for one in primaries(run.operations)
        ],
        "pauses": [
            {
                "start_s": since(gap.start_ns), "seconds": round(gap.seconds, 3),
                "faults": faults_at(gap, run.happenings),
            }
            for gap in gaps(run.operations)
        ],
        "checks": [
            {
                "name": check.name, "judged": check.judged,
                "violations": len(check.violations(strict=strict)),
                "findings": [asdict(finding) for finding in check.findings],
            }
            for check in checks
        ],
        "violations": violation_count(checks, strict=strict),
    }  # fmt: skip


def write_report(directory: Path, run: Run, checks: Sequence[Check], *, strict: bool) -> None:
    """Text, picture, JSON, and the history."""
    directory.mkdir(parents=True, exist_ok=True)
    text = summary(run, checks, strict=strict)
    (directory / "summary.txt").write_text(text, encoding="utf-8")
    svg = timeline_svg(
        run.operations,
        run.happenings,
        start_ns=run.start_ns,
        end_ns=run.end_ns,
        title=f"seed {run.seed}: {violation_count(checks, strict=strict)} violations",
    )
    (directory / "timeline.svg").write_text(svg, encoding="utf-8")
    report = msgspec.json.encode(as_json(run, checks, strict=strict))
    (directory / "report.json").write_bytes(msgspec.json.format(report, indent=2) + b"\n")
    write_history(directory / "history.jsonl", run.operations)


def write_lists(directory: Path, run: Run) -> Mapping[Level, Path]:
    """The lists of each level, for elle-cli; where they are."""
    directory.mkdir(parents=True, exist_ok=True)
    lists = [one for one in run.operations if isinstance(one, Lists)]
    found = {}
    for level in sorted({one.level for one in lists}):
        path = directory / f"lists-{level.replace(' ', '-')}.edn"
        path.write_text(edn(one for one in lists if one.level is level), encoding="utf-8")
        found[level] = path
    return found
