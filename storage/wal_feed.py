"""The WAL of one branch, as a storage node gets it: from the log, through memory, to its engine.

    feed = WalFeed(client, branch, facts, start_lsn=cut.lsn, start_tli=cut.tli, rng=rng)
    await feed.start()
    server = ReplicationServer(source_of=lambda _: feed.source, gate_of=lambda _: gate, ...)
    ... feed.subscribe(wake); gate.move(feed.next_checkpoint(cut.lsn).end) ...
    await feed.close()

One task pulls: several MiB at a time when it is behind, else by a long poll. What comes is scanned
for checkpoints and put into a window; only then is it offered, and whoever subscribed is told in
the same turn of the event loop, so that a gate can be shut before anything is sent. When the engine
does not take what is there, pulling stops. An engine that starts asks for older WAL, from the
beginning of a segment; that is read from the log again, and nothing is ever on disk here. The same
goes for WAL between two checkpoints that are farther apart than the window is long.

Timelines: the log tells when a newer one has begun. Its history file is fetched, what was pulled
beyond the fork is forgotten (half a record at most, which the log had and the new primary dropped),
and pulling goes on behind it. To the engine a timeline ends when all of it is here.

When the log does not answer, what is here stays, `complaint` says why, and it is tried again for
ever. When going on is impossible, `failed` says why and pulling ends: WalRemovedError, the WAL was
trimmed; WrongLogError, the log has another cluster's WAL or another history than the cut.

Everything is used in the event loop's thread. The feed has one reader; the client is its owner's.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog

from fabric.backoff import full_jitter_ms
from fabric.frames import Buffer
from fabric.ids import BranchName
from fabric.lsn import Lsn, Tli
from fabric.rpc import Answer
from fabric.rpc_errors import BadRequestError, RetryError, RpcError
from log_service.history import HistoryConflictError, HistoryError, TimelineHistory, parse_history
from log_service.methods import Wal
from log_service.replication_source import WalRemovedError, WalSource

from .wal_feed_ahead import last_checkpoint
from .wal_feed_settings import LogReader, WalFacts, WalFeedSettings, WrongLogError, wal_removed
from .wal_feed_source import FeedSource
from .wal_records import PAGE_BYTES
from .wal_scan import CheckpointFound, CheckpointScanner
from .wal_window import WalWindow, history_at

__all__ = ["WalFacts", "WalFeed", "WalFeedSettings", "WrongLogError"]

IDLE_PAUSE_MS: Final = 1_000  # between two polls while nobody takes WAL: a busy branch sends many
GATHER_BYTES: Final = 64 * 1024  # whoever gets less is not behind
CHECKPOINTS_MAX: Final = 1024  # a window holds so many only when somebody makes nothing else
DOUBLINGS_MAX: Final = 16  # of the time that a poll may take
REFUSALS_MAX: Final = 2  # the first may have come from a node that joined lately
FIRST_TLI_WITH_HISTORY: Final = 2  # the first of a cluster has no parent
TIMELINES_MAX: Final = 4096  # more than a history file can name

T = TypeVar("T")

log = structlog.get_logger()


class WalFeed:
    """One branch's WAL from a cut on."""

    def __init__(
        self,
        client: LogReader,
        branch: BranchName,
        facts: WalFacts,
        *,
        start_lsn: Lsn,
        start_tli: Tli,
        rng: random.Random,
        settings: WalFeedSettings | None = None,
    ) -> None:
        """`start_lsn` is the cut's position on timeline `start_tli`: pulling begins there."""
        self.facts = facts
        self.settings = settings or WalFeedSettings()
        self.complaint = ""  # why the log cannot be read now; empty when it can
        self.failed: Exception | None = None  # why pulling has ended
        self.checkpoints: deque[CheckpointFound] = deque(maxlen=CHECKPOINTS_MAX)
        self._client = client
        self._branch = branch
        self._rng = rng
        self._start_lsn, self._start_tli = start_lsn, start_tli
        # The whole page, because its start tells the scanner what on it is a record.
        start = start_lsn - start_lsn % PAGE_BYTES
        self._window = WalWindow(self.settings.window_bytes_max, start)
        self._scanner = CheckpointScanner(facts.segment_bytes, start)
        self._newest: TimelineHistory | None = None  # as the log was last heard to have it
        self._offered = TimelineHistory(start_tli)
        self._files: dict[Tli, bytes] = {}
        self._committed = start_lsn
        self._empty_polls = 0  # in a row
        self._refusals = 0
        self._forks_cut = 0
        self._waiting: dict[object, Callable[[], None]] = {}
        self._is_full = False
        self._turned = asyncio.Event()  # no longer full, which ends a poll
        self._task: asyncio.Task[None] | None = None
        self.source: WalSource = FeedSource(self)

    async def start(self) -> None:
        """Begin to pull."""
        assert self._task is None, "a feed is started once"
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop pulling."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    # What is known.

    @property
    def committed(self) -> Lsn:
        """Where the log ends, as last heard."""
        return self._committed

    @property
    def received(self) -> Lsn:
        """How far WAL was pulled, scanned and offered."""
        return self._window.end

    @property
    def whole_end(self) -> Lsn:
        """How far of that a record, or a page, is whole: what an engine may be sent."""
        return self._window.whole_end

    @property
    def offered(self) -> TimelineHistory:
        """The history of what was received: of the log's, as much as the engine may know."""
        return self._offered

    @property
    def history_files(self) -> Mapping[Tli, bytes]:
        """The history files of the offered timelines, from the cut's on."""
        offered = self._offered.tli
        return {tli: file for tli, file in self._files.items() if file and tli <= offered}

    @property
    def forks_cut(self) -> int:
        """How often offered WAL was taken back: what was read before may be void since."""
        return self._forks_cut

    def next_checkpoint(self, after: Lsn) -> CheckpointFound | None:
        """Return the first checkpoint found that ends behind `after`; forget those before it."""
        self.discard_checkpoints(after)
        return self.checkpoints[0] if self.checkpoints else None

    def discard_checkpoints(self, upto: Lsn) -> None:
        """Forget the checkpoints that end at `upto` or before: they are done with."""
        while self.checkpoints and self.checkpoints[0].end <= upto:
            self.checkpoints.popleft()

    async def look_ahead(self, *, after: Lsn, upto: Lsn) -> CheckpointFound | None:
        """Return the last checkpoint in committed WAL between two positions, received or not.

        None as well when the log does not answer: then one that was received has to do.
        """
        newest = self._newest
        if newest is None:
            return None

        async def read(lsn: Lsn, bytes_max: int) -> Buffer:
            answer = await self._client.read_wal(
                self._branch,
                tli=newest.tli,
                lsn=lsn,
                bytes_max=min(bytes_max, self.settings.read_bytes_max),
                timeout_ms=self.settings.call_timeout_ms,
            )
            if not answer.payload or newest is not self._newest:
                raise RetryError(f"a log node has no WAL at {lsn} yet")
            return answer.payload

        end = min(upto, self._committed)
        segment_bytes = self.facts.segment_bytes
        try:
            return await last_checkpoint(read, after=after, upto=end, segment_bytes=segment_bytes)
        except RpcError as error:
            log.info("looked ahead in vain", branch=str(self._branch), reason=str(error))
            return None

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` whenever anything here has changed, until the result is called.

        In order of subscription, before anything new can be sent.
        """
        token = object()
        self._waiting[token] = wake

        def forget() -> None:
            self._waiting.pop(token, None)

        return forget

    def _wake(self) -> None:
        for wake in list(self._waiting.values()):
            wake()

    # What the engine does.

    def read_window(self, lsn: Lsn, bytes_max: int) -> list[Buffer] | None:
        """Return WAL that is in memory; the engine has taken it then."""
        found = self._window.read(lsn, bytes_max)
        if self._is_full and self._has_room():
            self._is_full = False
            self._turned.set()
        return found

    async def read_log(self, lsn: Lsn, bytes_max: int) -> Buffer:
        """Return WAL that is in memory no more, however long the log does not answer.

        If the log has it no more either, then no engine can start from the newest cut here: the
        feed has failed, and says so to whoever can get a newer one.
        """
        failures = refusals = 0
        while True:
            newest = self._newest
            if newest is None or lsn >= self.received:
                raise WalRemovedError(f"WAL at {lsn} was behind a fork, or not offered yet")
            try:
                answer = await self._client.read_wal(
                    self._branch,
                    tli=newest.tli,
                    lsn=lsn,
                    bytes_max=min(bytes_max, self.received - lsn),
                    timeout_ms=self.settings.call_timeout_ms,
                )
                # Another timeline may have begun meanwhile, and the bytes be those of a dead one.
                if answer.payload and newest is self._newest:
                    return answer.payload
                raise RetryError(f"a log node has no WAL at {lsn} yet")
            except BadRequestError as error:
                refusals += 1
                if refusals >= REFUSALS_MAX:
                    removed = wal_removed(self._branch, lsn, error)
                    self._fail(removed)
                    raise removed from error
                await self._pause(refusals)
            except RpcError as error:
                self._complain(str(error))
                failures += 1
                await self._pause(failures)

    # Pulling.

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._step()
                failures = 0
                self._complain("")
            except (WalRemovedError, WrongLogError) as error:
                self._fail(error)
                return
            except (RpcError, HistoryError) as error:
                failures += 1
                self._complain(str(error))
                await self._pause(failures)

    async def _step(self) -> None:
        if self._newest is None:
            await self._ask_leader()
        elif not self._has_room():
            self._is_full = True
            await self._poll_idle(self._newest.tli)
        else:
            self._is_full = False
            await self._pull(self._newest.tli)

    def _has_room(self) -> bool:
        # Not for every piece that the engine takes: a call for a few bytes costs as much as a long.
        return self._window.room_bytes >= self.settings.read_bytes_max // 4

    async def _pull(self, tli: Tli) -> None:
        lsn = self._window.end
        bytes_max = min(self._window.room_bytes, self.settings.read_bytes_max)
        # A branch that has been idle for long is asked less and less often.
        wait_ms = min(self.settings.poll_ms << self._empty_polls, self.settings.idle_poll_ms)
        answer = await self._read(tli, lsn, bytes_max, wait_ms)
        if answer is None:
            return
        if answer.payload:
            self._empty_polls = 0
            end = answer.response.fork or answer.response.committed
            self._append(lsn, answer.payload, is_all=lsn + len(answer.payload) >= end)
        self._heard(answer.response)
        if answer.response.tli > tli:
            await self._learn(answer.response.tli, answer.response.committed)
        elif not answer.payload:
            self._empty_polls = min(self._empty_polls + 1, DOUBLINGS_MAX)
            # Whoever answered may have been cut off from the others long ago.
            await self._ask_leader()
            if answer.response.committed < lsn:
                raise RetryError(f"a log node that ends at {answer.response.committed} is behind")
        elif len(answer.payload) < GATHER_BYTES:
            await self._unless_turned(asyncio.sleep(self.settings.gather_ms / 1000))

    async def _poll_idle(self, tli: Tli) -> None:
        """Hear of more WAL, without taking it."""
        end = max(self._committed, self._window.end)
        answer = await self._read(tli, end, 1, self.settings.idle_poll_ms)
        if answer is None:
            return
        self._heard(answer.response)
        if answer.response.tli > tli:
            await self._learn(answer.response.tli, answer.response.committed)
        elif not answer.payload:
            await self._ask_leader()
        self._wake()
        await self._unless_turned(asyncio.sleep(IDLE_PAUSE_MS / 1000))

    async def _read(self, tli: Tli, lsn: Lsn, bytes_max: int, wait_ms: int) -> Answer[Wal] | None:
        """Ask the log; None: the feed has room again."""
        call = self._client.read_wal(
            self._branch,
            tli=tli,
            lsn=lsn,
            bytes_max=bytes_max,
            wait_ms=wait_ms,
            timeout_ms=self.settings.call_timeout_ms,
        )
        try:
            answer = await self._unless_turned(call)
        except BadRequestError as error:
            self._refusals += 1
            if self._refusals >= REFUSALS_MAX:
                raise wal_removed(self._branch, lsn, error) from error
            await self._ask_leader()  # which is then the one that is asked again
            return None
        self._refusals = 0
        return answer

    def _append(self, lsn: Lsn, payload: Buffer, *, is_all: bool) -> None:
        self._window.append(payload, is_whole=is_all)
        found = self._scanner.feed(lsn, payload)
        self.checkpoints.extend(c for c in found if c.end > self._start_lsn)
        self._offer()

    def _heard(self, response: Wal) -> None:
        assert self._newest is not None
        if response.tli == self._newest.tli:
            self._committed = max(self._committed, response.committed)

    # Timelines.

    async def _ask_leader(self) -> None:
        """Have the client find the leader, and hear from it how far the log is."""
        timeout_ms = self.settings.call_timeout_ms
        topology = await self._client.topology(self._branch, timeout_ms=timeout_ms)
        if topology.system_identifier is None:
            raise RetryError(f"branch {self._branch} has no WAL yet")
        if topology.system_identifier != self.facts.system_identifier:
            raise WrongLogError(
                f"the log of {self._branch} is that of system {topology.system_identifier}, and "
                f"not of {self.facts.system_identifier}: it belongs to another cluster"
            )
        if self._newest is None or topology.tli > self._newest.tli:
            await self._learn(topology.tli, topology.end)
        elif topology.tli == self._newest.tli:
            self._committed = max(self._committed, topology.end)
        self._wake()

    async def _learn(self, tli: Tli, committed: Lsn) -> None:
        """Go on along a newer timeline, or the first that is heard of."""
        newest = await self._history(tli)
        try:
            self._verify(newest)
        except HistoryConflictError as error:
            raise WrongLogError(f"the cut is not one of {self._branch}: {error}") from error
        # An engine asks for the file of the cut's own timeline, too: it has none of an earlier one.
        first = max(self._start_tli, FIRST_TLI_WITH_HISTORY)
        for fork in newest.forks[-TIMELINES_MAX:]:
            if fork.tli >= first and fork.tli not in self._files:
                self._files[fork.tli] = await self._history_file(fork.tli)
        if newest.file:
            self._files[tli] = newest.file
        known, self._newest = self._newest, newest
        fork_of_known = None if known is None else newest.fork_of(known.tli)
        if fork_of_known is not None:
            self._cut(fork_of_known[1])
        self._committed = committed
        self._offer()

    async def _history(self, tli: Tli) -> TimelineHistory:
        file = await self._history_file(tli)
        return parse_history(tli, file) if file else TimelineHistory(tli)

    async def _history_file(self, tli: Tli) -> bytes:
        try:
            return await self._client.read_history(self._branch, tli)
        except BadRequestError:
            if tli != self._start_tli:
                raise
            return b""  # the first of a cluster, or of this log

    def _verify(self, newest: TimelineHistory) -> None:
        if self._newest is not None:
            newest.verify_extends(self._newest)
            return
        fork = newest.fork_of(self._start_tli)
        if newest.tli != self._start_tli and (fork is None or fork[1] < self._start_lsn):
            raise HistoryConflictError(
                f"{self._start_lsn} on timeline {self._start_tli:d} is not in the history of "
                f"timeline {newest.tli:d}"
            )

    def _cut(self, fork: Lsn) -> None:
        """Forget what is beyond the end of a timeline."""
        if fork >= self._window.end:
            return
        self._window.cut(fork)
        self._forks_cut += 1
        while self.checkpoints and self.checkpoints[-1].end > fork:
            self.checkpoints.pop()
        # What was found before the fork is known; the scanner only needs the page again.
        page = max(self._window.start, fork - fork % PAGE_BYTES)
        self._scanner.restart(page)
        taken = self._window.taken
        for piece in self._window.read(page, fork - page) or ():
            self._scanner.feed(self._scanner.end, piece)
        self._window.taken = taken

    def _offer(self) -> None:
        if self._newest is not None:
            self._offered = history_at(
                self._newest, self._window.end, first=self._start_tli, files=self._files
            )
        self._wake()

    # Helpers.

    def _fail(self, error: Exception) -> None:
        log.error("WAL cannot go on", branch=str(self._branch), reason=str(error))
        self.failed, self.complaint = error, str(error)
        self._wake()

    def _complain(self, complaint: str) -> None:
        if bool(complaint) != bool(self.complaint):
            if complaint:
                log.warning("the log cannot be read", branch=str(self._branch), reason=complaint)
            else:
                log.info("the log can be read again", branch=str(self._branch))
        if complaint != self.complaint:
            self.complaint = complaint
            self._wake()

    async def _pause(self, failures: int) -> None:
        settings = self.settings
        pause_ms = full_jitter_ms(
            self._rng,
            failures=failures,
            base_ms=settings.backoff_base_ms,
            cap_ms=settings.backoff_cap_ms,
        )
        await asyncio.sleep(pause_ms / 1000)

    async def _unless_turned(self, what: Coroutine[Any, Any, T]) -> T | None:
        """Wait for something, but no longer than until the window has room again."""
        loop = asyncio.get_running_loop()
        wanted, turned = loop.create_task(what), loop.create_task(self._turned.wait())
        try:
            await asyncio.wait({wanted, turned}, return_when=asyncio.FIRST_COMPLETED)
            self._turned.clear()
            return await wanted if wanted.done() else None
        finally:
            for task in (wanted, turned):
                task.cancel()
            await asyncio.gather(wanted, turned, return_exceptions=True)
