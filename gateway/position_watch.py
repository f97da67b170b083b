"""Asks computes how far they are: only when somebody wants to know, and once for all who do.

    await watch.primary_position()                    all that was visible before lies before it
    await watch.replica_has(name, lsn, wait_ms=20)    whether the replica may answer a read by then
    watch.use_lag()                                   positions are to be fresh for the next while
    watch.positions                                   what was heard; see positions.py

One connection to each compute is kept, and one question at a time is on its way. Who comes
meanwhile waits for the next one, together with all others: an answer counts only for those who were
there before it was asked. So a thousand sessions that commit at once cost two questions.

A replica is asked again and again while somebody waits for it, and not at all otherwise. Reads that
are bound by lag alone need samples of the past: for LAG_USED_S after each of them every compute is
asked HEARTBEAT_S apart.

Invariants: every question has a limit of time; what is not answered in time costs the connection,
and the next question makes another one. A position of a replica is forgotten with its connection,
because behind the next one there may be another life of it, which is not as far.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog

from fabric.lsn import Lsn

from .position_link import PRIMARY_SQL, REPLICA_SQL, PositionError, PositionLink
from .positions import Positions
from .topology import ComputesView, Target

__all__ = ["PositionError", "PositionWatch"]

PAUSE_S: Final = 0.1  # after a connection that failed; until then questions fail at once
POLL_S: Final = 0.0015
HEARTBEAT_S: Final = 0.2
LAG_USED_S: Final = 10.0
WAITING_MAX: Final = 100_000  # for one compute: more than clients can be

log = structlog.get_logger()


class _Asker:
    """Asks one compute for all who want to know. Invariant: `_asked` are those who were there when
    the question on its way was sent, `_waiting` those who came later.
    """

    def __init__(
        self,
        target: Target,
        sql: str,
        *,
        password: str,
        tls: ssl.SSLContext | None,
        on_lsn: Callable[[str, Lsn, float], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.target, self.sql = target, sql
        self._password, self._tls = password, tls
        self._on_lsn, self._on_end = on_lsn, on_end
        self._waiting: list[asyncio.Future[Lsn]] = []
        self._asked: list[asyncio.Future[Lsn]] = []
        self._asked_s = 0.0
        self._is_asking = False
        self._link: PositionLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._not_before_s = 0.0
        self._reason = ""
        self._is_closed = False

    def ask(self) -> "asyncio.Future[Lsn]":
        """Return the answer to a question that is sent after this call; PositionError if none."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Lsn] = loop.create_future()
        is_paused = self._link is None and loop.time() < self._not_before_s
        if self._is_closed or is_paused or len(self._waiting) >= WAITING_MAX:
            reason = self._reason or "too many ask, or it has gone"
            future.set_exception(PositionError(f"{self.target.name}: {reason}"))
            return future
        self._waiting.append(future)
        if self._link is not None:
            if not self._is_asking:
                self._send()
        elif self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
        return future

    def close(self, reason: str) -> None:
        """End it, and tell everybody who waits."""
        self._is_closed, self._reason = True, reason
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None
        self._refuse(reason)

    def answered(self, lsn: Lsn) -> None:
        """Hear the answer."""
        asked, self._asked, self._is_asking = self._asked, [], False
        self._on_lsn(self.target.name, lsn, self._asked_s)
        for future in asked:
            if not future.done():
                future.set_result(lsn)
        if self._waiting:
            self._send()

    def ended(self, link: PositionLink, reason: str) -> None:
        """Hear that the connection is over."""
        if link is self._link:
            self._lose(reason)

    async def _open(self) -> None:
        link = PositionLink(self.sql, on_answer=self.answered, on_end=self.ended)
        try:
            await link.open(self.target, self._password, self._tls)
        except PositionError as error:
            self._connecting = None
            self._lose(str(error))
            return
        self._connecting, self._link = None, link
        self._reason = ""
        if self._waiting:
            self._send()

    def _send(self) -> None:
        assert self._link is not None, "whoever calls has looked"
        self._asked, self._waiting, self._is_asking = self._waiting, [], True
        self._asked_s = asyncio.get_running_loop().time()
        self._link.ask()

    def _lose(self, reason: str) -> None:
        if not self._reason:
            log.warning("a compute does not say how far it is", name=self.target.name, why=reason)
        self._link, self._reason = None, reason
        self._not_before_s = asyncio.get_running_loop().time() + PAUSE_S
        self._on_end(self.target.name)
        self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        waiting = self._asked + self._waiting
        self._asked, self._waiting, self._is_asking = [], [], False
        for future in waiting:
            if not future.done():
                future.set_exception(PositionError(f"{self.target.name}: {reason}"))


