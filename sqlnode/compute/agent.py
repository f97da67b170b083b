"""The agent: carries out what the machine decides, and tells it what has happened.

    log's leader ──orders──► Reporter ──► Machine ──actions──► Server (one life after the other)
                 ◄─reports──                 ▲─────events───────┘

Whatever takes time is a task; each belongs to one life, and ends with it. A bug in one of them ends
the agent: postgres follows it, and whoever starts agents starts another one.
"""

import asyncio
import functools
import itertools
import os
import secrets
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from fabric.rpc_errors import RpcError
from log_service.compute_methods import (
    COMPLAINT_CHARACTERS_MAX,
    ComputeReport,
    ComputeState,
    Orders,
)

from .aside import delete_aside, empty_aside
from .checkpoints import Pacer
from .machine import (
    Action,
    Discarded,
    Ended,
    EndLife,
    Event,
    Exit,
    Machine,
    MachineSettings,
    OrdersHeard,
    Phase,
    Positioned,
    Promote,
    Promoted,
    Ready,
    ReportNow,
    ShutDown,
    ShutDownDone,
    StartLife,
    StopRequested,
    Tick,
)
from .positions import SQL_FAILURES
from .primary_sql import PrimarySql
from .reports import Reporter, now_ms
from .server import Context, Lessons, LifeError, Server

INSTANCE_BITS: Final = 63
PLAIN_AFTER_FAILURES: Final = 3  # of starts with what ALTER SYSTEM has set
REFRESH_S: Final = 30.0  # how late a replica has what ALTER SYSTEM has set
SAVE_S: Final = 1.0  # how late the log has it
PREWARM_LOOKS: Final = 30  # so many of those between two lists of the blocks that were read
SECONDS: Final = 1000

log = structlog.get_logger()


