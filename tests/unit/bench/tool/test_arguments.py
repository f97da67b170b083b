"""The command line: what is understood, what is refused, what is never kept.

In scope: bench.tool.arguments, and what of a command line goes into results. Out of scope: running.
"""

from pathlib import Path

import pytest

from bench.tool.arguments import options_of, output_of, parser_of
from bench.tool.options import Options
from bench.tool.secrets import without_secrets

PARTS = {"tps": "transactions", "failover": "gaps"}


def options(*argv: str) -> Options:
    return options_of(parser_of("bench", PARTS).parse_args(argv))


def test_lists_are_separated_by_commas() -> None:
    chosen = options("tps", "--targets", "stock, seawall-ha,stock", "--clients", "8,32")
    assert chosen.targets == ("stock", "seawall-ha")
    assert chosen.clients == (8, 32)


def test_what_is_not_said_is_the_parts_affair() -> None:
    assert options("failover") == Options()


def test_a_target_was_asked_for_only_by_its_name() -> None:
    assert not options("tps").was_asked_for("patroni")
    assert options("tps", "--targets", "patroni").was_asked_for("patroni")


def test_a_dsn_is_one_more_target_and_was_asked_for() -> None:
    chosen = options("tps", "--dsn", "postgres://db/x")
    assert chosen.chosen_targets(("stock",)) == ("stock", "dsn")
    assert chosen.was_asked_for("dsn")
    assert not chosen.was_asked_for("stock")


@pytest.mark.parametrize(
    "argv",
    [
        ["tps", "--clients", "0"],
        ["tps", "--clients", "8,many"],
        ["tps", "--rounds", "-1"],
        ["tps", "--seconds", "0"],
        ["tps", "--seconds", "nan"],
        ["tps", "--targets", ","],
        ["tps", "--version", "18", "--pg-bin", "/x"],
        ["nothing"],
        ["compare", "one"],
        [],
    ],
)
def test_nonsense_is_refused_with_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parser_of("bench", PARTS).parse_args(argv)
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_results_go_where_they_are_told_to() -> None:
    arguments = parser_of("bench", PARTS).parse_args(["all", "--out", "x", "--no-report"])
    assert output_of(arguments).directory == Path("x")
    assert not output_of(arguments).makes_report


def test_results_go_to_a_new_directory_else() -> None:
    directory = output_of(parser_of("bench", PARTS).parse_args(["tps"])).directory
    assert directory.parent == Path("bench-results")
    assert directory.name.endswith("-tps")


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "tps", "--dsn", "postgres://u:geheim@db/x", "--quick"],
        ["bench", "tps", "--dsn=postgres://u:geheim@db/x", "--quick"],
        # argparse takes the beginning of an option for the option.
        ["bench", "tps", "--ds", "postgres://u:geheim@db/x", "--quick"],
        ["bench", "tps", "--ds=postgres://u:geheim@db/x", "--quick"],
    ],
)
def test_a_dsn_does_not_get_into_results(argv: list[str]) -> None:
    kept = without_secrets(argv)
    assert "geheim" not in " ".join(kept)
    assert kept[:2] == ["bench", "tps"]
    assert kept[-1] == "--quick"