class _Poll:
    """Who waits for a replica, and the task that asks it as long as there is anybody."""

    def __init__(self) -> None:
        self.waiting: set[tuple[Lsn, asyncio.Future[bool]]] = set()
        self.task: asyncio.Task[None] | None = None


class PositionWatch:
    """Positions of a branch's computes. `follow` says which computes there are."""

    def __init__(self, *, password: str, tls: ssl.SSLContext | None) -> None:
        self.positions = Positions()
        self._password, self._tls = password, tls
        self._primary: _Asker | None = None
        self._replicas: dict[str, _Asker] = {}
        self._polls: dict[str, _Poll] = {}
        self._heartbeat: asyncio.Task[None] | None = None
        self._lag_until_s = 0.0

    # --- Which computes there are -------------------------------------------------------------

    def follow(self, view: ComputesView) -> None:
        """Take a new view: connections to those that are gone end."""
        if (None if self._primary is None else self._primary.target) != view.primary:
            if self._primary is not None:
                self._primary.close("it is not the primary any more")
            self._primary = None
            self.positions.begin_epoch()
            if view.primary is not None:
                self._primary = self._asker(view.primary, PRIMARY_SQL)
        wanted = {one.name: one for one in view.replicas}
        for name, asker in list(self._replicas.items()):
            if wanted.get(name) != asker.target:
                asker.close("it is another one now, or gone")
                del self._replicas[name]
                self.positions.forget(name)
        for name, target in wanted.items():
            if name not in self._replicas:
                self._replicas[name] = self._asker(target, REPLICA_SQL)

    def _asker(self, target: Target, sql: str) -> _Asker:
        is_primary = sql is PRIMARY_SQL
        return _Asker(
            target,
            sql,
            password=self._password,
            tls=self._tls,
            on_lsn=self._heard_primary if is_primary else self.positions.note_replica,
            on_end=_nothing if is_primary else self.positions.forget,
        )

    def _heard_primary(self, _: str, lsn: Lsn, asked_s: float) -> None:
        self.positions.note_primary(lsn, asked_s)

    async def close(self) -> None:
        """End everything."""
        tasks = [poll.task for poll in self._polls.values() if poll.task is not None]
        tasks += [] if self._heartbeat is None else [self._heartbeat]
        self.follow(ComputesView())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- Questions ----------------------------------------------------------------------------

    async def primary_position(self) -> Lsn:
        """Return a position behind everything that was visible on the primary before the call."""
        if self._primary is None:
            raise PositionError("there is no primary at the moment")
        return await self._primary.ask()

    async def replica_has(self, name: str, lsn: Lsn, *, wait_ms: float) -> bool:
        """Whether a replica has replayed up to a position, or does so in time."""
        if self.positions.replica_has(name, lsn):
            return True
        if wait_ms <= 0 or name not in self._replicas:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        poll = self._polls.setdefault(name, _Poll())
        entry = (lsn, future)
        poll.waiting.add(entry)
        if poll.task is None:
            poll.task = asyncio.create_task(self._ask_until_all_know(name, poll))
        try:
            async with asyncio.timeout(wait_ms / 1000):
                return await future
        except TimeoutError:
            return False
        finally:
            poll.waiting.discard(entry)

    async def _ask_until_all_know(self, name: str, poll: _Poll) -> None:
        try:
            while poll.waiting:
                asker = self._replicas.get(name)
                if asker is None:
                    break
                try:
                    lsn = await asker.ask()
                except PositionError:
                    break
                for wanted, future in list(poll.waiting):
                    if wanted <= lsn and not future.done():
                        future.set_result(True)
                        poll.waiting.discard((wanted, future))
                if poll.waiting:
                    await asyncio.sleep(POLL_S)
        finally:
            # Who came in the last moment is answered with the others: ask again, or the primary.
            del self._polls[name]
            for _, future in poll.waiting:
                if not future.done():
                    future.set_result(False)

    # --- Lag ----------------------------------------------------------------------------------

    def use_lag(self) -> None:
        """Have lags known from now on, for a while: somebody wants reads that are bound by them."""
        loop = asyncio.get_running_loop()
        self._lag_until_s = loop.time() + LAG_USED_S
        if self._heartbeat is None:
            self._heartbeat = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while loop.time() < self._lag_until_s:
                askers = list(self._replicas.values())
                if self._primary is not None:
                    askers.insert(0, self._primary)
                for asker in askers:
                    # Answers go to `positions`; nobody here waits for a compute that hangs.
                    asker.ask().add_done_callback(_take_note)
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            self._heartbeat = None


def _take_note(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


def _nothing(_: str) -> None:
    pass
