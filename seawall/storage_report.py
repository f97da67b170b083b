"""What storage nodes say of their branches and cuts, as rows: for a table to read, and for JSON.

    {address: NodeStatus or why there is none} ──► rows_of ──► status_table | json_text

Pure. A row is one branch on one node. An address that does not answer is a row, too, and so is a
node that has no branch.
"""

import dataclasses
import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from storage.cut import Cut
from storage.methods import BranchStatus, NodeStatus
from storage.snapshot_objects import SnapshotInfo

from .log_report import NOTHING, table

Survey: TypeAlias = Mapping[str, NodeStatus | str]

UNREACHABLE: Final = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A branch on a node. What is None is not known, or there is none."""

    branch: str
    node: str
    address: str
    state: str
    cuts: int | None = None
    oldest: str | None = None
    newest: str | None = None
    age_s: float | None = None
    """Of the newest cut."""
    lag_bytes: int | None = None
    """Committed WAL that is in no cut yet."""
    lag_s: float | None = None
    pins: int | None = None
    size_bytes: int | None = None
    """On disk, about."""
    complaint: str = ""


def rows_of(survey: Survey) -> list[Row]:
    """Return the branches of all nodes, those of one name together."""
    rows: list[Row] = []
    seen: set[str] = set()
    for address, said in survey.items():
        if isinstance(said, str):
            rows.append(_bare_row(address, address, UNREACHABLE, said))
        elif said.node not in seen:  # a node that is known by two addresses is one
            seen.add(said.node)
            rows += [_row(said.node, address, branch) for branch in said.branches]
            if not said.branches:
                rows.append(_bare_row(said.node, address, "no branch", ""))
    return sorted(rows, key=lambda row: (row.branch == NOTHING, row.branch, row.node))


def json_text(rows: Sequence[Row]) -> str:
    """Return the rows for programs."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)


def status_table(rows: Sequence[Row]) -> str:
    """Return the rows for people."""
    return table(_HEADINGS, [_cells(row) for row in rows])


def cuts_table(cuts: Iterable[Cut]) -> str:
    """Return cuts for people, oldest first."""
    return table(
        ("SEQ", "TLI", "LSN", "REDO", "TAKEN"),
        [list(_cut_facts(cut).values()) for cut in cuts],
    )


def cuts_json(cuts: Iterable[Cut]) -> str:
    """Return cuts for programs."""
    return json.dumps([_cut_facts(cut) for cut in cuts], indent=2)


def snapshots_table(snapshots: Iterable[SnapshotInfo]) -> str:
    """Return snapshots for people, the newest last."""
    return table(
        ("NODE", "NUMBER", "LSN", "TAKEN", "PAGES", "BYTES", "COMPLAINT"),
        [list(_snapshot_facts(one).values()) for one in snapshots],
    )


def snapshots_json(snapshots: Iterable[SnapshotInfo]) -> str:
    """Return snapshots for programs."""
    return json.dumps([_snapshot_facts(one) for one in snapshots], indent=2)


def moment(unix_s: float) -> str:
    """Return a time as it is shown everywhere."""
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_HEADINGS: Final = (
    "BRANCH", "NODE", "STATE", "CUTS", "OLDEST", "NEWEST", "AGE", "LAG", "PINS", "SIZE",
    "COMPLAINT",
)  # fmt: skip


def _cells(row: Row) -> list[object]:
    size = None if row.size_bytes is None else f"{row.size_bytes / (1 << 20):.1f}M"
    age = None if row.age_s is None else f"{row.age_s:.0f}s"
    return [
        row.branch, row.node, row.state, row.cuts, row.oldest, row.newest, age, row.lag_bytes,
        row.pins, size, row.complaint,
    ]  # fmt: skip


def _row(node: str, address: str, branch: BranchStatus) -> Row:
    oldest, newest = branch.oldest, branch.newest
    return Row(
        branch=branch.branch,
        node=node,
        address=address,
        state=branch.state,
        cuts=branch.cuts,
        oldest=None if oldest is None else str(oldest.lsn),
        newest=None if newest is None else str(newest.lsn),
        age_s=None if newest is None else round(newest.age_s, 1),
        lag_bytes=branch.lag_bytes,
        lag_s=branch.lag_s,
        pins=branch.pins,
        size_bytes=branch.size_bytes,
        complaint=branch.complaint,
    )


def _bare_row(node: str, address: str, state: str, complaint: str) -> Row:
    return Row(branch=NOTHING, node=node, address=address, state=state, complaint=complaint)


def _cut_facts(cut: Cut) -> dict[str, Any]:
    return {
        "seq": int(cut.seq),
        "tli": int(cut.tli),
        "lsn": str(cut.lsn),
        "redo": str(cut.redo),
        "taken_at": moment(cut.taken_at_s),
    }


def _snapshot_facts(one: SnapshotInfo) -> dict[str, Any]:
    """What is not known of a damaged one is None."""
    cut = one.cut
    return {
        "node": one.node,
        "number": one.number,
        "lsn": None if cut is None else str(cut.lsn),
        "taken_at": None if cut is None else moment(cut.taken_at_s),
        "pages": None if cut is None else one.pages,
        "bytes": None if cut is None else one.size_bytes,
        "complaint": one.complaint,
    }
