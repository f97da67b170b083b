"""What can be asked of a log node: the methods, their requests and answers.

Most need the leader of the branch; another node answers with RetryError, and `client.LogClient`
looks for the leader and asks again.
"""

from typing import Annotated, Final

import msgspec

from fabric.ids import BranchName, Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Method

from .record_bodies import Genesis, Holder, MemberInfo

WAL_BYTES_MAX: Final = 4 * 1024 * 1024
WAIT_MS_MAX: Final = 60_000
FIRST_WAL_BYTES_MAX: Final = 16 * 1024

_MemberId = Annotated[int, msgspec.Meta(ge=1)]


class Done(msgspec.Struct, frozen=True):
    """It is done."""


class OfBranch(msgspec.Struct, frozen=True):
    """Asks about a branch."""

    branch: BranchName


class Nothing(msgspec.Struct, frozen=True):
    """Asks for all there is."""


class FoundGroup(msgspec.Struct, frozen=True):
    """Makes the replica of a new branch, one of `members`. Harmless if it is there already."""

    branch: BranchName
    member: _MemberId
    members: tuple[MemberInfo, ...]


class JoinGroup(msgspec.Struct, frozen=True):
    """Makes an empty replica of a branch that exists; the leader will fill it."""

    branch: BranchName
    member: _MemberId
    members: Annotated[tuple[MemberInfo, ...], msgspec.Meta(min_length=1)]
    """Who is in the group: without their addresses the new replica could answer nobody."""


class BeginLog(msgspec.Struct, frozen=True):
    """Says whose WAL a new branch is for. Harmless if it knows that already."""

    branch: BranchName
    genesis: Genesis
    first_wal: Annotated[bytes, msgspec.Meta(max_length=FIRST_WAL_BYTES_MAX)] = b""
    """WAL that exists before there is any primary, from the genesis's start on: with it in the log
    everybody starts as a replica."""


class AddMember(msgspec.Struct, frozen=True):
    """Adds a replica that has joined; answered when it has caught up and votes."""

    branch: BranchName
    info: MemberInfo


class RemoveMember(msgspec.Struct, frozen=True):
    """Takes a replica out of the group; its disk may be deleted then."""

    branch: BranchName
    member: _MemberId


class DropReplica(msgspec.Struct, frozen=True):
    """Deletes the replica of a branch on this node, which must have been removed from the group."""

    branch: BranchName
    member: _MemberId


class TransferLead(msgspec.Struct, frozen=True):
    """Hands the lead to a node; None: to the one that has most of the log."""

    branch: BranchName
    to: NodeName | None = None


class GrantEpoch(msgspec.Struct, frozen=True):
    """Makes `holder` the only one whose WAL is taken; None: nobody's.

    `after`: only if the epoch is still this one, so that two who decide at once cannot both win.
    """

    branch: BranchName
    holder: Holder | None
    after: Epoch | None = None


class Granted(msgspec.Struct, frozen=True):
    """The new epoch, and where its WAL begins: all before is the old holder's, and kept."""

    epoch: Epoch
    end: Lsn


class ReadWal(msgspec.Struct, frozen=True):
    """Asks for committed WAL from `lsn`, along the history of `tli`; any node answers."""

    branch: BranchName
    tli: Tli
    lsn: Lsn
    bytes_max: Annotated[int, msgspec.Meta(ge=1, le=WAL_BYTES_MAX)]
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = 0
    """How long to wait while there is nothing from `lsn` on."""


class Wal(msgspec.Struct, frozen=True):
    """The WAL is the payload. `committed`: the end of what may be read, on timeline `tli`."""

    tli: Tli
    committed: Lsn
    fork: Lsn | None = None
    """Where the timeline that was asked for ended, if it has."""


class ReadHistory(msgspec.Struct, frozen=True):
    """Asks for the history file of a timeline."""

    branch: BranchName
    tli: Tli


class History(msgspec.Struct, frozen=True):
    """It."""

    content: bytes


class WatchTopology(msgspec.Struct, frozen=True):
    """Asks who is who; waits up to `wait_ms` while the version is still `known`."""

    branch: BranchName
    known: str = ""
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = 0


class Topology(msgspec.Struct, frozen=True):
    """Who is who in a branch, as one node knows it. `version` changes with anything but Lsns."""

    version: str
    node: NodeName
    leader: MemberInfo | None
    term: int
    is_leading: bool
    members: tuple[MemberInfo, ...]
    epoch: Epoch
    holder: Holder | None
    is_streaming: bool
    """Whether the holder's WAL comes in; only the leader knows."""
    tli: Tli
    start: Lsn
    end: Lsn
    epoch_start: Lsn
    system_identifier: SystemIdentifier | None


class SetPin(msgspec.Struct, frozen=True):
    """Keeps WAL from `lsn` on for `name`; None: no longer."""

    branch: BranchName
    name: str
    lsn: Lsn | None


class MemberStatus(msgspec.Struct, frozen=True):
    """A member, as the leader sees it."""

    info: MemberInfo
    match_index: int | None
    is_active: bool | None


class StandbyInfo(msgspec.Struct, frozen=True):
    """Who reads WAL from this node."""

    name: str
    peer: str
    sent: Lsn
    flush: Lsn
    apply: Lsn


class GroupStatus(msgspec.Struct, frozen=True):
    """One replica of a branch."""

    branch: BranchName
    member: int
    role: str
    topology: Topology
    members: tuple[MemberStatus, ...]
    first_index: int
    last_index: int
    commit_index: int
    applied_index: int
    uncommitted_bytes: int
    is_disk_full: bool
    is_resting: bool
    ingest_complaint: str
    archived: Lsn | None
    archive_complaint: str
    pins: dict[str, Lsn]
    standbys: tuple[StandbyInfo, ...]


class NodeStatus(msgspec.Struct, frozen=True):
    """One node."""

    node: NodeName
    groups: tuple[GroupStatus, ...]


FOUND_GROUP: Final = Method("log.found_group", FoundGroup, Done)
JOIN_GROUP: Final = Method("log.join_group", JoinGroup, Done)
BEGIN_LOG: Final = Method("log.begin", BeginLog, Done)
ADD_MEMBER: Final = Method("log.add_member", AddMember, Done)
REMOVE_MEMBER: Final = Method("log.remove_member", RemoveMember, Done)
DROP_REPLICA: Final = Method("log.drop_replica", DropReplica, Done)
TRANSFER_LEAD: Final = Method("log.transfer_lead", TransferLead, Done)
GRANT_EPOCH: Final = Method("log.grant_epoch", GrantEpoch, Granted)
READ_WAL: Final = Method("log.read_wal", ReadWal, Wal)
READ_HISTORY: Final = Method("log.read_history", ReadHistory, History)
WATCH_TOPOLOGY: Final = Method("log.watch_topology", WatchTopology, Topology)
SET_PIN: Final = Method("log.set_pin", SetPin, Done)
STATUS: Final = Method("log.status", Nothing, NodeStatus)
