"""The links of one session, and which replica may answer it. Pure.

A session has at most a link to the primary and one to a replica. Before it uses one, the link is
told what the session has set.

The *floor* is what a replica must have replayed: everything that this session has done or seen. It
is not known after each statement, only asked for when a replica is to be used: the primary's
position at that moment is far enough. Until then it is stale. Reads of one replica follow each
other, so they leave the floor alone; another replica needs a new one.
"""

from typing import TYPE_CHECKING, Final, Protocol

from fabric.lsn import Lsn

from .batches import our_batch
from .link import Link
from .reading import ReadMode
from .wire import query_frame

if TYPE_CHECKING:
    from .session import Session

_FORGET: Final = (b"set session authorization default", b"reset all")


class Services(Protocol):
    """What a session asks for. An answer that is not there yet comes by a call of its `Links`."""

    def acquire(self, *, replica: str | None) -> Link | None:
        """Return a link to the primary or to a replica; or later: `granted`, `not_granted`."""

    def give_back(self, link: Link, *, is_clean: bool) -> None:
        """Take a link that its session needs no more; unless clean, there is more in it."""

    def replica_with(self, floor: Lsn, sticky: str | None) -> str | None:
        """Return a replica that is known to have this position: `sticky`, if there is one."""

    def replica_within(self, lag_ms: int, sticky: str | None) -> str | None:
        """Return a replica that is at most that far behind."""

    def find_replica(self, floor: Lsn | None, sticky: str | None) -> None:
        """Wait a little for a replica that has the floor (None: ask), then `found_replica`."""

    def forget(self) -> None:
        """Wait for nothing any more."""


class Links:
    """What one session has of links."""

    __slots__ = ("_floor", "_services", "_session", "_sticky", "found", "is_floor_stale",
                 "primary", "replica")  # fmt: skip

    def __init__(self, session: "Session", services: Services) -> None:
        self._session = session
        self._services = services
        self.primary: Link | None = None
        self.replica: Link | None = None
        self.is_floor_stale = False
        self.found: str | None = None
        """The replica that was found for the next read; "": there is none, ask the primary."""
        self._floor = Lsn(0)
        self._sticky: str | None = None

    def raise_floor(self, position: Lsn) -> None:
        """See nothing older than this."""
        if position > self._floor:
            self._floor = position
            self._sticky = None

    # --- For the next batch ---------------------------------------------------------------------

    def primary_now(self) -> Link | None:
        """Return the link to the primary; None: wait."""
        self.found = None
        link = self.primary
        if link is None:
            link = self._acquire(None)
            if link is None:
                return None
        self._restore(link, self._session.memory.script)
        return link

    def for_reading(self, mode: ReadMode) -> Link | None:
        """Return a link to whoever may answer a read; None: wait."""
        name = self._choose(mode)
        if name is None:
            self._wait_for_replica()
            return None
        if not name:
            return self.primary_now()
        link = self.replica
        if link is not None and link.target_name != name:
            self._let_go(link)
            link = None
        if link is None:
            self.found = name
            link = self._acquire(name)
            if link is None:
                return None
        self.found = None
        self._sticky = name
        self._restore(link, self._session.memory.settings_script)
        return link

    def may_stay_with(self, link: Link) -> bool:
        """Whether reads can go on there: it has all that this session has seen, and what that is
        does not change by reading there.
        """
        return link is self.replica and self._sticky == link.target_name and not self.is_floor_stale

    def replica_at_once(self, mode: ReadMode) -> Link | None:
        """Return the link to the replica if it is good enough, and was told everything."""
        link = self.replica
        if link is None or self.found is not None or self.is_floor_stale:
            return None
        if mode.lag_ms_max is not None or self._sticky != link.target_name:
            return None
        if link.applied != self._session.memory.settings_script:
            return None
        is_there = self._services.replica_with(self._floor, self._sticky) is not None
        return link if is_there else None

    def _choose(self, mode: ReadMode) -> str | None:
        if self.found is not None:
            return self.found
        if mode.lag_ms_max is not None:
            return self._services.replica_within(mode.lag_ms_max, self._sticky) or ""
        if self.is_floor_stale:
            return None
        return self._services.replica_with(self._floor, self._sticky)

    def _wait_for_replica(self) -> None:
        is_known = not self.is_floor_stale and self._sticky is None
        floor = self._floor if is_known else None
        self._services.find_replica(floor, self._sticky)

    def _acquire(self, replica: str | None) -> Link | None:
        link = self._services.acquire(replica=replica)
        if link is not None:
            self._attach(link)
        return link

    def _attach(self, link: Link) -> None:
        link.owner = self._session
        if link.is_primary:
            self.primary = link
        else:
            self.replica = link

    def _restore(self, link: Link, script: tuple[bytes, ...]) -> None:
        """Tell a link what it must know of this session."""
        known = link.applied
        if known == script:
            return
        is_more = script[: len(known)] == known
        texts = script[len(known) :] if is_more else (*_FORGET, *script)
        frames = [query_frame(text) for text in texts]
        link.batches.extend(map(our_batch, frames))
        link.wire.write(b"".join(frames))
        link.applied = script

    # --- What was waited for --------------------------------------------------------------------

    def granted(self, link: Link) -> None:
        """Take a link that was asked for."""
        self._attach(link)
        if link.is_primary and self._session.memory.listens:
            self._restore(link, self._session.memory.script)
        self._session.resume()

    def not_granted(self) -> None:
        """Hear that a replica cannot be reached: the primary is asked."""
        self.found = ""
        self._session.resume()

    def found_replica(self, name: str | None, floor: Lsn | None) -> None:
        """Hear which replica has the floor, which is this one by now; None: none in time."""
        if floor is not None:
            self._floor = max(floor, self._floor)
            self.is_floor_stale = False
        self.found = name or ""
        if name != self._sticky:
            self._sticky = None
        self._session.resume()

    # --- The end of links -----------------------------------------------------------------------

    def give_back(self, link: Link, *, is_clean: bool) -> None:
        """Let others have a link."""
        self.forget(link)
        self._services.give_back(link, is_clean=is_clean)

    def drop(self, link: Link) -> None:
        """Close a link: it is good for nothing more."""
        self.forget(link)
        link.owner = None
        link.wire.close()

    def forget(self, link: Link) -> None:
        """Have a link no more."""
        if self.primary is link:
            self.primary = None
        if self.replica is link:
            self.replica = None

    def _let_go(self, link: Link) -> None:
        self.give_back(link, is_clean=not link.applied and not link.statements)

    def close(self) -> None:
        """Let go of everything."""
        self._services.forget()
        memory = self._session.memory
        for link in (self.primary, self.replica):
            if link is not None:
                is_clean = self._session.is_pooled and not memory.keeps_link
                self.give_back(link, is_clean=is_clean)
