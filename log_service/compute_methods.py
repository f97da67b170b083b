"""What computes and their managers ask of a log: reports and orders, switchovers, notes.

A compute reports to the leader of its branch a few times a second; the answer is its orders. They
say who is the primary, and for how long it may act as one without another answer: a primary whose
lease ends serves nobody any more. The rules by which the leader chooses are in `election.py`.
"""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from fabric.ids import BranchName, Epoch, NodeName
from fabric.lsn import Lsn, Tli
from fabric.rpc import Method

from .methods import Done, Granted, OfBranch, Topology
from .record_bodies import NOTE_BYTES_MAX, NOTE_NAME_CHARACTERS_MAX, Holder

COMPLAINT_CHARACTERS_MAX: Final = 500

_Address = Annotated[str, msgspec.Meta(max_length=200)]
_Pid = Annotated[int, msgspec.Meta(ge=0)]
_NoteName = Annotated[str, msgspec.Meta(min_length=1, max_length=NOTE_NAME_CHARACTERS_MAX)]
_NoteContent = Annotated[bytes, msgspec.Meta(max_length=NOTE_BYTES_MAX)]


class ComputeState(StrEnum):
    """What a compute is at the moment."""

    STARTING = "starting"
    REPLICA = "replica"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    DRAINED = "drained"
    """A primary that was shut down in order, for a switchover: `received` is the end of its WAL."""
    DOWN = "down"
    """Its PostgreSQL ended; it builds itself anew."""


class ComputeReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a compute is."""

    branch: BranchName
    name: NodeName
    instance: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """The life of its agent, a random number: after a restart it is another one."""
    state: ComputeState
    address: _Address
    """Where its PostgreSQL takes our replication connection: tcp://host:port or unix://."""
    client_address: _Address = ""
    """Where it takes those of SQL clients: host:port."""
    user: Annotated[str, msgspec.Meta(max_length=63)] = "postgres"
    """Whom we log in as."""
    epoch: Epoch = Epoch(0)
    """Under which it is PROMOTING, PRIMARY or DRAINED; else 0."""
    tli: Tli = Tli(1)
    received: Lsn = Lsn(0)
    """How much WAL it has; of a primary, how much it has written."""
    replayed: Lsn = Lsn(0)
    postmaster_pid: _Pid = 0
    agent_pid: _Pid = 0
    can_lead: bool = True
    complaint: Annotated[str, msgspec.Meta(max_length=COMPLAINT_CHARACTERS_MAX)] = ""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a report: who is the primary, as the leader of `term` says."""

    node: NodeName
    term: int
    epoch: Epoch
    holder: Holder | None
    epoch_start: Lsn
    tli: Tli
    lease_ms: int
    """How long the holder may act as the primary, counted from when it sent the report."""
    drain: bool = False
    """To the holder alone: shut PostgreSQL down in order, and report DRAINED."""


class Switchover(msgspec.Struct, frozen=True):
    """Makes another compute the primary, after the old one has shut down in order.

    `to`: which one; None: the replica that is furthest. `by_force`: without waiting for the old
    one; it may serve reads until it hears of it, for as long as its lease, but commits nothing.
    """

    branch: BranchName
    to: NodeName | None = None
    by_force: bool = False


class ComputeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader heard last of a compute."""

    name: NodeName
    instance: int
    state: ComputeState
    address: str
    client_address: str
    user: str
    epoch: Epoch
    tli: Tli
    received: Lsn
    replayed: Lsn
    postmaster_pid: int
    agent_pid: int
    can_lead: bool
    complaint: str
    heard_ms_ago: int


class Computes(msgspec.Struct, frozen=True):
    """The computes of a branch that reported lately, by name, and who is who besides."""

    computes: tuple[ComputeInfo, ...]
    topology: Topology


class SetNote(msgspec.Struct, frozen=True):
    """Keeps some bytes with the branch, under a name; None: no longer.

    Refused unless `epoch` is the branch's: a primary that was superseded changes nothing any more.
    """

    branch: BranchName
    name: _NoteName
    epoch: Epoch
    content: _NoteContent | None


class Notes(msgspec.Struct, frozen=True):
    """The notes of a branch: name and size; their contents are the payload, one after the other."""

    notes: tuple[tuple[str, int], ...]


REPORT: Final = Method("log.report", ComputeReport, Orders)
SWITCHOVER: Final = Method("log.switchover", Switchover, Granted)
LIST_COMPUTES: Final = Method("log.computes", OfBranch, Computes)
SET_NOTE: Final = Method("log.set_note", SetNote, Done)
READ_NOTES: Final = Method("log.read_notes", OfBranch, Notes)
