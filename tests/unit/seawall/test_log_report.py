"""Rows and tables of `seawall log status` from answers that nodes may give.

In scope: which rows there are, who counts as the leader, what is complained about.
Out of scope: asking nodes; see tests/integration/test_log_command.py.
"""

import json

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn, Tli
from log_service.methods import GroupStatus, MemberStatus, NodeStatus, Topology
from log_service.record_bodies import Holder, MemberInfo
from seawall.log_report import Row, json_text, leaderless, rows_of, status_table

INFOS = tuple(MemberInfo(n, NodeName(f"log-{n}"), f"tcp://10.0.0.{n}:7001") for n in (1, 2, 3))
HOLDER = Holder(NodeName("p"), "tcp://10.0.0.9:5432")


def group(
    member: int,
    *,
    leads: bool = False,
    term: int = 5,
    end: int = 1000,
    branch: str = "main",
    streams: bool = True,
    ingest_complaint: str = "",
    is_disk_full: bool = False,
) -> GroupStatus:
    topology = Topology(
        version="1",
        node=NodeName(f"log-{member}"),
        leader=None,
        term=term,
        is_leading=leads,
        members=INFOS,
        epoch=Epoch(1),
        holder=HOLDER,
        is_streaming=streams,
        tli=Tli(1),
        start=Lsn(0),
        end=Lsn(end),
        epoch_start=Lsn(0),
        system_identifier=None,
    )
    return GroupStatus(
        branch=BranchName(branch),
        member=member,
        role="leader" if leads else "follower",
        topology=topology,
        members=tuple(MemberStatus(info, None, None) for info in INFOS),
        first_index=1,
        last_index=9,
        commit_index=9,
        applied_index=9,
        uncommitted_bytes=0,
        is_disk_full=is_disk_full,
        is_resting=False,
        ingest_complaint=ingest_complaint,
        archived=None,
        archive_complaint="",
        pins={},
        standbys=(),
    )


def node(member: int, *groups: GroupStatus) -> NodeStatus:
    return NodeStatus(NodeName(f"log-{member}"), groups)


def survey(*nodes: NodeStatus) -> dict[str, NodeStatus | str]:
    return {INFOS[int(node.node[-1]) - 1].rpc: node for node in nodes}


def roles(rows: list[Row]) -> dict[str, str]:
    return {row.node: row.role for row in rows}


def test_lag_is_counted_from_the_leader() -> None:
    rows = rows_of(survey(node(1, group(1, leads=True, end=1000)), node(2, group(2, end=400))))
    assert {row.node: row.lag_bytes for row in rows} == {"log-1": 0, "log-2": 600}


def test_of_two_that_say_they_lead_the_newer_term_does() -> None:
    old, new = group(1, leads=True, term=4), group(2, leads=True, term=5)
    rows = rows_of(survey(node(1, old), node(2, new)))
    assert roles(rows) == {"log-1": "old leader", "log-2": "leader"}
    assert leaderless(rows) == []


def test_member_whose_node_is_silent_is_a_row_of_every_branch() -> None:
    both = node(1, group(1, leads=True), group(1, branch="other"))
    silent = INFOS[1].rpc
    rows = rows_of({**survey(both), silent: "refused"})
    lost = [row for row in rows if row.role == "unreachable"]
    assert [(row.branch, row.node, row.complaints) for row in lost] == [
        ("main", "log-2", ("refused",)),
        ("other", "log-2", ("refused",)),
    ]
    assert leaderless(rows) == ["other"]


def test_silent_address_that_nobody_knows_is_a_row_without_a_branch() -> None:
    rows = rows_of({**survey(node(1, group(1, leads=True))), "tcp://10.9.9.9:1": "refused"})
    assert (rows[-1].branch, rows[-1].node) == ("-", "tcp://10.9.9.9:1")
    assert leaderless(rows) == []


def test_node_that_is_known_by_two_addresses_is_one() -> None:
    answer = node(1, group(1, leads=True))
    assert len(rows_of({"tcp://localhost:7001": answer, INFOS[0].rpc: answer})) == 1


def test_replica_that_was_removed_is_no_member() -> None:
    rows = rows_of(
        survey(node(1, group(1, leads=True)), NodeStatus(NodeName("log-3"), (group(9),)))
    )
    assert roles(rows)["log-3"] == "no member"


def test_complaints_are_of_disk_ingest_and_silence() -> None:
    full = group(1, leads=True, is_disk_full=True, ingest_complaint="refused")
    (row,) = rows_of(survey(node(1, full)))
    assert row.complaints == ("the disk is full", "refused")
    (row,) = rows_of(survey(node(1, group(1, leads=True, streams=False))))
    assert row.complaints == ("no WAL comes from p",)
    (row,) = rows_of(survey(node(1, group(1, leads=True))))
    assert row.complaints == ()


def test_table_and_json_say_the_same() -> None:
    rows = rows_of({**survey(node(1, group(1, leads=True))), INFOS[1].rpc: "refused"})
    head, first, second = status_table(rows).splitlines()
    assert head.index("TERM") == first.index("5")
    assert second.split()[:4] == ["main", "log-2", "unreachable", "-"]
    found = json.loads(json_text(rows))
    assert [(row["node"], row["term"], row["end"]) for row in found] == [
        ("log-1", 5, "0/3E8"),
        ("log-2", None, None),
    ]
