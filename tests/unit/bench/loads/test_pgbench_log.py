"""What pgbench logs, and what it is told.

Out of scope: running it (tests/integration/bench/test_loads.py).
"""

import pytest

from bench.loads.load import LoadSettings
from bench.loads.pgbench_binary import run_arguments
from bench.loads.pgbench_log import Line, parse, tally_of
from bench.loads.tally import LoadError
from bench.loads.tpcb import Builtin

LOG = """\
0 1 20000 0 1700000000 500000
1 1 30000 0 1700000001 900000
0 2 failed 0 1700000002 100000
1 2 40000 0 1700000003 700000 15000
"""


def test_the_log_is_read_and_what_failed_has_no_latency() -> None:
    assert list(parse(LOG.splitlines())) == [
        Line(1700000000.5, 0.02),
        Line(1700000001.9, 0.03),
        Line(1700000002.1, None),
        Line(1700000003.7, 0.04),
    ]


@pytest.mark.parametrize("text", ["", "0 1 2", "a b c d e f", "pgbench: error"])
def test_what_is_no_transaction_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="no transaction"):
        list(parse([text]))


def test_warm_up_does_not_count_and_the_load_begins_with_the_first_begin() -> None:
    # The first began at .48; so what counts is from 1.48 to 3.48.
    settings = LoadSettings(clients=2, seconds=2.0, seed=1, warm_seconds=1.0)
    outcome = tally_of(list(parse(LOG.splitlines())), settings, kind="x").outcome("pgbench")
    assert (outcome.transactions, outcome.errors) == (1, 1)
    assert [(s.transactions, s.errors) for s in outcome.series] == [(1, 1), (0, 0)]
    assert outcome.longest_gap_seconds == pytest.approx(1.58, abs=0.002)


def test_of_an_open_loop_counts_what_was_due() -> None:
    settings = LoadSettings(clients=2, seconds=3.2, seed=1, rate=10.0)
    tally = tally_of(list(parse(LOG.splitlines())), settings, kind="x")
    assert tally.transactions == 3  # the last was due at 3.18 and ended at 3.22
    closed = LoadSettings(clients=2, seconds=3.2, seed=1)
    assert tally_of(list(parse(LOG.splitlines())), closed, kind="x").transactions == 2


def test_an_empty_log_is_nothing() -> None:
    settings = LoadSettings(clients=2, seconds=2.0, seed=1)
    assert tally_of([], settings, kind="x").transactions == 0


def test_pgbench_never_empties_the_history_and_runs_longer_than_what_counts() -> None:
    settings = LoadSettings(clients=8, seconds=2.5, seed=3, warm_seconds=1.0, rate=99.5)
    arguments = run_arguments(Builtin.SIMPLE_UPDATE, settings, protocol="prepared")
    assert arguments == [
        "--builtin=simple-update", "--no-vacuum", "--protocol=prepared", "--time=5", "--client=8",
        "--jobs=2", "--random-seed=3", "--rate=99.5",
    ]  # fmt: skip
