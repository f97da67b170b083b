"""The arithmetic of the log's benchmarks, and what they write for and read from other programs.

In scope: bars, journals of writers, ratios, a node's configuration and its first
words, ports. Out of scope: anything that starts a process; see tests/integration.
"""

import argparse
import random
import socket
import tomllib
from pathlib import Path

import pytest

from bench.log.__main__ import SUITE
from bench.log.bars import BARS, CLIENTS, tps_ratio_name
from bench.log.footprint import parse_peak_mib
from bench.log.latency import latency_figures, quantile
from bench.log.nodes import NodeSpec
from bench.log.sides import SideError
from bench.log.tpcb import Pair, Round, figures, settled_figures
from bench.log.writers import Journal, parse_journals, row_findings
from bench.node_process import free_ports, is_ready, node_environment
from bench.runner import remark_text

# Bars.


def test_every_number_of_clients_has_its_bar() -> None:
    names = {bar.name for bar in BARS}
    assert {tps_ratio_name(clients) for clients in CLIENTS} <= names
    assert len(names) == len(BARS)


# Ratios.


def test_ratio_of_throughput_is_that_of_each_pair() -> None:
    pairs = [
        Pair(ours=Round(200, 400, 0.3), stock=Round(100, 4000, 0.6)),
        Pair(ours=Round(90, 400, 0.3), stock=Round(100, 1000, 0.6)),
    ]
    found = {m.name: m.rounds for m in figures({8: pairs})}
    assert found["tps_ratio_8_clients"] == (2.0, 0.9)
    assert found["wal_bytes_ratio"] == (0.1, 0.4)
    assert found["ours_tps_8"] == (200, 90)
    assert found["stock_cpu_8"] == (0.6, 0.6)


def test_settled_rounds_have_no_bar() -> None:
    pair = Pair(ours=Round(200, 400, 0.3), stock=Round(100, 500, 0.6))
    found = {m.name: m.value for m in settled_figures([pair])}
    assert found["tps_ratio_settled"] == 2
    assert found["wal_bytes_ratio_settled"] == 0.8
    assert not found.keys() & {bar.name for bar in BARS}


@pytest.mark.parametrize(
    ("bar", "quick", "said"),
    [
        ("election_ms", False, ""),
        ("election_ms", True, " (quick: too little was measured to judge by)"),
        ("node_memory_mib", False, " (after 0.5 minutes of the 10 that are promised)"),
    ],
)
def test_line_of_a_bar_says_when_less_was_measured_than_promised(
    bar: str, *, quick: bool, said: str
) -> None:
    assert remark_text(SUITE, bar, argparse.Namespace(quick=quick, minutes=0.5)) == said


def test_latency_is_held_against_a_round_trip_and_a_sync() -> None:
    medians = {"ours": [3.0], "stock": [4.0], "rpc": [0.5], "sync": [1.5]}
    found = {m.name: m.value for m in latency_figures(medians)}
    assert found["commit_latency_ratio"] == 1.5
    assert found["sync_p50_us"] == 1.5e6


def test_commit_that_is_faster_than_its_floor_is_no_measurement() -> None:
    """One round is enough: what spoilt it has spoilt the others less visibly."""
    medians = {"ours": [9.0, 1.9], "stock": [4.0, 4.0], "rpc": [0.5, 0.5], "sync": [1.5, 1.5]}
    with pytest.raises(SideError, match=r"floor was not measured \(ratios 4\.50, 0\.95\)"):
        latency_figures(medians)


def test_quantile_leaves_its_share_below() -> None:
    assert quantile([float(value) for value in range(100)], 0.99) == 99
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2
    assert quantile([1.0], 0.99) == 1


def test_peak_of_memory_is_read_off_the_kernel() -> None:
    assert parse_peak_mib("Name:\tx\nVmHWM:\t  204800 kB\nVmRSS:\t 1 kB\n") == 200


# Journals.


