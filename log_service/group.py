"""One branch's log on this node: the shell around the Raft core, its disk and its memory.

    peers' messages, ticks, proposals ──► Raft ──► ready
        messages ───────────────────────────────► links, at once
        entries, votes ──► group_disk.py: one fdatasync for all ──► persisted, messages after
        commit index ────► the branch's state ──► listeners: ingest, standbys, archive

Invariants: records that are not durable here, or not applied, stay in memory; what listeners see is
committed; a proposal is checked against the tail of the log before it gets there. The event loop's
thread runs everything but the writing.
"""

import asyncio
import random
from collections.abc import Callable, Sequence, Set
from typing import Protocol

import msgspec
import structlog

from fabric.frames import Buffer
from fabric.ids import Epoch
from fabric.lsn import Lsn
from raft.core import Raft, Ready
from raft.errors import ConfigRefusedError, NotLeaderError
from raft.messages import Message
from raft.types import Config, Entry, Role

from .branch import Branch, FenceError, encode_branch
from .core_view import CoreView
from .disk_writer import DiskWriter
from .group_disk import GroupDisk, Write
from .group_log import GroupLog
from .group_settings import GroupSettings
from .group_time import core_settings
from .log_contents import LogContents
from .log_state import LogStart
from .outbox import Outbox, choose_eager
from .raft_codec import Rest, config_of
from .recent import RecentRecords
from .record import RECORD_BODY_BYTES_MAX, Kind, Record, make_record
from .record_bodies import MEMBERS_MAX, MemberInfo, Members, encode_body, kind_of

log = structlog.get_logger()

ALL_BYTES = 1 << 62  # no limit: what is asked for is in memory already


class Links(Protocol):
    """How a group's messages get to other nodes."""

    def send(self, group: "Group", message: Message | Rest) -> None:
        """Send, or drop what cannot be sent now."""


