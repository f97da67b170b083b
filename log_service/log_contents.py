"""What a node knows of one log besides its bytes on disk: recent records, members, and the past.

Entries of WAL are many and look after themselves: each says where it is. The few others, the
specials, change the branch's state, so they are all in memory, from the start of the log on; with
them and the state at the start, the state behind any entry can be told (`branch_at`).

Everything here covers the whole log, committed or not; a cut takes uncommitted entries back.
Used by the event loop's thread alone.
"""

from collections.abc import Iterable, Sequence

from fabric.lsn import Lsn
from raft.types import HardState, Persisted, Snapshot

from .branch import Branch, decode_branch
from .group_log import GroupLog
from .history import parse_history
from .raft_codec import config_of
from .recent import RecentRecords, WalEnd
from .record import Kind, Record
from .record_bodies import Genesis, MemberInfo, Members, Timeline, decode_body


class LogContents:
    """Invariant: `base` is the state behind `base_index`, `specials` are those after it, in order.

    The log on disk may start earlier: a trim, or a Restore, gets there later.
    """

    def __init__(self, disk: GroupLog, *, recent_bytes_max: int) -> None:
        self._disk = disk
        self._recent_bytes_max = recent_bytes_max
        self.base = decode_branch(disk.start.state)
        self.base_index = disk.start.index
        self.specials = [r for r in disk.special if r.index > disk.start.index]
        self.recent = self._recent_from(disk.last_index, self._wal_end_on_disk(disk.last_index))
        self.members: dict[int, MemberInfo] = {}
        self.met: dict[int, MemberInfo] = {}  # and who was a member as far as anybody has said
        self._find_members()

    def persisted(self) -> Persisted:
        """Return what the core has to know of what is on disk."""
        disk, start = self._disk, self._disk.start
        configs = [record for record in self.specials if record.kind is Kind.CONFIG]
        return Persisted(
            HardState(*disk.hard_state),
            Snapshot(start.index, start.term, config_of(self.base.members), start.state),
            disk.terms,
            disk.last_index,
            tuple((r.index, config_of(decode_body(r, Members).members)) for r in configs),
        )

    # --- The log changes ----------------------------------------------------------------------

    def append(self, record: Record) -> None:
        """Take the next entry."""
        end = self.recent.wal_end
        if record.kind is Kind.WAL:
            end = (record.tli, record.lsn + len(record.body))
        elif record.kind is not Kind.NOOP:
            self.specials.append(record)
            end = _wal_end_behind(record, end)
            if record.kind is Kind.CONFIG:
                self._find_members()
        self.recent.append(record, end)

    def cut(self, first_index: int) -> None:
        """Forget `first_index` and all behind it."""
        self.recent.cut(first_index, self.wal_end_at(first_index - 1))
        self.specials = [record for record in self.specials if record.index < first_index]
        self._find_members()

    def restart(self, snapshot: Snapshot) -> None:
        """Forget everything, and begin after a snapshot."""
        assert isinstance(snapshot.ref, bytes), "a snapshot is a branch's state"
        self.base, self.specials = decode_branch(snapshot.ref), []
        self.base_index = snapshot.index
        self.recent = self._recent_from(snapshot.index, (self.base.tli, self.base.end))
        self._find_members()

    def trimmed(self, index: int, base: Branch) -> None:
        """Forget the specials up to `index`: they are in the state behind it."""
        self.base, self.base_index = base, index
        self.specials = [record for record in self.specials if record.index > index]

    # --- Questions ----------------------------------------------------------------------------

    def wal_end_at(self, index: int) -> WalEnd:
        """Return where WAL ends behind an entry."""
        return self.recent.wal_end_at(index) or self._wal_end_on_disk(index)

    def specials_between(self, after_index: int, upto_index: int) -> Sequence[Record]:
        """Return the specials behind one entry, up to another."""
        return [r for r in self.specials if after_index < r.index <= upto_index]

    def advance(self, branch: Branch, *, applied_index: int, upto_index: int) -> None:
        """Apply entries to a state by looking at the specials alone: WAL only moves the end."""
        for record in self.specials_between(applied_index, upto_index):
            self._move_end(branch, record.index - 1)
            branch.apply(record)
        self._move_end(branch, upto_index)

    def branch_at(self, index: int) -> Branch:
        """Return the state behind an entry."""
        branch = self.base.copy()
        self.advance(branch, applied_index=self.base_index, upto_index=index)
        return branch

    def _move_end(self, branch: Branch, index: int) -> None:
        tli, lsn = self.wal_end_at(index)
        if branch.genesis is not None and tli == branch.tli:
            branch.end = Lsn(lsn)

    def _wal_end_on_disk(self, index: int) -> WalEnd:
        while index > self.base_index:
            record = self._disk.read(index, index, 1)[0]
            if record.kind is Kind.WAL:
                return record.tli, record.lsn + len(record.body)
            if record.kind in {Kind.GENESIS, Kind.TIMELINE}:
                return _wal_end_behind(record, (0, 0))
            index -= 1
        return self.base.tli, self.base.end

    def _recent_from(self, last_index: int, wal_end: WalEnd) -> RecentRecords:
        return RecentRecords(self._recent_bytes_max, last_index=last_index, wal_end=wal_end)

    def meet(self, members: Iterable[MemberInfo]) -> None:
        """Note where members are reached. The leader may have become one behind a snapshot, and
        whoever starts from that must be able to answer it.
        """
        self.met |= {info.member: info for info in members}

    def _find_members(self) -> None:
        """Note who is in the group: the last configuration counts, committed or not."""
        configs = [record for record in self.specials if record.kind is Kind.CONFIG]
        members = decode_body(configs[-1], Members).members if configs else self.base.members
        self.members = {info.member: info for info in members}
        self.meet(members)


def _wal_end_behind(record: Record, before: WalEnd) -> WalEnd:
    """Return where WAL ends behind a record that is not WAL."""
    if record.kind is Kind.GENESIS:
        genesis = decode_body(record, Genesis)
        return genesis.tli, genesis.start
    if record.kind is Kind.TIMELINE:
        timeline = decode_body(record, Timeline)
        return timeline.tli, parse_history(timeline.tli, timeline.history).start
    return before
