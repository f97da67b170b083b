"""Runs of one part each become one result set, unless they do not belong together."""

import msgspec
import pytest
from unit.bench.result_sets import result_set

from bench.report.story import document
from bench.results.files import ResultError
from bench.results.joining import joined
from bench.results.record import ResultSet, TargetFacts

WHOLE = result_set(rounds=2)


def part(name: str, **changes: object) -> ResultSet:
    return msgspec.structs.replace(
        WHOLE,
        trials=[trial for trial in WHOLE.trials if trial.part == name],
        command=["seawall", "bench", name, "--out", "a b"],
        **changes,
    )


def test_what_each_has_found_is_there_once() -> None:
    tps = part("tps", judgements=WHOLE.judgements[:1], failures=["one"])
    failover = part(
        "failover",
        judgements=WHOLE.judgements[1:],
        failures=["other"],
        started_at="2026-11-27T11:00:00+00:00",
        targets=[TargetFacts("stock", "stock", {"idle_cores": 0.01})],
    )
    found = joined([tps, failover])
    assert found.trials == [*tps.trials, *failover.trials]
    assert found.judgements == WHOLE.judgements
    assert found.failures == ["one", "other"]
    assert found.seconds == 2 * WHOLE.seconds
    assert found.started_at == "2026-11-27T11:00:00+00:00"
    (stock,) = [one for one in found.targets if one.name == "stock"]
    assert stock.facts == {"shared_buffers": "256MB", "idle_cores": 0.01}
    assert len(found.targets) == len(WHOLE.targets)
    (command,) = [
        text
        for block in document(found).blocks
        if (text := getattr(block, "text", "")).startswith("Command: ")
    ]
    assert command == (
        "Command: seawall bench tps --out 'a b' ; seawall bench failover --out 'a b'"
    )


def test_one_alone_is_itself() -> None:
    assert joined([WHOLE]) is WHOLE


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"commit": "fedcba987654"}, "commits 0123456789ab[+] and fedcba987654"),
        ({"is_quick": True}, "quick run"),
        ({"machine": {**WHOLE.machine, "cores": 64}}, "cores was 2 and 64"),
    ],
)
def test_what_cannot_be_compared_is_not_joined(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ResultError, match=complaint):
        joined([part("tps"), part("failover", **changes)])


def test_nothing_is_counted_twice() -> None:
    with pytest.raises(ResultError, match="was measured in two"):
        joined([part("tps"), part("failover"), part("tps")])
