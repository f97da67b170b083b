"""What is told of a run: history files, Elle's form, pauses, the picture, the page of text.

In scope: pure rendering. Out of scope: how it looks.
"""

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from unit.faults.histories import SECOND_NS, lists

from bench.faults.dependencies import Finding
from bench.faults.history import (
    Append,
    Balances,
    Insert,
    Level,
    Lists,
    Operation,
    Read,
    Result,
    Transfer,
    edn,
    read_history,
    write_history,
)
from bench.faults.nemesis import Happening
from bench.faults.plan import Action
from bench.faults.report import (
    as_json,
    faults_at,
    summary,
    violation_count,
    write_lists,
    write_report,
)
from bench.faults.suite import Check, Run, judged
from bench.faults.target import Kind
from bench.faults.timeline import Gap, gaps, primaries, timeline_svg

RC = Level.READ_COMMITTED


def insert(number: int, at_s: float, server: str = "1@5432", result: Result = Result.OK) -> Insert:
    return Insert(
        process=1, result=result, server=server, identifier=number,
        invoke_ns=int(at_s * SECOND_NS) - 1_000_000, return_ns=int(at_s * SECOND_NS),
    )  # fmt: skip


OPERATIONS: list[Operation] = [
    insert(1, 1),
    insert(2, 1.2),
    insert(3, 2.5, result=Result.UNKNOWN),
    insert(4, 4.2, "2@5433"),
    lists("a1 r1", at=(1, 2)),
    Transfer(process=2, result=Result.FAIL, invoke_ns=5, return_ns=9, source=1, target=2, amount=3),
    Balances(process=2, result=Result.OK, invoke_ns=5, return_ns=9, level=RC, balances=(1, 2)),
]
HAPPENINGS = [
    Happening(Action.PAUSE, Kind.COMPUTE, "compute-1 <&>", SECOND_NS, 3 * SECOND_NS),
    Happening(Action.KILL, Kind.LOG, "log-1", SECOND_NS, SECOND_NS),
]


def run(*operations: Operation, rows: list[int] | None = None) -> Run:
    return Run(7, [], 0, 5 * SECOND_NS, list(operations), HAPPENINGS, rows or [])


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_history(tmp_path / "h", OPERATIONS)
    assert read_history(tmp_path / "h") == OPERATIONS


def test_damaged_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h").write_text('{"operation": "lists"}\n')
    with pytest.raises(msgspec.DecodeError):
        read_history(tmp_path / "h")


def test_elle_gets_calls_and_returns_in_order_and_a_new_process_after_an_unknown_one() -> None:
    first = Lists(
        process=3, result=Result.UNKNOWN, invoke_ns=10, return_ns=30, level=RC,
        steps=(Append(1, 2), Read(4)),
    )  # fmt: skip
    second = Lists(
        process=3, result=Result.OK, invoke_ns=40, return_ns=50, level=RC, steps=(Read(1, (2,)),)
    )
    both = "[[:append 1 2] [:r 4 nil]]"
    assert edn([second, first]).splitlines() == [
        f"{{:index 0, :time 10, :f :txn, :type :invoke, :process 3, :value {both}}}",
        f"{{:index 1, :time 30, :f :txn, :type :info, :process 3, :value {both}}}",
        "{:index 2, :time 40, :f :txn, :type :invoke, :process 1003, :value [[:r 1 nil]]}",
        "{:index 3, :time 50, :f :txn, :type :ok, :process 1003, :value [[:r 1 [2]]]}",
    ]


def test_pauses_are_between_acknowledgements() -> None:
    inserts = [one for one in OPERATIONS if isinstance(one, Insert)]
    assert [round(gap.seconds, 3) for gap in gaps(inserts)] == [3.0]


def test_pause_is_told_with_the_faults_that_may_be_its_reason() -> None:
    def happening(name: str, start_s: float, end_s: float) -> Happening:
        start_ns, end_ns = int(start_s * SECOND_NS), int(end_s * SECOND_NS)
        return Happening(Action.PAUSE, Kind.LOG, name, start_ns, end_ns)

    gap = Gap(10 * SECOND_NS, 20 * SECOND_NS)
    happenings = [
        happening("within", 12, 13), happening("around", 5, 30), happening("just before", 8.5, 8.5),
        happening("long before", 1, 7.9), happening("after", 20.1, 21),
    ]  # fmt: skip
    assert faults_at(gap, happenings) == ["pause around", "pause just before", "pause within"]


def test_primaries_come_in_the_order_of_their_first_acknowledgement() -> None:
    inserts = [one for one in OPERATIONS if isinstance(one, Insert)]
    assert [one.server for one in primaries(inserts[::-1])] == ["1@5432", "2@5433"]


def test_picture_shows_faults_and_primaries_and_is_xml() -> None:
    svg = timeline_svg(OPERATIONS, HAPPENINGS, start_ns=0, end_ns=5 * SECOND_NS, title="<&>")
    top = ElementTree.fromstring(svg)  # noqa: S314  # made here
    texts = {element.text for element in top.iter() if element.text}
    assert {"compute compute-1 <&>", "log log-1", "2@5433", "pause 2.00 s", "<&>"} <= texts


def test_picture_of_nothing_is_a_picture() -> None:
    ElementTree.fromstring(timeline_svg([], [], start_ns=0, end_ns=0, title=""))  # noqa: S314  # made here


def test_every_checker_judges_its_own_operations() -> None:
    broken: list[Operation] = [
        *(lists("a1 a2 r1", level=level) for level in Level),
        Balances(process=2, result=Result.OK, invoke_ns=5, return_ns=9, level=RC, balances=(1, 2)),
        insert(1, 1),
    ]
    checks = judged(run(*broken))
    assert [check.name for check in checks if check.findings] == [check.name for check in checks]
    assert violation_count(checks, strict=True) == len(checks) == 5


def test_target_that_is_not_whole_at_the_end_is_a_violation() -> None:
    broken = run(insert(1, 1))
    broken.complaint = "no primary"
    assert violation_count(judged(broken), strict=True) == 1


@pytest.mark.parametrize(("strict", "count"), [(True, 2), (False, 1)])
def test_findings_against_the_clock_alone_count_only_when_strict(strict: bool, count: int) -> None:
    check = Check("c", 3, (Finding("G1c", "x"), Finding("stale read", "y", is_realtime=True)))
    assert violation_count([check], strict=strict) == count
    assert f"{count} VIOLATIONS" in summary(run(*OPERATIONS), [check], strict=strict)


def test_what_was_not_done_is_told() -> None:
    told = run(*OPERATIONS)
    told.notes.append("elle: not run (for a reason)")
    assert "elle: not run (for a reason)" in summary(told, [], strict=True).splitlines()


def test_report_has_all_its_files(tmp_path: Path) -> None:
    told = run(*OPERATIONS, rows=[1, 2])
    checks = judged(told)
    write_report(tmp_path / "r", told, checks, strict=True)
    write_lists(tmp_path / "r", told)
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {
        "summary.txt", "timeline.svg", "report.json", "history.jsonl", "lists-serializable.edn",
    }  # fmt: skip
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report == json.loads(msgspec.json.encode(as_json(told, checks, strict=True)))
    anomalies = itertools.chain.from_iterable(check["findings"] for check in report["checks"])
    assert "lost row" in {finding["anomaly"] for finding in anomalies}
