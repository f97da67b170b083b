"""Rows and tables of `seawall storage` from answers that nodes may give.

In scope: which rows there are, in which order, what a table says. Out of scope: asking nodes; see
tests/integration/test_storage_command.py.
"""

import json

from fabric.ids import BranchName, CutSeq, NodeName
from fabric.lsn import Lsn, Tli
from seawall.storage_report import cuts_json, cuts_table, json_text, rows_of, status_table
from storage.cut import Cut
from storage.methods import BranchStatus, CutSummary, NodeStatus

ONE, TWO = "tcp://10.0.0.1:7201", "tcp://10.0.0.2:7201"


def branch(name: str, *, complaint: str = "", cuts: int = 2) -> BranchStatus:
    newest = CutSummary(seq=cuts, lsn=Lsn(0x300), age_s=7.4) if cuts else None
    return BranchStatus(
        branch=BranchName(name),
        state="waiting",
        cuts=cuts,
        oldest=CutSummary(seq=1, lsn=Lsn(0x100), age_s=60.0) if cuts else None,
        newest=newest,
        lag_bytes=512 if cuts else None,
        lag_s=1.5 if cuts else None,
        complaint=complaint,
        size_bytes=0,
        pins=0,
        oldest_pin=None,
    )


def node(name: str, *branches: BranchStatus) -> NodeStatus:
    return NodeStatus(NodeName(name), branches)


def test_branches_of_one_name_stand_together() -> None:
    rows = rows_of({ONE: node("s-2", branch("b"), branch("a")), TWO: node("s-1", branch("b"))})
    assert [(row.branch, row.node) for row in rows] == [("a", "s-2"), ("b", "s-1"), ("b", "s-2")]


def test_silent_address_and_empty_node_are_rows_at_the_end() -> None:
    rows = rows_of({TWO: "refused", ONE: node("s-1", branch("b")), "tcp://x:1": node("s-3")})
    found = [(row.branch, row.node, row.state, row.complaint) for row in rows]
    assert found == [
        ("b", "s-1", "waiting", ""),
        ("-", "s-3", "no branch", ""),
        ("-", TWO, "unreachable", "refused"),
    ]


def test_node_that_is_known_by_two_addresses_is_one() -> None:
    assert len(rows_of({ONE: node("s-1", branch("b")), TWO: node("s-1", branch("b"))})) == 1


def test_table_and_json_say_the_same() -> None:
    rows = rows_of({ONE: node("s-1", branch("b", complaint="the disk is full"))})
    head, line = status_table(rows).splitlines()
    assert head.index("NEWEST") == line.index("0/300")
    assert line.split()[5:7] == ["0/300", "7s"]
    assert line.endswith("the disk is full")
    (found,) = json.loads(json_text(rows))
    assert (found["newest"], found["age_s"], found["lag_bytes"]) == ("0/300", 7.4, 512)


def test_branch_without_a_cut_has_hyphens() -> None:
    line = status_table(rows_of({ONE: node("s-1", branch("b", cuts=0))})).splitlines()[1]
    assert line.split() == ["b", "s-1", "waiting", "0", "-", "-", "-", "-", "0", "0.0M", "-"]


def test_cuts_are_listed_with_their_time() -> None:
    cut = Cut(seq=CutSeq(3), tli=Tli(2), lsn=Lsn(0x300), redo=Lsn(0x200), taken_at_s=1_700_000_000)
    line = cuts_table([cut]).splitlines()[1]
    assert line.split() == ["3", "2", "0/300", "0/200", "2023-11-14T22:13:20Z"]
    (found,) = json.loads(cuts_json([cut]))
    assert found["taken_at"] == "2023-11-14T22:13:20Z"
