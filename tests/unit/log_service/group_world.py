"""Replicas of one group in one event loop: real groups, logs and writers over a network of ours.

The network carries bytes, as the real one does, and delivers when the test says so (`settle`); time
passes when the test says so (`beat`); a disk can be held, fill up, or be copied as it is and
started again from the copy, which is what a crash of the process leaves.
"""

import asyncio
import random
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from fabric.ids import Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.branch import Branch, encode_branch
from log_service.disk_errors import DiskFullError
from log_service.disk_settings import SEGMENT_BYTES_MIN, DiskSettings
from log_service.disk_writer import DiskWriter
from log_service.group import Group
from log_service.group_log import GroupLog
from log_service.group_settings import GroupSettings
from log_service.history import TimelineHistory, extend_history
from log_service.log_state import LogStart
from log_service.raft_codec import (
    Introduction,
    Rest,
    decode_header,
    decode_message,
    encode_message,
    entry_of,
)
from log_service.record import Record
from log_service.record_bodies import EpochBody, Genesis, Holder, MemberInfo, Timeline
from raft.messages import Append, Message

T = TypeVar("T")

SEGMENT = 1 << 20
START = Lsn(16 * SEGMENT)
DISK = DiskSettings(segment_bytes=SEGMENT_BYTES_MIN)
SETTINGS = GroupSettings(
    recent_bytes_max=4096,
    retry_ms=1,
    rest_after_ticks=3,
    lazy_peer_ms=0,  # here no time passes by itself; see test_outbox.py
)
GENESIS = Genesis(SystemIdentifier(7), Tli(1), START, SEGMENT, "18.1")
HOLDER = Holder(NodeName("compute-1"), "tcp://127.0.0.1:5432")
LOOP_TURNS = 8  # more than a chain of callbacks of ours is long


def info_of(member: int, *, is_voter: bool = True) -> MemberInfo:
    """A member, named after its number."""
    address = f"tcp://127.0.0.1:{7000 + member}"
    return MemberInfo(member, NodeName(f"log-{member}"), address, is_voter=is_voter)


def timeline_after(known: TimelineHistory, tli: int, end: Lsn) -> Timeline:
    """A promotion that forks at `end`."""
    return Timeline(Tli(tli), extend_history(known, tli=Tli(tli), end=end, reason="test").file)


class CountingWriter(DiskWriter):
    """A writer of one thread that can be held, and says whether anything is under way."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.under_way = 0
        self.is_held = False
        self._changed = asyncio.Event()
        self._held: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []

    def submit(
        self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Run a job now, or when it is let go."""
        if self.is_held:
            self._held.append((job, done))
            return
        self.under_way += 1

        def counted(result: T | None, error: BaseException | None) -> None:
            self.under_way -= 1
            self._changed.set()
            done(result, error)

        super().submit(job, counted)

    async def until_idle(self) -> None:
        """Wait until no thread is at work."""
        while self.under_way:
            self._changed.clear()
            await self._changed.wait()

    async def until_tried(self) -> None:
        """Wait until the next job is done, whenever it begins."""
        self._changed.clear()
        await self._changed.wait()

    def let_go_one(self) -> None:
        """Run the oldest of what was held."""
        (job, done), *rest = self._held
        self.is_held = False
        self.submit(job, done)
        self.is_held, self._held = True, rest

    def let_go(self) -> None:
        """Run what was held."""
        self.is_held = False
        held, self._held = self._held, []
        for job, done in held:
            self.submit(job, done)


class FillingLog(GroupLog):
    """A log whose disk is full while the test says so."""

    is_full = False
    attempts = 0
    failure: BaseException | None = None

    def append(self, records: Sequence[Record]) -> None:
        """Append, if there is room."""
        if self.failure is not None:
            raise self.failure
        if self.is_full and records:
            self.attempts += 1
            raise DiskFullError("no room for another segment")
        super().append(records)