def test_journal_tells_acknowledged_from_possible_rows() -> None:
    text = "try 1 10\nack 1 20\ntry 2 30\nwarn 2 40\ntry 3 50\nfail 3 60\ntry 4 70\n"
    journal = parse_journals([(7, text)])
    assert journal.attempted == {(7, 1), (7, 2), (7, 3), (7, 4)}
    assert journal.acknowledged == {(7, 1)}
    assert journal.warned == {(7, 2)}
    assert journal.failed == {(7, 3)}


def test_line_that_is_being_written_does_not_count() -> None:
    journal = parse_journals([(1, "try 1 10\nack 1 20\ntry 2 30\nack 2")])
    assert journal.acknowledged == {(1, 1)}


def test_longest_pause_is_between_acknowledgements_of_any_writer() -> None:
    journal = parse_journals(
        [(1, "ack 1 0\nack 2 4000000000\n"), (2, "ack 1 1000000000\nack 2 4500000000\n")]
    )
    assert journal.longest_pause_s() == 3
    assert journal.longest_pause_s(after_ns=4_000_000_000) == 0.5
    assert journal.longest_pause_s(after_ns=5_000_000_000) == 0


def test_lost_and_made_up_rows_are_findings_and_possible_ones_are_not() -> None:
    journal = Journal(
        attempted=frozenset({(1, 1), (1, 2), (1, 3)}),
        acknowledged=frozenset({(1, 1), (1, 2)}),
        warned=frozenset(),
        failed=frozenset(),
        acknowledged_at_ns=(1, 2),
    )
    assert row_findings(journal, frozenset({(1, 1), (1, 2)})) == []
    assert row_findings(journal, frozenset({(1, 1), (1, 2), (1, 3)})) == []
    assert row_findings(journal, frozenset({(1, 2), (2, 1)})) == [
        "1 of 2 acknowledged rows are lost: [(1, 1)]",
        "1 rows are there that nobody wrote: [(2, 1)]",
    ]


# Nodes.


def test_configuration_of_a_node_is_toml_with_all_it_needs(tmp_path: Path) -> None:
    spec = NodeSpec(
        name="log-1",
        cluster="demo",
        directory=tmp_path,
        rpc_port=7001,
        pg_port=7101,
        peer_addresses={"log-2": "tcp://127.0.0.1:9"},
        settings={"is_quick": True, "disk": {"segment_bytes": 1 << 20}},
    )
    assert tomllib.loads(spec.config_text()) == {
        "name": "log-1",
        "cluster": "demo",
        "data_dir": str(tmp_path / "data"),
        "rpc_listen": "tcp://127.0.0.1:7001",
        "pg_listen": "tcp://127.0.0.1:7101",
        "is_quick": True,
        "disk": {"segment_bytes": 1 << 20},
        "peer_addresses": {"log-2": "tcp://127.0.0.1:9"},
    }


@pytest.mark.parametrize(
    "said", [b"", b'{"event": "log node ready"', b"hello\n", b"[1]\n", b'{"event": "other"}\n']
)
def test_node_that_has_not_said_so_is_not_ready(said: bytes) -> None:
    assert not is_ready(said, NodeSpec.ready_event)


def test_node_that_says_so_is_ready() -> None:
    said = b'noise\n{"event": "log node ready", "rpc": "127.0.0.1:1"}\n'
    assert is_ready(said, NodeSpec.ready_event)


def test_node_inherits_only_what_is_listed() -> None:
    inherited = {"PATH": "/bin", "PGPASSWORD": "x", "PYTHONPATH": "/elsewhere", "TZ": "UTC"}
    assert node_environment(inherited) == {"PATH": "/bin", "TZ": "UTC"}


def test_free_ports_are_free_and_never_given_to_outgoing_connections() -> None:
    ports = free_ports(4, random.Random(1))
    assert len(set(ports)) == 4
    with socket.create_server(("127.0.0.1", ports[0])):
        assert ports[0] not in free_ports(4, random.Random(1))
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < ephemeral for port in ports)
