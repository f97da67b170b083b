"""A client after its login: what its servers say, and what becomes of it when they are gone. Pure.

    session.feed(data)              bytes of the client; see requests.py
    link.feed(data)                 bytes of a server, which call back here
    session.links.granted(link)     what was waited for, and its like
    session.lost(link)              a server is gone
    session.closed()                the client is gone

What is true of a batch that was not answered says recovery.py; here the client is told, or the
batch is sent again.
"""

import contextlib
from collections.abc import Sequence
from typing import Final, Protocol

from .batches import (
    FUNCTION_CALL,
    IDLE,
    Batch,
)
from .changes import Change
from .classification.classifier import Classifier
from .counts import Counts
from .intake import Tap
from .limbo import Limbo, lost_frame
from .link import Link, Wire
from .links import Links, Services
from .memory import Memory
from .prepared import Serials, Statements
from .reading import (
    POSITION_VARIABLE,
    PRIMARY_ONLY,
    READ_VARIABLE,
    ReadMode,
    parse_read_mode,
)
from .recovery import (
    ANSWERS_THAT_STAND,
    BROKEN_MESSAGE,
    BROKEN_SQLSTATE,
    SURVIVED,
    UNKNOWN_HINT,
    UNKNOWN_MESSAGE,
    UNKNOWN_SQLSTATE,
    Fate,
    fates,
)
from .requests import Requests
from .settings import Limits
from .translation import position_of
from .wire import error_fields, error_frame, ready_frame

# The parser reads texts as a server does with these; with others it might see other statements.
_READABLE_IF: Final = {
    b"client_encoding": frozenset({b"UTF8", b"SQL_ASCII", b"LATIN1"}),
    b"standard_conforming_strings": frozenset({b"ON"}),
}
RERUNS_MAX: Final = 10  # of one batch; each waits for a link as long as the queue allows


class Client(Wire, Tap, Protocol):
    """The connection of a client."""