class Replica:
    """One group with its log and its disk."""

    def __init__(self, world: "World", directory: Path) -> None:
        self.directory = directory
        self.writer = CountingWriter()
        self.disk = FillingLog.open(directory, DISK)
        self.fatal: list[BaseException] = []
        self.woken = 0
        self.group = Group(
            "demo.main",
            self.disk,
            writer=self.writer,
            links=world,
            settings=SETTINGS,
            rng=random.Random(self.disk.member),
            wake=self._wake,
            fatal=self.fatal.append,
        )

    def _wake(self, group: Group) -> None:
        self.woken += 1

    async def close(self) -> None:
        """Let go of the files and the thread."""
        self.writer.let_go()
        await self.group.close()
        self.writer.close()


class World:
    """The replicas, and the network between them."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._lives = 0
        self.replicas: dict[int, Replica] = {}
        self.cut_off: set[int] = set()
        self._mishaps: list[dict[str, Any]] = []  # what callbacks of the loop raised
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self._mishaps.append(context)
        )
        self._wire: deque[tuple[int, int, bytes, bytes]] = deque()  # from, to, header, payload

    # --- Nodes --------------------------------------------------------------------------------

    def found(self, member: int, members: Iterable[MemberInfo]) -> Replica:
        """Make a replica of a group: one of these members, or one that is to join them."""
        directory = self._directory()
        state = encode_branch(Branch(members=tuple(members)))
        start = LogStart(index=0, term=0, state=state)
        GroupLog.create(directory, DISK, member=member, snapshot=start).close()
        replica = self.replicas[member] = Replica(self, directory)
        return replica

    async def crash(self, member: int) -> Replica:
        """End a replica without a word, and start it again from what its disk has."""
        old = self.replicas.pop(member)
        self._wire = deque(item for item in self._wire if member not in item[:2])
        await old.writer.until_idle()
        directory = self._directory()
        shutil.copytree(old.directory, directory)
        await old.close()
        replica = self.replicas[member] = Replica(self, directory)
        return replica

    async def close(self) -> None:
        """End everything."""
        for replica in self.replicas.values():
            replica.disk.is_full = False
        await self.settle()
        for replica in self.replicas.values():
            await replica.close()
        assert self._mishaps == []

    def group(self, member: int) -> Group:
        """Return a replica's group."""
        return self.replicas[member].group

    def _directory(self) -> Path:
        self._lives += 1
        return self._base / f"life-{self._lives}"

    # --- The network --------------------------------------------------------------------------

    def send(self, group: Group, message: Message | Rest) -> None:
        """Take a message onto the wire, as bytes."""
        replica = self.replicas.get(group.raft.me)
        if replica is None or replica.group is not group or group.member_info(message.to) is None:
            return
        header, payload = encode_message(message, group.name_bytes, group.record_of)
        self._wire.append((group.raft.me, message.to, header, b"".join(payload)))

    def deliver(self) -> None:
        """Hand over what is on the wire, unless sender or receiver is cut off."""
        while self._wire:
            sender, to, header, payload = self._wire.popleft()
            replica = self.replicas.get(to)
            if replica is None or {sender, to} & self.cut_off:
                continue
            name, kind, numbers = decode_header(header)
            assert name == replica.group.name_bytes
            message = decode_message(kind, numbers, payload)
            assert not isinstance(message, Introduction), "everybody here knows everybody"
            if isinstance(message, Rest):
                replica.group.take_rest(message)
            else:
                replica.group.step(message)

    # --- Time ---------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Let everything happen that happens without time passing."""
        while True:
            for _ in range(LOOP_TURNS):
                await asyncio.sleep(0)
            busy = [r.writer for r in self.replicas.values() if r.writer.under_way]
            if self._wire:
                self.deliver()
            elif busy:
                await busy[0].until_idle()
            else:
                return

    async def beat(self, count: int = 2) -> None:
        """Let the leaders' clocks tick: everybody learns what is committed."""
        for _ in range(count):
            for replica in self.replicas.values():
                if replica.group.raft.leader == replica.group.raft.me:
                    replica.group.tick()
            await self.settle()

    async def elect(self, member: int) -> Group:
        """Let a replica become the leader of all that are not cut off."""
        for replica in self.replicas.values():
            if replica.group.raft.me not in self.cut_off:
                replica.group.leader_unreachable()
        group = self.group(member)
        group.raft.campaign()
        group.flush()
        await self.settle()
        assert group.is_leading
        await self.beat()
        return group

    async def finish(self, awaitable: Awaitable[T]) -> T:
        """Let a proposal come to its end, which needs no time to pass."""
        task = asyncio.ensure_future(awaitable)
        await self.settle()
        assert task.done(), "it waits for something that does not happen"
        return task.result()

    # --- Content ------------------------------------------------------------------------------

    async def begin(self, group: Group) -> None:
        """Say whose WAL it is, and who may write it."""
        await self.finish(group.propose(GENESIS))
        await self.finish(group.propose(EpochBody(Epoch(1), HOLDER)))

    def propose_wal(self, group: Group, *sizes_bytes: int) -> None:
        """Propose pieces of WAL behind the tail, which say where they are."""
        for size_bytes in sizes_bytes:
            tail = group.tail
            assert tail is not None
            body = wal_bytes(tail.end, size_bytes, tail.tli)
            group.propose_wal(tail.epoch, tail.tli, tail.end, body)
        group.flush()

    async def write(self, group: Group, *sizes_bytes: int) -> None:
        """Propose WAL and let it be committed, and everybody know."""
        self.propose_wal(group, *sizes_bytes)
        await self.settle()
        await self.beat()

    def assert_agreed(self) -> None:
        """Everybody who has applied as much has the same state, and it is that of the log."""
        states: dict[int, bytes] = {}
        for replica in self.replicas.values():
            group = replica.group
            state = encode_branch(group.committed)
            assert states.setdefault(group.applied_index, state) == state
        assert len(states) == 1, "everybody has applied all"


