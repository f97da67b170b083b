"""What log nodes say of their branches, as rows: for a table to read, and for JSON.

    {address: NodeStatus or why there is none} ──► rows_of ──► table | json_text

Pure. A row is one replica of one branch. A member of a branch whose node does not answer is a row,
too, and so is an address that does not answer and that nobody knows. Of several that say they lead,
the one of the newest term does: the others have not heard of it yet.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from fabric.ids import BranchName
from log_service.methods import GroupStatus, NodeStatus

Survey: TypeAlias = Mapping[str, NodeStatus | str]

LEADER: Final = "leader"
UNREACHABLE: Final = "unreachable"
NOTHING: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A replica. What is None is not known, or there is none."""

    branch: str
    node: str
    address: str
    role: str
    is_resting: bool = False
    term: int | None = None
    commit_index: int | None = None
    end: str | None = None
    lag_bytes: int | None = None
    """Of its committed WAL behind the leader's."""
    epoch: int | None = None
    holder: str | None = None
    tli: int | None = None
    standbys: int | None = None
    archived: str | None = None
    complaints: tuple[str, ...] = ()


def rows_of(survey: Survey, branch: BranchName | None = None) -> list[Row]:
    """Return the replicas of a branch, or of all of them, in order."""
    silent = {address: said for address, said in survey.items() if isinstance(said, str)}
    answered: dict[str, tuple[str, NodeStatus]] = {}
    for address, said in survey.items():
        if isinstance(said, NodeStatus):  # a node that is known by two addresses is one
            answered.setdefault(said.node, (address, said))
    rows: list[Row] = []
    explained: set[str] = set()
    for name in sorted({g.branch for _, said in answered.values() for g in said.groups}):
        groups = {
            node: (address, group)
            for node, (address, said) in answered.items()
            for group in said.groups
            if group.branch == name
        }
        lost = _unreachable(name, groups, silent)
        explained |= {row.address for row in lost}
        if branch in {None, name}:
            rows += sorted([*_replicas(groups), *lost], key=lambda row: row.node)
    unknown = [
        _silent_row(NOTHING, address, address, reason)
        for address, reason in silent.items()
        if address not in explained
    ]
    return rows + unknown


def leaderless(rows: Iterable[Row]) -> list[str]:
    """Return the branches that nobody leads, as far as can be seen."""
    rows = list(rows)
    led = {row.branch for row in rows if row.role == LEADER}
    return sorted({row.branch for row in rows} - led - {NOTHING})


def json_text(rows: Sequence[Row]) -> str:
    """Return the rows for programs."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)


def status_table(rows: Sequence[Row]) -> str:
    """Return the rows for people."""
    return table(_HEADINGS, [_cells(row) for row in rows])


def table(headings: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """Return columns that are as wide as they must be; None is a hyphen."""
    cells = [[NOTHING if c in {None, ""} else str(c) for c in line] for line in lines]
    columns = zip(headings, *cells, strict=True)
    widths = [max(len(cell) for cell in column) for column in columns]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [headings, *cells]
    )


_HEADINGS: Final = (
    "BRANCH", "NODE", "ROLE", "TERM", "COMMIT", "END", "LAG", "EPOCH", "HOLDER", "TLI", "STANDBYS",
    "ARCHIVED", "COMPLAINTS",
)  # fmt: skip


def _cells(row: Row) -> list[object]:
    role = f"{row.role}, resting" if row.is_resting else row.role
    return [
        row.branch, row.node, role, row.term, row.commit_index, row.end, row.lag_bytes, row.epoch,
        row.holder, row.tli, row.standbys, row.archived, "; ".join(row.complaints),
    ]  # fmt: skip


def _replicas(groups: Mapping[str, tuple[str, GroupStatus]]) -> list[Row]:
    leading = [group for _, group in groups.values() if group.topology.is_leading]
    leader = max(leading, key=lambda group: group.topology.term, default=None)
    return [_row(node, address, group, leader) for node, (address, group) in groups.items()]


def _row(node: str, address: str, group: GroupStatus, leader: GroupStatus | None) -> Row:
    topology = group.topology
    return Row(
        branch=group.branch,
        node=node,
        address=address,
        role=_role(group, is_leader=group is leader),
        is_resting=group.is_resting,
        term=topology.term,
        commit_index=group.commit_index,
        end=str(topology.end),
        lag_bytes=None if leader is None else max(0, leader.topology.end - topology.end),
        epoch=int(topology.epoch),
        holder=None if topology.holder is None else topology.holder.name,
        tli=int(topology.tli),
        standbys=len(group.standbys),
        archived=None if group.archived is None else str(group.archived),
        complaints=_complaints(group),
    )


def _role(group: GroupStatus, *, is_leader: bool) -> str:
    votes = {status.info.member: status.info.is_voter for status in group.members}
    if is_leader:
        return LEADER
    if group.member not in votes:
        return "no member"
    if group.role == LEADER:
        return "new leader" if not group.topology.is_leading else "old leader"
    return group.role if votes[group.member] else "learner"


def _complaints(group: GroupStatus) -> tuple[str, ...]:
    topology = group.topology
    found = []
    if group.is_disk_full:
        found.append("the disk is full")
    if group.ingest_complaint:
        found.append(group.ingest_complaint)
    elif topology.is_leading and topology.holder is not None and not topology.is_streaming:
        found.append(f"no WAL comes from {topology.holder.name}")
    if group.archive_complaint:
        found.append(group.archive_complaint)
    return tuple(found)


def _unreachable(
    branch: str, groups: Mapping[str, tuple[str, GroupStatus]], silent: Mapping[str, str]
) -> list[Row]:
    """Return members whose nodes do not answer, as those that do know them."""
    known = {
        status.info.node: status.info.rpc
        for _, group in groups.values()
        for status in group.members
        if status.info.node not in groups
    }
    return [
        _silent_row(branch, node, address, silent[address])
        for node, address in known.items()
        if address in silent
    ]


def _silent_row(branch: str, node: str, address: str, reason: str) -> Row:
    return Row(branch=branch, node=node, address=address, role=UNREACHABLE, complaints=(reason,))