class Session:
    """One client's session."""

    def __init__(
        self,
        client: Client,
        services: Services,
        *,
        classifier: Classifier,
        serials: Serials,
        limits: Limits,
        read_mode: ReadMode,
        is_pooled: bool,
        counts: Counts,
    ) -> None:
        """`is_pooled`: links are given back after each transaction."""
        self.client = client
        self.is_pooled = is_pooled
        self.counts = counts
        self.memory = Memory(limits.settings)
        self.statements = Statements(serials, is_shared=is_pooled, statements_max=limits.statements)
        self.links = Links(self, services)
        self.requests = Requests(self, classifier=classifier, mode=read_mode, limits=limits)
        self.feed = self.requests.feed
        self.is_closed = False
        self.is_leaving = False
        self.is_terminating = False  # the client has said goodbye, and its server will end
        self._default_mode = read_mode
        self._unreadable: set[bytes] = set()  # settings by which a text may mean something else
        self._reruns = 0

    def resume(self) -> None:
        """Go on: what was waited for is there."""
        if self.requests.intake.is_stopped and not self.is_closed:
            self.requests.go_on()

    def refused(self, sqlstate: str, message: str, hint: str = "") -> None:
        """End the session: what it waits for will not come."""
        self.farewell(error_frame(sqlstate, message, hint=hint, severity="FATAL"))

    def farewell(self, error: bytes) -> None:
        """Tell the client why, and end."""
        if not self.is_closed:
            self.client.write(error)
            self.finish()

    def finish(self) -> None:
        """End the session from our side."""
        self.client.close()
        self.closed()

    # --- From a link ----------------------------------------------------------------------------

    def ended(self, link: Link, batch: Batch) -> None:
        """Hear that a batch has been answered."""
        if link.is_primary:
            self.links.is_floor_stale = True
        if self.requests.quick is not link or batch.is_special:
            self._ended(link, batch)

    def _ended(self, link: Link, batch: Batch) -> None:
        if batch.is_ours:
            return
        if batch.is_refused:
            self.counts.reads_sent_again += 1
            self._rerun(batch.frames)
            return
        self._reruns = 0
        if batch.is_unreplicated:
            self._distrust(link)
            return
        if batch.is_watched:
            self._settle(link, batch)
        if link.status == IDLE and not link.batches:
            self._come_to_rest(link)
        if self.requests.intake.is_stopped:
            self.requests.go_on()
        elif link.status == IDLE and not link.batches:
            self.requests.rest(link)

    def _settle(self, link: Link, batch: Batch) -> None:
        """Keep what the batch has left in the server, or forget it."""
        if link.status != IDLE:
            return
        memory = self.memory
        if batch.has_failed:
            memory.roll_back()
        else:
            memory.commit()
        # It was told everything before the batch, and what the batch has done happened there.
        link.applied = memory.script if link.is_primary else memory.settings_script
        self._choose_mode()
        position = memory.ours.get(POSITION_VARIABLE)
        if position is not None:
            with contextlib.suppress(ValueError):  # see `_choose_mode`
                self.links.raise_floor(position_of(position))

    def _choose_mode(self) -> None:
        """Choose where reads go, by what was said last.

        A value that makes no sense was refused, unless it was said among other statements, where
        a server takes anything; then it changes nothing.
        """
        mode = self._default_mode
        wanted = self.memory.ours.get(READ_VARIABLE)
        if wanted is not None:
            with contextlib.suppress(ValueError):
                mode = parse_read_mode(wanted)
        self.requests.mode = PRIMARY_ONLY if self._unreadable else mode
        self.requests.quick = None

    def _come_to_rest(self, link: Link) -> None:
        if self.is_terminating:  # the goodbye is on its way there: nobody else can use this link
            self.links.drop(link)
            self.finish()
            return
        self.requests.copying = None
        self.statements.portals.clear()
        if self.is_pooled and self.requests.open is None and not self.memory.keeps_link:
            self.requests.active = None
            self.links.give_back(link, is_clean=True)
        if self.is_leaving:
            self.leave()

    def statement_ended(self, link: Link, batch: Batch, tag: bytes) -> None:
        """Hear that a statement has ended well."""
        if batch.executed:
            statement, text = batch.executed.popleft()
            self.memory.ran(statement, text, tag)
            self.statements.ran(statement, link)

    def failed(self, link: Link, batch: Batch, error: bytes) -> None:
        """Hear of an error: the batch does nothing more."""
        for expected in reversed(batch.expected):
            if expected.change is not None:
                self.statements.undo(expected.change)
        if self.requests.copying is not None:
            self.requests.copying = None
            if not batch.is_simple:
                self.requests.open = batch
        if batch.is_ours:
            said = error_fields(error).get("M", "")
            self.refused("08006", f"the session could not be taken to another server: {said}")
        elif batch.is_undecided and batch.is_rerunnable:
            stands = error_fields(error).get("C") in ANSWERS_THAT_STAND
            if not stands and len(link.batches) == 1 and self.requests.open is None:
                batch.refuse()

    def confirmed(self, change: Change) -> None:
        """Hear that the server has made a change to the prepared statements."""
        self.statements.confirm(change)

    def copy_began(self, link: Link, batch: Batch) -> None:
        """Hear that the server takes COPY data."""
        self.requests.copy_began(link, batch)

    def told(self, name: bytes, value: bytes) -> None:
        """Hear of a setting that the server reports: the client has it in the bytes."""
        if name in _READABLE_IF:
            self._unreadable.discard(name)
            if value.upper() not in _READABLE_IF[name]:
                self._unreadable.add(name)
            self._choose_mode()

    def _distrust(self, link: Link) -> None:
        """A commit was not waited for: its author must not take it for safe."""
        self.client.write(
            error_frame(UNKNOWN_SQLSTATE, "the commit was cancelled before enough nodes had it",
                        hint=UNKNOWN_HINT) + ready_frame(link.status)
        )  # fmt: skip
        self.memory.commit()  # what was set is so, on whichever server comes next
        self.links.drop(link)
        self.lost(link)

    # --- A server is gone -----------------------------------------------------------------------

    def lost(self, link: Link) -> None:
        """Hear that a link has ended."""
        self.links.forget(link)
        if self.is_terminating:
            self.finish()
            return
        batches = [batch for batch in link.batches if not batch.is_ours]
        was_active = self.requests.active is link
        if link.farewell not in SURVIVED:
            self.farewell(link.farewell_frame)
            return
        if link.is_primary and self.memory.pin is not None:
            self.refused(
                "57P01",
                f"the server of this session is gone, and with it {self.memory.pin}",
                "Connect again.",
            )
            return
        if not was_active:
            self._relisten()
            return
        is_cut = not link.is_between_frames and bool(batches) and batches[0].has_answered
        if is_cut:
            self.refused(BROKEN_SQLSTATE, BROKEN_MESSAGE)
            return
        self._recover(link, batches)

    def _recover(self, link: Link, batches: list[Batch]) -> None:
        was_open = self.requests.drop()
        for batch in reversed(batches):
            for expected in reversed(batch.expected):
                if expected.change is not None:
                    self.statements.undo(expected.change)
        status = link.status
        if was_open and len(batches) == 1 and batches[0].has_only_prepared:
            batches = []
        if not batches:
            if status != IDLE:
                self.memory.roll_back()
                self.requests.limbo = Limbo(has_told=False)
            self._relisten()
            self.resume()
            return
        outcome = fates(batches, status=status, farewell=link.farewell, reads=not link.is_primary)
        if status != IDLE or any(fate is not Fate.RERUN for fate in outcome):
            self.memory.roll_back()
        if outcome[0] is Fate.RERUN:  # then all are
            self.counts.statements_sent_again += len(batches)
            self._rerun(b"".join(batch.frames for batch in batches))
            return
        self.counts.transactions_lost += outcome.count(Fate.LOST)
        self.counts.outcomes_unknown += outcome.count(Fate.UNKNOWN)
        if was_open:
            self._tell_open(outcome, is_block=status != IDLE)
        else:
            self._tell(outcome, is_block=status != IDLE)
        self._relisten()
        self.resume()

    def _tell(self, told: Sequence[Fate], *, is_block: bool) -> None:
        """Answer batches with the truth about them; `is_block`: in a transaction that is lost."""
        for fate in told:
            if self.requests.limbo is not None:
                self.client.write(self.requests.limbo.refusal())
            elif is_block and fate is not Fate.UNKNOWN:
                self.requests.limbo = Limbo(has_told=True)
                self.client.write(_truth(fate) + self.requests.limbo.ready())
            else:
                is_block = False
                self.client.write(_truth(fate) + ready_frame(IDLE))

    def _tell_open(self, told: Sequence[Fate], *, is_block: bool) -> None:
        """As `_tell`, but the last one's Sync has not come: its answer ends when it does."""
        self._tell(told[:-1], is_block=is_block)
        if self.requests.limbo is None:
            is_block &= told[-1] is not Fate.UNKNOWN
            self.requests.limbo = Limbo(has_told=True, is_block=is_block, is_failing=True)
            self.client.write(_truth(told[-1]))
        else:
            self.requests.limbo.extended(FUNCTION_CALL, None)  # whatever it was, it is refused

    def _rerun(self, frames: bytes) -> None:
        """Ask again: the primary, whoever that is now."""
        self._reruns += 1
        if self._reruns > RERUNS_MAX:
            self.refused(BROKEN_SQLSTATE, "the servers were lost too often while a statement ran")
            return
        self.requests.active = None
        self.links.found = ""
        self.requests.go_on(frames)

    def _relisten(self) -> None:
        """Notifications are due even while the client says nothing."""
        if self.memory.listens and not self.is_closed:
            self.links.primary_now()

    # --- The end --------------------------------------------------------------------------------

    def leave(self) -> None:
        """End as soon as no transaction is open: the gateway stops."""
        self.is_leaving = True
        self.requests.quick = None
        if self.requests.is_resting:
            self.refused("57P01", "the gateway is shutting down", "Connect again.")

    def end_of_input(self) -> bool:
        """Hear that the client says no more; whether it still has something to hear."""
        if not self.is_closed:
            self.requests.end_of_input()
        return not self.requests.intake.is_ended

    def closed(self) -> None:
        """Let go of everything: the client is gone."""
        if not self.is_closed:
            self.is_closed = True
            self.requests.end()
            self.links.close()

    @property
    def cancellable(self) -> Link | None:
        """The link whose work a cancel request ends now; None: nothing, or a commit.

        A commit that waits for the log is not cancelled: the server would call it done.
        """
        link = self.requests.active
        if link is None or not link.batches or any(batch.is_commit for batch in link.batches):
            return None
        return link


def _truth(fate: Fate) -> bytes:
    if fate is Fate.FAILED:
        return b""
    if fate in {Fate.LOST, Fate.REFUSED}:
        return lost_frame()
    if fate is Fate.UNKNOWN:
        return error_frame(UNKNOWN_SQLSTATE, UNKNOWN_MESSAGE, hint=UNKNOWN_HINT)
    return error_frame(BROKEN_SQLSTATE, BROKEN_MESSAGE)
