"""What a node says about its branches: snapshots of the groups as answers. Reads, never changes."""

from typing import TYPE_CHECKING

from fabric.ids import NodeName

from .group_host import GroupHost
from .methods import GroupStatus, MemberStatus, StandbyInfo, Topology

if TYPE_CHECKING:
    from .node import LogNode


def topology_of(host: GroupHost, node: NodeName) -> Topology:
    """Return who is who in a branch, as this node knows it."""
    group = host.group
    branch, raft = group.committed, group.raft
    is_streaming = host.ingest is not None and host.ingest.is_streaming
    holder = None if branch.holder is None else branch.holder.name
    members = ",".join(f"{info.member}{'' if info.is_voter else '-'}" for info in branch.members)
    version = (
        f"{raft.term}.{raft.leader}.{branch.epoch:d}.{holder}.{branch.tli:d}.{is_streaming:d}."
        f"{group.is_leading:d}.{members}"
    )
    return Topology(
        version=version,
        node=node,
        leader=group.leader_info,
        term=raft.term,
        is_leading=group.is_leading,
        members=branch.members,
        epoch=branch.epoch,
        holder=branch.holder,
        is_streaming=is_streaming,
        tli=branch.tli,
        start=branch.start,
        end=branch.end,
        epoch_start=branch.epoch_start,
        system_identifier=None if branch.genesis is None else branch.system_identifier,
    )


def group_status(host: GroupHost, node: "LogNode") -> GroupStatus:
    """Return all there is to know about one replica."""
    group = host.group
    raft, archiver = group.raft, host.archiver
    return GroupStatus(
        branch=host.branch,
        member=raft.me,
        role=raft.role.value,
        topology=topology_of(host, node.settings.name),
        members=_members(host),
        first_index=group.disk.first_index,
        last_index=raft.last_index,
        commit_index=raft.commit_index,
        applied_index=group.applied_index,
        uncommitted_bytes=raft.uncommitted_bytes,
        is_disk_full=group.is_disk_full,
        is_resting=node.is_resting(group),
        ingest_complaint="" if host.ingest is None else host.ingest.complaint,
        archived=None if archiver is None else archiver.archived,
        archive_complaint="" if archiver is None else archiver.complaint,
        pins=dict(group.committed.pins or {}),
        standbys=tuple(
            StandbyInfo(s.application_name, s.peer, s.sent, s.flush, s.apply)
            for s in node.replication.standbys(group.name)
        ),
    )


def _members(host: GroupHost) -> tuple[MemberStatus, ...]:
    raft = host.group.raft
    progress = raft.progress()
    statuses = []
    for info in host.group.members:
        peer = progress.get(info.member)
        if info.member == raft.me:
            statuses.append(MemberStatus(info, raft.last_index, is_active=True))
        elif peer is not None:
            statuses.append(MemberStatus(info, peer.match_index, peer.is_active))
        else:
            statuses.append(MemberStatus(info, None, None))
    return tuple(statuses)