class Group:
    """One replica of one branch's log."""

    def __init__(
        self,
        name: str,
        disk: GroupLog,
        *,
        writer: DiskWriter,
        links: Links,
        settings: GroupSettings,
        rng: random.Random,
        wake: Callable[["Group"], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self.name_bytes = name.encode()
        self.disk = disk
        self.settings = settings
        self.tail: Branch | None = None
        self.on_commit: set[Callable[[], None]] = set()
        self.on_role: set[Callable[[], None]] = set()
        self._contents = LogContents(disk, recent_bytes_max=settings.recent_bytes_max)
        self.meet = self._contents.meet
        self.committed = self._contents.base.copy()
        self.applied_index = disk.start.index
        self._view = CoreView(
            name, disk, self._contents, writer=writer, available=self._entries_available
        )
        self._disk = GroupDisk(
            name,
            disk,
            writer=writer,
            retry_ms=settings.retry_ms,
            written=self._written,
            still_full=self._hand_over,
            fatal=fatal,
        )
        self._links = links
        self._outbox = Outbox(
            lambda message: links.send(self, message),
            self._choose_eager,
            hold_ms=settings.lazy_peer_ms,
        )
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self.quiet_ticks = 0  # since something happened
        self._is_pumping = False
        self._is_closed = False
        self._proposed_members: dict[Config, Members] = {}
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._reads: dict[int, asyncio.Future[None]] = {}
        self._reads_so_far = 0
        self._role_seen = (Role.FOLLOWER, 0, 0, False)
        self.raft = Raft(
            disk.member,
            self._contents.persisted(),
            self._view,
            core_settings(settings),
            rng,
        )

    # --- What others ask ----------------------------------------------------------------------

    @property
    def is_leading(self) -> bool:
        """Whether this replica leads and knows all that is committed."""
        return self.tail is not None

    @property
    def is_disk_full(self) -> bool:
        """Whether nothing can be written here at the moment."""
        return self._disk.is_full

    @property
    def recent(self) -> RecentRecords:
        """The newest records, committed or not."""
        return self._contents.recent

    @property
    def leader_info(self) -> MemberInfo | None:
        """Who leads, as far as we know."""
        return self.member_info(self.raft.leader)

    @property
    def members(self) -> tuple[MemberInfo, ...]:
        """The members in effect: of the last configuration in the log, committed or not."""
        return tuple(self._contents.members.values())

    def member_info(self, member: int) -> MemberInfo | None:
        """Return where a member is reached, or one that was."""
        return self._contents.met.get(member)

    def record_of(self, entry: Entry) -> Record:
        """Return the record of an entry that the core hands out."""
        if isinstance(entry.ref, Record):
            return entry.ref
        records = self.recent.records(entry.index, entry.index, 1)
        assert records, "an entry that the core made itself is among the recent"
        return records[0]

    def watch_role(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when role, term or leader change, until the result is called."""
        self.on_role.add(changed)
        return lambda: self.on_role.discard(changed)

    # --- What comes in ------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take a peer's message."""
        self._wake(self)
        self.raft.step(message)
        self._pump_soon()

    def tick(self, count: int = 1) -> None:
        """Let ticks pass."""
        self.quiet_ticks += count
        for _ in range(count):
            self.raft.tick()
        self._watch_role()  # to step down is no Ready
        self._pump_soon()

    def leader_unreachable(self) -> None:
        """Take the hint that the connection to the leader's node broke."""
        self.quiet_ticks = 0
        self._wake(self)
        self.raft.leader_unreachable()
        self._pump_soon()

    def peer_unreachable(self, member: int) -> None:
        """Take the hint that what is on its way to a member is lost."""
        self._wake(self)
        self._outbox.release()  # perhaps it was one of those that commits wait for
        self.raft.peer_unreachable(member)
        self._pump_soon()

    def append_dropped(self, member: int) -> None:
        """Take note that an Append could not be sent; no reason to wake up for."""
        if not self._is_closed:
            self.raft.peer_unreachable(member)

    def propose_wal(self, epoch: Epoch, tli: int, lsn: Lsn, body: Buffer) -> None:
        """Append a piece of the holder's WAL; `flush` sends it on its way.

        FenceError: the epoch is over, or the piece does not continue the log. BusyError: later.
        """
        tail = self._tail()
        tail.verify_epoch(epoch)
        record = self._next_record(Kind.WAL, body, tli=tli, lsn=lsn)
        tail.verify_wal(record)
        self.raft.propose(record.size_bytes, record)
        tail.apply(record)

    async def propose_first_wal(self, epoch: Epoch, tli: int, lsn: Lsn, body: Buffer) -> None:
        """Append WAL that is older than any primary, and wait until it is committed here."""
        self.propose_wal(epoch, tli, lsn, body)
        await self._until_committed(self.raft.last_index)

    def flush(self) -> None:
        """Let what was proposed go out."""
        self._wake(self)
        self._pump()

    async def propose(self, body: msgspec.Struct) -> None:
        """Append an entry that is not WAL, and wait until it is committed and applied here.

        FenceError: it breaks a rule. NotLeaderError: it may or may not be in the log.
        """
        tail = self._tail().copy()
        encoded = encode_body(body)
        if len(encoded) > RECORD_BODY_BYTES_MAX:
            raise FenceError(f"an entry has {RECORD_BODY_BYTES_MAX} bytes at most")
        record = self._next_record(kind_of(body), encoded)
        tail.apply(record)
        index = self.raft.propose(record.size_bytes, record)
        self.tail = tail
        await self._until_committed(index)

    async def propose_members(self, members: tuple[MemberInfo, ...]) -> None:
        """Change one member of the group, and wait until that is committed."""
        tail = self._tail()
        if len(members) > MEMBERS_MAX:
            raise ConfigRefusedError(f"a group has {MEMBERS_MAX} members at most: remove one first")
        config = config_of(members)
        index = self.raft.propose_config(config)
        self._proposed_members[config] = Members(members)
        tail.members = members
        await self._until_committed(index)

    async def confirm_lead(self) -> None:
        """Return when it is certain that we lead now, and have applied all that is committed."""
        self._tail()
        self._reads_so_far += 1
        future = self._reads[self._reads_so_far] = self._loop.create_future()
        self.raft.read_index(self._reads_so_far)
        self.flush()
        await future

    def transfer(self, member: int) -> None:
        """Begin to hand the lead to a member."""
        self.raft.transfer(member)
        self.flush()

    async def trim(self, index: int) -> None:
        """Let the log start behind an applied entry."""
        first = max(self.disk.start.index + 1, self._contents.base_index)
        if not first <= index <= min(self.applied_index, self._disk.durable_index):
            return
        term = self.raft.term_at(index)
        assert term is not None, "an applied entry is in the log"
        base = self._contents.branch_at(index)
        start = LogStart(index=index, term=term, state=encode_branch(base))
        # First here: meanwhile the disk's start moves, and a Restore may come and move further.
        self._contents.trimmed(index, base)
        try:
            await self._disk.run(lambda: _trim(self.disk, start))
        finally:
            self._pump_soon()
        if self.raft.term_at(index) is not None:
            self.raft.trimmed(index)

    async def close(self) -> None:
        """Finish the write that is under way, and close the log."""
        self._is_closed = True
        self._outbox.close()
        self._fail_waiting()
        await self._disk.close()

    # --- Rest ---------------------------------------------------------------------------------

    def rest_if_idle(self, *, is_needed: bool) -> bool:
        """Go to rest, and tell the others to, if nothing happens here; return whether we do."""
        if is_needed or self.quiet_ticks < self.settings.rest_after_ticks:
            return False
        raft = self.raft
        if raft.role is not Role.LEADER or not self._can_rest():
            return False
        for member in raft.config.members - {raft.me}:
            rest = Rest(sender=raft.me, to=member, term=raft.term, commit=raft.commit_index)
            self._links.send(self, rest)
        raft.rest()
        return True

    def take_rest(self, message: Rest) -> bool:
        """Follow a leader that rests; return whether we do."""
        is_ours = (message.term, message.sender) == (self.raft.term, self.raft.leader)
        if not is_ours or message.commit != self.raft.commit_index or not self._can_rest():
            return False
        self.raft.rest()
        return True

    def _can_rest(self) -> bool:
        return self.raft.can_rest() and self._disk.is_idle

    # --- What the core wants ------------------------------------------------------------------

    def _pump_soon(self) -> None:
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        if self._is_closed:
            return
        ready = self.raft.ready()
        if ready is not None:
            self._take(ready)
        # Without a Ready, too: what waited for the write before.
        self._disk.start(is_sending=ready is not None and bool(ready.messages))
        self._watch_role()  # a leader that is cut off steps down without a word

    def _take(self, ready: Ready) -> None:
        if ready.restore is not None:
            self._fail_waiting()
            self._contents.restart(ready.restore)
            self.committed = self._contents.base.copy()
            self.applied_index = ready.restore.index
            self._view.forget()
            _tell(self.on_commit)
        records = [self._take_entry(entry) for entry in ready.entries]
        for message in ready.messages:
            self._outbox.send(message)
        self._disk.add(
            Write(ready.number, ready.hard_state, ready.restore, records, ready.messages_after)
        )
        if ready.commit_index > self.applied_index:
            self._apply(ready.commit_index)
        if records:
            self.quiet_ticks = 0
        for context, _ in ready.reads:
            future = self._reads.pop(context, None)
            if future is not None and not future.done():
                future.set_result(None)

    def _take_entry(self, entry: Entry) -> Record:
        if entry.index <= self._contents.recent.last_index:
            assert entry.index > self.applied_index, "what is committed is final"
            self._fail_waiting()  # a lost lead: what is committed there now is not what was asked
            self._contents.cut(entry.index)
            self._view.forget()
        record = entry.ref if isinstance(entry.ref, Record) else self._made(entry)
        self._contents.append(record)
        return record

    def _made(self, entry: Entry) -> Record:
        """Encode an entry that the core made itself."""
        prev_term = self.raft.term_at(entry.index - 1)
        assert prev_term is not None, "the entry before the newest is known"
        kind, body = Kind.NOOP, b""
        if entry.config is not None:
            kind, body = Kind.CONFIG, encode_body(self._proposed_members.pop(entry.config))
        return make_record(
            index=entry.index, term=entry.term, prev_term=prev_term, kind=kind, body=body
        )

    def _written(self, writes: Sequence[Write]) -> None:
        if self._is_closed:
            return
        self.raft.persisted(writes[-1].number)
        is_news = False
        for write in writes:
            is_news = is_news or not write.is_empty
            for message in write.messages_after:
                self._outbox.send(message)
        if is_news and self.raft.role is not Role.FOLLOWER:
            self._pump_soon()
        elif is_news:  # nothing of the core's can come of it; but more may wait for the disk
            self._disk.start()
        self.recent.shrink(min(self._disk.durable_index, self.applied_index))

    def _entries_available(self) -> None:
        if not self._is_closed:
            self.raft.entries_available()
            self._pump_soon()

    def _hand_over(self) -> None:
        """Let somebody lead who can write: our disk is full."""
        if self.raft.role is Role.LEADER and len(self.raft.config.voters) > 1:
            self.transfer(self.best_successor())

    def best_successor(self) -> int:
        """Return the voter that has most of our log."""
        progress = self.raft.progress()
        others = self.raft.config.voters - {self.raft.me}
        return max(others, key=lambda m: (progress[m].is_active, progress[m].match_index))

    def _choose_eager(self, before: Set[int]) -> frozenset[int] | None:
        raft = self.raft
        return choose_eager(raft.config.voters, raft.me, raft.progress(), before)

    # --- What is committed --------------------------------------------------------------------

    def _apply(self, upto_index: int) -> None:
        records = self.recent.records(self.applied_index + 1, upto_index, ALL_BYTES)
        if records is None:  # after a restart: the beginning is on disk only
            known = min(upto_index, self.recent.first_index - 1)
            self._contents.advance(
                self.committed, applied_index=self.applied_index, upto_index=known
            )
            records = self.recent.records(known + 1, upto_index, ALL_BYTES) or ()
        for record in records:
            self.committed.apply(record)
        self.applied_index = upto_index
        if self._waiting:
            for index in [index for index in self._waiting if index <= upto_index]:
                future = self._waiting.pop(index)
                if not future.done():  # whoever waited may have been cancelled
                    future.set_result(None)
        _tell(self.on_commit)

    async def _until_committed(self, index: int) -> None:
        future = self._waiting[index] = self._loop.create_future()
        self.flush()
        await future

    def _next_record(self, kind: Kind, body: Buffer, *, tli: int = 0, lsn: int = 0) -> Record:
        raft = self.raft
        return make_record(
            index=raft.last_index + 1,
            term=raft.term,
            prev_term=raft.last_term,
            kind=kind,
            tli=tli,
            lsn=lsn,
            body=body,
        )

    # --- Roles --------------------------------------------------------------------------------

    def _watch_role(self) -> None:
        raft = self.raft
        seen = raft.standing
        if seen == self._role_seen:
            return
        is_new_lead = seen[3] and (self.tail is None or seen[1] != self._role_seen[1])
        if is_new_lead and self.applied_index < raft.commit_index:
            return  # a tick came before the pump, which applies what is committed and looks again
        before, self._role_seen = self._role_seen, seen
        # A lead that was lost and won again between two looks is a new one, too.
        if self.tail is not None and (not raft.is_leader_ready or before[1] != raft.term):
            self.tail = None
            self._fail_waiting()
        if raft.is_leader_ready and self.tail is None:
            self.tail = self.committed.copy()
            for record in self._behind_applied():
                self.tail.apply(record)
        if before[:3] != seen[:3]:
            role = raft.role.value
            log.info("raft role", group=self.name, role=role, term=raft.term, leader=raft.leader)
        _tell(self.on_role)

    def _behind_applied(self) -> list[Record]:
        first, last = self.applied_index + 1, self.raft.last_index
        if first > last:
            return []
        records = self.recent.records(first, last, ALL_BYTES)
        assert records is not None, "what a leader has not committed came in its own time"
        return list(records)

    def _fail_waiting(self) -> None:
        leader = self.raft.leader
        for future in (*self._waiting.values(), *self._reads.values()):
            if not future.done():
                future.set_exception(NotLeaderError(leader))
                future.exception()  # nobody may be waiting any more
        self._waiting.clear()
        self._reads.clear()

    def _tail(self) -> Branch:
        if self.tail is None:
            raise NotLeaderError(self.raft.leader)
        return self.tail


def _trim(disk: GroupLog, start: LogStart) -> None:
    if disk.start.index < start.index:  # or it starts later by now: another trim, a Restore
        disk.trim(start)


def _tell(listeners: set[Callable[[], None]]) -> None:
    for listener in list(listeners):
        listener()