class Agent:
    """Runs one compute until it is told to stop."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context, self._settings = context, settings
        self._instance = secrets.randbits(INSTANCE_BITS) or 1
        times = MachineSettings(drain_ms=settings.drain_ms)
        self.machine = Machine(settings.name, self._instance, times)
        self.reporter = Reporter(
            context.log_client,
            settings.branch,
            report_ms=settings.report_ms,
            compose=self._compose,
            heard=self._heard,
        )
        self._server: Server | None = None
        self._lessons = Lessons()
        self._failed_starts = 0
        self._life_tasks: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._pacer: Pacer | None = None
        self._is_checkpointing = self._is_stopping = False
        self._exited = asyncio.Event()
        self._bug: BaseException | None = None

    # From outside.

    async def run(self) -> None:
        """Be a compute until `stop`; raises what a bug of ours has raised."""
        self._loop = asyncio.get_running_loop()
        reporting = [
            self._spawn(self.reporter.run(), self._tasks),
            self._spawn(self.reporter.watch(), self._tasks),
        ]
        self._take(Tick())
        await self._exited.wait()
        for task in reporting:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.wait(reporting)
        await self.reporter.report_last()
        if self._bug is not None:
            await self._end_after_bug()
            raise self._bug
        await asyncio.to_thread(empty_aside, self._context.run_dir)

    def stop(self) -> None:
        """End in order: what was acknowledged is in the log, whoever asked for more is told."""
        self._is_stopping = True
        self._take(StopRequested())

    @property
    def complaint(self) -> str:
        """What is wrong; empty if all is well."""
        server = "" if self._server is None else self._server.complaint
        return (self.machine.complaint or server)[:COMPLAINT_CHARACTERS_MAX]

    @property
    def living(self) -> Server | None:
        """The server of this life, unless that is being ended: then parts of it are gone."""
        is_ending = self.machine.phase in {Phase.ENDING, Phase.DRAINED} or self._bug is not None
        return None if is_ending else self._server

    def problem(self) -> str | None:
        """Say why only a restart can help, for a probe; None if that is not so.

        A log or a storage that cannot be reached is no reason: it goes on where it was.
        """
        return None if self._bug is None else f"the agent ends by a bug: {self._bug!r}"

    def unreadiness(self) -> str | None:
        """Say why clients had better go elsewhere, for a probe; None if postgres answers them."""
        state, phase = self.machine.state, self.machine.phase
        is_ready = phase in {Phase.REPLICA, Phase.PRIMARY} and state is not ComputeState.PROMOTING
        if is_ready:
            return self.problem()
        return f"it is {phase.name.lower()}: {self.complaint or 'not for long'}"

    # The machine.

    def _take(self, event: Event) -> None:
        before = self.machine.phase
        actions = self.machine.take(event, now_ms())
        if self.machine.phase is not before:
            log.info(
                "phase", now=self.machine.phase.name.lower(), before=before.name.lower(),
                life=self.machine.life, event_name=type(event).__name__,
            )  # fmt: skip
        for action in actions:
            self._act(action)
        self._arm()

    def _act(self, action: Action) -> None:
        match action:
            case StartLife(life):
                self._server = server = Server(
                    self._context, life, self._lessons,
                    moved=self._moved, doubted=functools.partial(self._doubt, life),
                )  # fmt: skip
                self._spawn_life(self._live(server))
            case Promote(_, epoch):
                log.info("promoting", epoch=int(epoch))
                self._spawn_life(self._promote(self._serving))
            case ShutDown():
                is_primary = self.machine.phase is Phase.DRAINING
                self._spawn_life(self._serving.shut_down(is_primary=is_primary))
            case EndLife(life, reason):
                log.info("life ends", life=life, reason=reason)
                self._spawn(self._end(self._serving), self._tasks)
            case ReportNow():
                self.reporter.report_now()
            case Exit():
                self._exited.set()

    def _arm(self) -> None:
        """Have the machine look again when something is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ms = self.machine.deadline_ms()
        if due_ms is not None and not self._exited.is_set():
            wait_s = max(0, due_ms - now_ms()) / SECONDS
            self._timer = self._loop.call_later(wait_s, self._take, Tick())

    def _heard(self, sent_ms: int, orders: Orders) -> None:
        self._take(OrdersHeard(sent_ms, orders))
        if self._server is not None and self._server.positions is not None:
            waits = self.machine.phase is Phase.REPLICA and self.machine.epoch > 0
            self._server.positions.hurry(waits)

    def _moved(self) -> None:
        """A server has looked where it is."""
        server = self._server
        if server is None or server.positions is None:
            return
        at, machine = server.positions, self.machine
        if not server.is_whole:
            self._take(Ended(server.life, "its data directory is gone"))
            return
        has_moved = (at.received, at.replayed) != (machine.received, machine.replayed)
        self._take(Positioned(server.life, at.received, at.replayed, at.tli))
        if has_moved:  # whoever waits for a replica to have all WAL hears of it at once
            self.reporter.report_now()
        if self.machine.phase is Phase.PRIMARY and not at.in_recovery:
            self._pace(server)

    def _doubt(self, life: int, reason: str) -> None:
        if self._server is not None:
            self._learn(self._server, has_started=True)
        self._take(Ended(life, reason))

    @property
    def _serving(self) -> Server:
        assert self._server is not None, "the machine has begun a life"
        return self._server

    # Lives.

    async def _live(self, server: Server) -> None:
        """From the start of a life until its postgres has ended."""
        try:
            await server.start()
        except LifeError as error:
            self._learn(server, has_started=False)
            self._take(Ended(server.life, str(error)))
            return
        self._learn(server, has_started=True)
        self._take(Ready(server.life))
        await asyncio.to_thread(delete_aside, self._context.run_dir)
        self._spawn_life(self._refresh(server))
        ending = await server.ending()
        log.warning("postgres ended", life=server.life, reason=ending.reason)
        self._learn(server, has_started=True)
        if not ending.is_orderly:
            self._take(Ended(server.life, ending.reason))
            return
        if self.machine.epoch and server.keeper is not None:
            # Before anybody hears of it: with the next epoch they would be refused.
            await server.save_settings(self.machine.epoch)
            if self._is_stopping:
                await server.keeper.save_statistics(self.machine.epoch)
        self._take(ShutDownDone(server.life, ending.end))

    def _learn(self, server: Server, *, has_started: bool) -> None:
        """What the next life has to know."""
        self._failed_starts = 0 if has_started else self._failed_starts + 1
        is_plain = self._failed_starts >= PLAIN_AFTER_FAILURES
        if is_plain:
            log.error("postgres does not start; trying without what ALTER SYSTEM has set")
        self._lessons = Lessons(limits=server.limits, is_plain=is_plain)

    async def _promote(self, server: Server) -> None:
        try:
            await server.promote()
        except LifeError as error:
            self._take(Ended(server.life, str(error)))
            return
        self._pacer = Pacer(
            bytes_max=self._settings.checkpoint_bytes,
            age_ms_max=round(self._settings.checkpoint_s * SECONDS),
            began_at=server.cut_lsn,
            began_ms=now_ms(),
        )
        epoch = self.machine.epoch
        self._take(Promoted(server.life))
        await self._refresh_once(server)
        if server.keeper is not None:
            await server.keeper.forget_statistics(epoch)
        statements = PrimarySql(self._settings.primary_sql_file)
        for second in itertools.count():
            if self.machine.phase is not Phase.PRIMARY:
                return
            await statements.carry_out(server)
            await server.save_settings(epoch)
            if second % PREWARM_LOOKS == PREWARM_LOOKS - 1:
                await server.save_prewarm(epoch)
            await asyncio.sleep(SAVE_S)

    async def _end(self, server: Server) -> None:
        """End a life and all that belongs to it; then there may be another one."""
        tasks, self._life_tasks = self._life_tasks, set()
        for task in tasks:
            task.cancel()
        await server.end()
        if tasks:
            await asyncio.wait(tasks)
        self._server = None
        self._take(Discarded(server.life))

    async def _end_after_bug(self) -> None:
        if self._server is not None:
            await self._server.end()

    # A replica and a primary at work.

    async def _refresh(self, server: Server) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            if self.machine.phase is Phase.REPLICA:
                await self._refresh_once(server)

    async def _refresh_once(self, server: Server) -> None:
        try:
            await server.refresh_settings()
        except RpcError as error:
            log.warning("settings are not up to date", reason=str(error))

    def _pace(self, server: Server) -> None:
        if self._pacer is None or self._is_checkpointing:
            return
        if self._pacer.is_due(server.reached, now_ms()):
            self._pacer.begin(server.reached, now_ms())
            self._is_checkpointing = True
            self._spawn_life(self._checkpoint(server))

    async def _checkpoint(self, server: Server) -> None:
        began_ms = now_ms()
        try:
            await server.checkpoint()
            log.debug("checkpoint", took_ms=now_ms() - began_ms)
        except SQL_FAILURES as error:
            log.warning("no checkpoint", reason=str(error))
        finally:
            self._is_checkpointing = False

    # Reports.

    def _compose(self) -> ComputeReport:
        machine, settings, server = self.machine, self._settings, self._server
        received = max(machine.received, machine.replayed)
        return ComputeReport(
            branch=settings.branch,
            name=settings.name,
            instance=self._instance,
            state=machine.state,
            address=self.address,
            client_address=settings.client_address,
            epoch=machine.epoch,
            tli=machine.tli,
            received=received,
            replayed=machine.replayed,
            postmaster_pid=0 if server is None else server.pid,
            agent_pid=os.getpid(),
            can_lead=settings.can_lead,
            complaint=self.complaint,
        )

    @property
    def address(self) -> str:
        """Where the log's leader reaches our postgres."""
        if self._settings.ingest_address is not None:
            return self._settings.ingest_address
        port = self._settings.listen_address.port
        return f"unix://{self._context.run_dir}/.s.PGSQL.{port}"

    # Tasks.

    def _spawn_life(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._spawn(coroutine, self._life_tasks)

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]
    ) -> asyncio.Task[None]:
        task = self._loop.create_task(coroutine)
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(self._verify)
        return task

    def _verify(self, task: asyncio.Task[None]) -> None:
        """A bug must not be swallowed: without one of its tasks an agent is none."""
        if task.cancelled() or task.exception() is None:
            return
        self._bug = self._bug or task.exception()
        self._exited.set()
