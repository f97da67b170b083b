"""Ingest: the leader as the synchronous standby of the epoch's holder.

    connect ─► promoted? ─► identify ─► follow the timeline ─► stream ─► propose ─► commit ─► report

One task for as long as this node leads and the epoch has a holder. Whatever breaks, it connects
again, and goes on at the end of the log: that is where the next byte belongs, and PostgreSQL sends
from wherever it is asked. WAL that the primary has and the log has not is thereby fetched again.

A holder gets its epoch before it is promoted. Until then it is a standby, which would send us, over
the same protocol, the WAL that it got from us; so the connection waits until recovery is over.

The pieces of one burst become as few records as the limit of a record allows. What the core does
not take at the moment waits here, and nothing is read meanwhile: the primary's sender waits, and
with it its commits.

Safety is not here: the branch's rules refuse WAL of a superseded epoch, and what does not continue;
and what is reported to the primary is what a majority has, whichever node this is.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

from fabric.addresses import TcpAddress, UnixAddress, parse_address
from fabric.frames import Buffer
from fabric.ids import Epoch
from fabric.lsn import Lsn, Tli
from fabric.tls import ClientTls, IdentityError
from pgwire.errors import ProtocolError
from pgwire.scram import ScramError
from raft.errors import BusyError, RaftError

from .branch import FenceError
from .group import Group
from .history import HistoryError, parse_history
from .record import RECORD_BODY_BYTES_MAX
from .record_bodies import Holder, Timeline
from .replication_client import (
    ConnectionLostError,
    Piece,
    ReplicationClient,
    ReplicationSettings,
    ServerRefusedError,
    Upstream,
)

log = structlog.get_logger()

# A view keeps its chunk of half a megabyte in memory, so small bursts are copied.
COPIED_BYTES_MAX: Final = 32 * 1024
# So much begins a round of its own while another is under way: a COPY keeps several in flight.
ROUND_BYTES_ENOUGH: Final = 64 * 1024
SLOT_IN_USE: Final = "55006"  # object_in_use
SLOT_RETRY_S: Final = 65.0  # PostgreSQL's wal_sender_timeout is 60 s
PAUSE_FIRST_MS: Final = 20
# How often a holder is asked whether it is promoted: a question takes 0.1 ms.
PROMOTION_LOOK_FIRST_MS: Final = 5
PROMOTION_LOOK_MS_MAX: Final = 20

# Whatever it is, to connect again after a pause is all that can be done here.
REFUSALS: Final = (
    ConnectionLostError,
    FenceError,
    HistoryError,
    IdentityError,
    ProtocolError,
    RaftError,
    ScramError,
    ServerRefusedError,
)


class Ingest:
    """Follows one holder in one epoch; made anew for the next."""

    def __init__(
        self,
        group: Group,
        epoch: Epoch,
        holder: Holder,
        *,
        password: str | None,
        tls: ClientTls | None,
        changed: Callable[[], None],
    ) -> None:
        self._group = group
        self._changed = changed
        self._epoch = epoch
        self._holder = holder
        self._password = password
        self._tls = tls
        self._client: ReplicationClient | None = None
        self._ended: asyncio.Future[str] | None = None
        self._slot_timer: asyncio.TimerHandle | None = None
        self._next_timeline = False
        self._hurry = asyncio.Event()
        self._waiting: list[Piece] = []
        self._waiting_bytes = 0
        self._reported = Lsn(0)
        self._tli = Tli(1)
        self._complaint = ""
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(_verify_ended)
        group.on_commit.add(self._committed)

    @property
    def epoch(self) -> Epoch:
        """In which epoch this ingests."""
        return self._epoch

    @property
    def is_streaming(self) -> bool:
        """Whether WAL comes in."""
        return self._ended is not None

    @property
    def complaint(self) -> str:
        """What is wrong, if the holder cannot be followed."""
        return self._complaint

    def hurry(self) -> None:
        """Take the hint that the holder is there: do not wait for the next attempt."""
        if not self.is_streaming:
            self._hurry.set()

    def close(self) -> None:
        """Stop; the primary's commits wait for somebody else now."""
        self._group.on_commit.discard(self._committed)
        if self._client is not None:
            self._client.close()
        self._task.cancel()

    # --- The task -----------------------------------------------------------------------------

    async def _run(self) -> None:
        pause_ms = PAUSE_FIRST_MS
        while True:
            try:
                streamed = await self._follow()
            except REFUSALS as error:
                streamed = False
                self._complain(str(error))
            finally:
                self._disconnect()
            pause_ms = PAUSE_FIRST_MS if streamed else pause_ms
            await self._pause(pause_ms)
            pause_ms = min(2 * pause_ms, self._group.settings.retry_ms)

    async def _pause(self, pause_ms: int) -> None:
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_ms / 1000):
                await self._hurry.wait()

    async def _until_promoted(self, client: ReplicationClient) -> None:
        """Wait until the holder is no standby any more; it may have the epoch just now."""
        look_ms = PROMOTION_LOOK_FIRST_MS
        while await client.show("in_hot_standby") == "on":
            await self._pause(look_ms)
            look_ms = min(2 * look_ms, PROMOTION_LOOK_MS_MAX)

    async def _follow(self) -> bool:
        """Connect and stream until that ends; return whether any WAL could be streamed."""
        group = self._group
        self._client = client = await self._connect()
        await self._until_promoted(client)
        info = await client.identify()
        expected = group.committed.system_identifier
        if info.system_identifier != expected:
            raise FenceError(
                f"{self._holder.name} has the data of system {info.system_identifier}, this branch "
                f"is of system {expected}: grant the epoch to a compute of this branch"
            )
        await client.create_slot(group.settings.slot)
        while True:
            await self._take_timelines(client, info.tli)
            tail = group.tail
            if tail is None:
                return False
            self._waiting, self._waiting_bytes = [], 0
            self._reported = Lsn(0)
            self._tli = tail.tli
            self._ended = asyncio.get_running_loop().create_future()
            await self._start(client, tail.end, tail.tli)
            self._complaint = ""
            self._changed()
            log.info(
                "ingest streams",
                group=group.name,
                holder=self._holder.name,
                epoch=int(self._epoch),
                tli=int(tail.tli),
                lsn=str(tail.end),
            )
            self._committed()
            reason = await self._ended
            self._ended = None
            self._changed()
            if not self._next_timeline:
                log.info("ingest ended", group=group.name, reason=reason)
                return True
            self._next_timeline = False
            info = await client.identify()

    async def _start(self, client: ReplicationClient, lsn: Lsn, tli: Tli) -> None:
        """Stream with the slot, or without if a leader before us still seems to have it.

        Its walsender lives until it times out, when its host hangs or was cut off. Till then the
        slot keeps at least the WAL that we need; afterwards it is ours to move again.
        """
        slot = self._group.settings.slot
        try:
            await client.start(slot=slot, lsn=lsn, tli=tli, handler=self)
        except ServerRefusedError as error:
            if error.sqlstate != SLOT_IN_USE or not client.is_open:
                raise
            log.warning("slot is in use", group=self._group.name, holder=self._holder.name)
            await client.start(slot=None, lsn=lsn, tli=tli, handler=self)
            loop = asyncio.get_running_loop()
            self._slot_timer = loop.call_later(
                SLOT_RETRY_S, self._end, "connecting again to take the slot"
            )

    async def _connect(self) -> ReplicationClient:
        address = parse_address(self._holder.address)
        is_local = isinstance(address, UnixAddress)
        upstream = Upstream(
            address=address,
            user=self._holder.user,
            application_name=self._group.settings.slot,
            password=self._password,
            tls=self._tls if isinstance(address, TcpAddress) and not is_local else None,
        )
        return await ReplicationClient.connect(upstream, ReplicationSettings())

    async def _take_timelines(self, client: ReplicationClient, server_tli: Tli) -> None:
        """Bring the log onto the server's timeline, one step of its history at a time."""
        group = self._group
        while group.tail is not None and server_tli > group.tail.tli:
            newest = parse_history(server_tli, await client.timeline_history(server_tli))
            known = group.tail.tli
            step = newest.fork_of(known)
            if step is None:
                raise FenceError(
                    f"timeline {server_tli:d} of {self._holder.name} does not descend from "
                    f"timeline {known:d}: grant the epoch to a compute of this branch"
                )
            following, fork = step
            if group.tail.end < fork:
                return  # the rest of the known timeline first: the server still has it
            file = newest.file
            if following != server_tli:
                file = await client.timeline_history(following)
            group.tail.verify_epoch(self._epoch)
            await group.propose(Timeline(following, file))
            log.info("timeline begins", group=group.name, tli=int(following), fork=str(fork))
        if group.tail is not None and server_tli < group.tail.tli:
            raise FenceError(
                f"{self._holder.name} is on timeline {server_tli:d}, but the branch is on "
                f"{group.tail.tli:d}: it must be rebuilt as a standby"
            )

    def _disconnect(self) -> None:
        if self._slot_timer is not None:
            self._slot_timer.cancel()
            self._slot_timer = None
        if self._client is not None:
            self._client.close()
        self._client, self._ended = None, None
        self._waiting, self._waiting_bytes = [], 0

    def _complain(self, reason: str) -> None:
        if reason != self._complaint:
            self._complaint = reason
            log.warning(
                "ingest fails", group=self._group.name, holder=self._holder.name, reason=reason
            )

    # --- The stream ---------------------------------------------------------------------------

    def on_wal(self, pieces: list[Piece]) -> None:
        """Make records of a burst, and let them go."""
        self._waiting += pieces
        self._waiting_bytes += sum(len(piece) for _, piece in pieces)
        self._propose()

    def on_end(self, next_tli: Tli | None, start: Lsn) -> None:
        """Go on with the next timeline, or connect again."""
        self._next_timeline = next_tli is not None
        self._end(f"the timeline ended, {next_tli} goes on at {start}")

    def on_lost(self, reason: str) -> None:
        """Connect again."""
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    def _propose(self) -> None:
        """Begin a round; what waits and is little lets one that is under way end first.

        That is Nagle's rule: a commit alone never waits, and of many together each costs less.
        """
        group, client = self._group, self._client
        assert client is not None, "nothing waits without a connection"
        uncommitted_bytes = group.raft.uncommitted_bytes
        if uncommitted_bytes and self._waiting_bytes < ROUND_BYTES_ENOUGH:
            return
        if uncommitted_bytes > group.settings.uncommitted_bytes_max:
            client.pause_reading()
            return
        records = _records_of(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        try:
            while records:
                lsn, body = records[0]
                group.propose_wal(self._epoch, self._tli, lsn, body)
                del records[0]
        except BusyError:
            self._wait_again(records)
        except (FenceError, RaftError) as error:
            self._end(str(error))
        group.flush()
        if not self._waiting:
            client.resume_reading()

    def _wait_again(self, records: list[tuple[Lsn, Buffer]]) -> None:
        """Keep what the core does not take now, and look again even if nothing is committed."""
        self._waiting = [(lsn, memoryview(body)) for lsn, body in records]
        self._waiting_bytes = sum(len(body) for _, body in records)
        assert self._client is not None, "nothing waits without a connection"
        self._client.pause_reading()
        pause_s = self._group.settings.tick_ms / 1000
        asyncio.get_running_loop().call_later(pause_s, self._propose_waiting)

    def _committed(self) -> None:
        """Tell the primary, and take what had to wait."""
        if self._client is None or self._ended is None or not self._client.is_open:
            return
        committed = self._group.committed
        if committed.end > self._reported and committed.tli == self._tli:
            self._reported = committed.end
            self._client.report(committed.end)
        if self._waiting and self._group.is_leading:
            # Not at once: the group is in the middle of telling what was committed.
            asyncio.get_running_loop().call_soon(self._propose_waiting)

    def _propose_waiting(self) -> None:
        if self._waiting and self._client is not None and self._group.is_leading:
            self._propose()


def _records_of(pieces: list[Piece]) -> list[tuple[Lsn, Buffer]]:
    """Join the pieces of a burst, which have no gaps, as far as a record may be long."""
    joined: list[tuple[Lsn, Buffer]] = []
    first, parts, size_bytes = pieces[0][0], [pieces[0][1]], len(pieces[0][1])
    for lsn, piece in pieces[1:]:
        if size_bytes + len(piece) > RECORD_BODY_BYTES_MAX:
            joined.append((first, _joined(parts, size_bytes)))
            first, parts, size_bytes = lsn, [], 0
        parts.append(piece)
        size_bytes += len(piece)
    joined.append((first, _joined(parts, size_bytes)))
    return joined


def _joined(parts: list[memoryview], size_bytes: int) -> Buffer:
    if len(parts) == 1 and size_bytes > COPIED_BYTES_MAX:
        return parts[0]
    return b"".join(parts)


def _verify_ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("ingest failed", exc_info=task.exception())
