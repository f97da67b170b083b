"""What one session asks of its process: links of the pools, and replicas that are far enough.

The session is pure and cannot wait; here waiting is done for it, with limits, and it is told.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fabric.lsn import Lsn

from .intake import Tap
from .link import Link
from .logins import Login
from .pool import Pools
from .position_watch import PositionError, PositionWatch
from .wire import error_frame

if TYPE_CHECKING:
    from .session import Session


class Desk:
    """The services of one session; `session` is set before anything is asked."""

    def __init__(
        self, pools: Pools, watch: PositionWatch, login: Login, *, read_wait_ms: int
    ) -> None:
        self.login = login
        self.session: Session | None = None
        self._pools = pools
        self._watch = watch
        self._read_wait_ms = read_wait_ms
        self._finding: asyncio.Task[None] | None = None

    # --- Services -------------------------------------------------------------------------------

    def acquire(self, *, replica: str | None) -> Link | None:
        """Return a link, or be told later."""
        return self._pools.acquire(self, replica=replica)

    def give_back(self, link: Link, *, is_clean: bool) -> None:
        """Let others have a link; it is read from again, however slow this client was."""
        if isinstance(link.wire, Tap):
            link.wire.resume_reading()
        self._pools.give_back(link, is_clean=is_clean)

    def replica_with(self, floor: Lsn, sticky: str | None) -> str | None:
        """Return a replica that is known to have this position: `sticky`, if there is one."""
        names = self._names()
        if sticky is not None:
            is_there = sticky in names and self._watch.positions.replica_has(sticky, floor)
            return sticky if is_there else None
        if not floor:
            return self._choose(names, None) or ""
        return self._choose(names, floor)

    def replica_within(self, lag_ms: int, sticky: str | None) -> str | None:
        """Return a replica that is at most that far behind."""
        self._watch.use_lag()
        return self._watch.positions.choose(
            self._names(), self._pools.loads(), now_s=_now_s(), lag_ms_max=lag_ms, sticky=sticky
        )

    def find_replica(self, floor: Lsn | None, sticky: str | None) -> None:
        """Wait a little for a replica that has the floor; None: ask for it."""
        if self._finding is None:
            self._finding = asyncio.ensure_future(self._find(floor, sticky))

    def forget(self) -> None:
        """Wait for nothing any more."""
        self._pools.forget(self)
        if self._finding is not None:
            self._finding.cancel()
            self._finding = None

    # --- Waiter ---------------------------------------------------------------------------------

    def granted(self, link: Link) -> None:
        """Have a link."""
        assert self.session is not None, "it has asked"
        self.session.links.granted(link)

    def not_granted(self) -> None:
        """A replica cannot be reached."""
        assert self.session is not None, "it has asked"
        self.session.links.not_granted()

    def timed_out(self, sqlstate: str, message: str, hint: str) -> None:
        """There was no link in time: the statement fails, and the session stays."""
        assert self.session is not None, "it has asked"
        self.session.requests.refuse(error_frame(sqlstate, message, hint=hint))

    def farewell(self, error: bytes) -> None:
        """There will be no link."""
        assert self.session is not None, "it has asked"
        self.session.farewell(error)

    # --- Finding a replica ----------------------------------------------------------------------

    async def _find(self, asked: Lsn | None, sticky: str | None) -> None:
        floor, name = asked, None
        try:
            if floor is None:
                floor = await self._watch.primary_position()
            name = await self._first_with(floor, sticky)
        except PositionError:
            floor = None  # the primary is asked for the data, then, and waited for
        self._finding = None
        if self.session is not None and not self.session.is_closed:
            self.session.links.found_replica(name, floor)

    async def _first_with(self, floor: Lsn, sticky: str | None) -> str | None:
        names = self._names()
        known = self._watch.positions.choose(
            names, self._pools.loads(), now_s=_now_s(), floor=floor, sticky=sticky
        )
        if known is not None or not names:
            return known
        loads = self._pools.loads()
        likely = sticky if sticky in names else min(names, key=lambda name: loads.get(name, 0))
        is_there = await self._watch.replica_has(likely, floor, wait_ms=self._read_wait_ms)
        return likely if is_there else self._choose(names, floor)

    def _choose(self, names: Sequence[str], floor: Lsn | None) -> str | None:
        return self._watch.positions.choose(names, self._pools.loads(), now_s=_now_s(), floor=floor)

    def _names(self) -> list[str]:
        return [target.name for target in self._pools.view.replicas]


def _now_s() -> float:
    return asyncio.get_running_loop().time()