def wal_bytes(lsn: int, size_bytes: int, tli: int = 1) -> bytes:
    """WAL whose every byte follows from its position and its timeline."""
    shift = 31 * (tli - 1)
    return bytes((at * 7 + (at >> 8) + shift) % 251 for at in range(lsn, lsn + size_bytes))


def replayed(founders: Iterable[MemberInfo], records: Iterable[Record]) -> Branch:
    """The state that a log describes, one entry after the other."""
    branch = Branch(members=tuple(founders))
    for record in records:
        branch.apply(record)
    return branch


def records_of(disk: GroupLog, upto_index: int) -> list[Record]:
    """The entries of a log that was not trimmed."""
    records: list[Record] = []
    while len(records) < upto_index:
        records += disk.read(len(records) + 1, upto_index, 1 << 20)
    return records


@asynccontextmanager
async def world_of(base: Path, count: int) -> AsyncIterator[World]:
    """So many replicas of one group, the first of which leads; WAL may be written."""
    world = World(base)
    members = [info_of(member) for member in range(1, count + 1)]
    for info in members:
        world.found(info.member, members)
    try:
        await world.begin(await world.elect(1))
        await world.beat()
        yield world
    finally:
        await world.close()


def append_of(leader: Group, before: int) -> Append:
    """All that a leader has committed behind an entry, in one message."""
    records = records_of(leader.disk, leader.applied_index)[before:]
    return Append(
        sender=leader.raft.me,
        to=1,
        term=leader.raft.term,
        prev_index=before,
        prev_term=records[0].prev_term,
        entries=tuple(map(entry_of, records)),
        commit=leader.applied_index,
    )


Story = Callable[[World], Coroutine[Any, Any, None]]


def story(count: int = 3) -> Callable[[Story], Callable[[Path], None]]:
    """Tell a test as a coroutine over a world of its own."""

    def decorate(test: Story) -> Callable[[Path], None]:
        @wraps(test)
        def run(tmp_path: Path) -> None:
            async def main() -> None:
                async with world_of(tmp_path, count) as world:
                    await test(world)

            asyncio.run(main())

        del run.__wrapped__  # pytest would look at its arguments
        return run

    return decorate
