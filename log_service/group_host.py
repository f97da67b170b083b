"""What a node runs for a group besides its log: ingest, archive and elections while it leads, and
trimming.

Which of them run follows from the group's role and the branch's state alone: `_follow` compares
what should run with what does, whenever one of the two has changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fabric.ids import BranchName, ClusterName, NodeName
from fabric.lsn import Tli
from fabric.tls import ClientTls
from object_store.interface import ObjectStore

from .archive_plan import ArchiveLayout
from .archiver import Archiver, Trimmer
from .disk_writer import DiskWriter
from .elector import Elector
from .group import Group
from .ingest import Ingest
from .wal_source import GroupWal


@dataclass(frozen=True, slots=True, kw_only=True)
class HostContext:
    """What the groups of a node share."""

    cluster: ClusterName
    node: NodeName
    store: ObjectStore | None
    store_threads: DiskWriter
    """Others than those that write logs: a cloud may take a minute to answer."""
    primary_password: str | None
    primary_tls: ClientTls | None


class GroupHost:
    """A group and its tasks."""

    def __init__(self, group: Group, branch: BranchName, context: HostContext) -> None:
        self.group = group
        self.branch = branch
        self._context = context
        self.wal = GroupWal(
            group, threads=context.store_threads, store=context.store, layout=self._layout
        )
        self.ingest: Ingest | None = None
        self.elector = Elector(group, context.node, is_primary=self._holder_is_primary)
        self.archiver: Archiver | None = None
        self._trimmer = Trimmer(group)
        self._seen: tuple[object, ...] = ()
        self._watchers: set[Callable[[], None]] = set()
        group.on_role.add(self._follow)
        group.on_commit.add(self._follow)

    @property
    def is_needed(self) -> bool:
        """Whether the group must not go to rest: somebody may write."""
        return self.ingest is not None

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when who is who may have changed, until the result is called."""
        self._watchers.add(changed)
        return lambda: self._watchers.discard(changed)

    async def close(self) -> None:
        """End the tasks and close the log."""
        self.group.on_role.discard(self._follow)
        self.group.on_commit.discard(self._follow)
        self._trimmer.close()
        self.elector.close()
        self._stop_leading()
        await self.group.close()

    def _layout(self) -> ArchiveLayout:
        genesis = self.group.committed.genesis
        assert genesis is not None, "a branch without WAL is not read"
        return ArchiveLayout(
            cluster=self._context.cluster,
            branch=self.branch,
            segment_bytes=genesis.segment_bytes,
            first_tli=Tli(genesis.tli),
        )

    def _follow(self) -> None:
        """Start and stop what the state of things asks for; called often, mostly for nothing."""
        group = self.group
        branch = group.committed
        seen = (
            group.is_leading,
            group.raft.leader,
            group.raft.term,
            branch.epoch,
            branch.holder,
            branch.genesis,
            branch.tli,
            branch.members,
        )
        if seen == self._seen:
            return
        self._seen = seen
        self.elector.follow()
        if not group.is_leading:
            self._stop_leading()
        else:
            self._lead()
        for changed in list(self._watchers):
            changed()

    def _lead(self) -> None:
        branch, context = self.group.committed, self._context
        if self.ingest is not None and self.ingest.epoch != branch.epoch:
            self.ingest.close()
            self.ingest = None
        if self.ingest is None and branch.holder is not None:
            self.ingest = Ingest(
                self.group,
                branch.epoch,
                branch.holder,
                password=context.primary_password,
                tls=context.primary_tls,
                changed=self._ingest_changed,
            )
        if self.archiver is None and context.store is not None and branch.genesis is not None:
            self.archiver = Archiver(
                self.group,
                self.wal,
                self._layout(),
                store=context.store,
                threads=context.store_threads,
            )

    def _holder_is_primary(self) -> None:
        if self.ingest is not None:
            self.ingest.hurry()

    def _ingest_changed(self) -> None:
        for changed in list(self._watchers):
            changed()

    def _stop_leading(self) -> None:
        if self.ingest is not None:
            self.ingest.close()
        if self.archiver is not None:
            self.archiver.close()
        self.ingest = self.archiver = None
