"""What a client asks, on its way to a link: whole batches at once, others message by message. Pure.

Frames are taken one after the other. One that needs something first (a link, a position) stops the
intake until that is there; so answers of two links never overtake each other.

A batch in the extended protocol is held until its Sync if it might go to a replica, because only
then it is known that it does nothing but read.

Invariants: `active` has the newest batch, and while it is busy there is no batch anywhere else;
`open` is the newest batch while its Sync has not come, and `_held` one without a link.
"""

from typing import TYPE_CHECKING, Final

from pgwire.errors import ProtocolError

from .batches import (
    BIND,
    CLOSE,
    COPY_DONE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    PARSE,
    QUERY,
    SYNC,
    TERMINATE,
    Batch,
)
from .classification.classifier import Classifier, parts_of
from .classification.statements import Query, Transaction
from .held import Held
from .intake import HEADER_BYTES, Intake
from .limbo import Limbo
from .link import Link
from .reading import ReadMode
from .settings import Limits
from .translation import translated
from .wire import COPY_FAIL_FRAME, TERMINATE_FRAME, error_frame, first_name, query_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from .session import Session

_COMMITS: Final = frozenset(
    {Transaction.COMMIT, Transaction.COMMIT_AND_CHAIN, Transaction.PREPARE_TRANSACTION}
)
_EXTENDED: Final = frozenset({PARSE, BIND, DESCRIBE, EXECUTE, CLOSE, FLUSH})
# What these did is lost with their server, so they can be said again.
_STATELESS_KINDS: Final = frozenset(
    [
        "BEGIN",
        "START TRANSACTION",
        "SET",
        "RESET",
        "SHOW",
        "LISTEN",
        "UNLISTEN",
        "PREPARE",
        "DEALLOCATE",
        "DISCARD",
    ]
)


class Requests:
    """What one client asks."""

    def __init__(
        self, session: "Session", *, classifier: Classifier, mode: ReadMode, limits: Limits
    ) -> None:
        self.classify = classifier.classify
        self.quick: Link | None = None
        """Set: a plain batch can go there, and nothing else is to be thought of.

        It was told everything, and no batch but plain ones is on it. It is the primary's if all
        goes there, or that of a replica that has the floor, which lasts until the primary is asked.
        """
        self.mode = mode
        self.limbo: Limbo | None = None
        """Set: there is no server, and the transaction that was open is lost."""
        self.active: Link | None = None
        self.open: Batch | None = None
        self.copying: Link | None = None
        self._session = session
        self._client = session.client
        self._memory = session.memory
        self._statements = session.statements
        self._links = session.links
        self._counts = session.counts
        self._is_pooled = session.is_pooled
        self._limits = limits
        self.intake = Intake(
            session.client, self._take, self._copy_data, frame_bytes_max=limits.message_bytes
        )
        self._takers: dict[int, Callable[[bytes], bool]] = {
            QUERY: self._simple,
            SYNC: self._sync,
            COPY_DONE: self._end_copy,
            COPY_FAIL: self._end_copy,
            FUNCTION_CALL: self._call_function,
            TERMINATE: self._terminate,
        }
        self._held = Held(self._statements, bytes_max=limits.batch_bytes)
        self._out: list[bytes] = []
        self._is_input_over = False

    # --- From the client ------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take bytes of the client."""
        link = self.quick
        if link is not None and len(data) > HEADER_BYTES:
            query = None
            if data[0] == QUERY:
                if int.from_bytes(data[1:5]) == len(data) - 1:
                    query = self.classify(data[5:-1])
            elif data[0] == BIND:
                query = self._statements.bound_alone(data, link)
            elif data[0] == PARSE:
                query = self._statements.parsed_alone(data, link, self.classify)
            if query is not None and query.is_plain and (query.reads_only or link.is_primary):
                self._ask_quickly(link, query, data)
                return
        self.quick = None
        try:
            if not (self._is_at_rest() and self._pass_whole(data)):
                self.intake.feed(data)
                if self._out:
                    self._flush()
        except (ProtocolError, ValueError) as error:
            self._end_with(error)

    def _is_at_rest(self) -> bool:
        is_between = self.limbo is None and self.open is None and self.copying is None
        return is_between and self.intake.is_empty and not self._held.frames

    def rest(self, link: Link) -> None:
        """A batch was answered, and nothing else is due: the next one may have it easier."""
        if self._is_pooled or self._links.found is not None or not self._is_at_rest():
            return
        if self.mode.uses_replicas:
            is_quick = self._links.may_stay_with(link) and self.mode.lag_ms_max is None
        else:
            is_quick = link.is_primary and self._links.replica is None
        if is_quick and self._memory.pin is None:
            self.quick = link

    def _pass_whole(self, data: bytes) -> bool:
        """Pass a whole batch on to whoever is to have it, if there is nothing to wait for."""
        if len(data) <= HEADER_BYTES or data[0] not in {QUERY, BIND}:
            return False
        if data[0] == QUERY:
            is_whole = int.from_bytes(data[1:5]) == len(data) - 1
            query = self.classify(data[5:-1]) if is_whole else None
        else:
            query = self._statements.bound_alone(data, None)
        if query is None or not query.is_plain:
            return False
        link = self._link_at_once(query)
        if link is None or (data[0] == BIND and not self._statements.is_on(data, link)):
            return False
        self.active = link
        self._ask_quickly(link, query, data)
        return True

    def _ask_quickly(self, link: Link, query: Query, data: bytes) -> None:
        """Send a whole batch of which there is nothing to remember."""
        batch = Batch(data, query.is_rerunnable, query.reads_only, data[0] == QUERY)
        if not link.is_primary:
            self._ask_replica(link, batch)
        link.batches.append(batch)
        link.wire.write(data)

    def _link_at_once(self, query: Query) -> Link | None:
        """Return the link for a batch if there is nothing to wait for, and nothing to tell it."""
        active = self.active
        if active is not None and active.is_busy:
            return active if active.is_primary or not active.batches else None
        links = self._links
        if query.reads_only and self.mode.uses_replicas and self._memory.pin is None:
            return links.replica_at_once(self.mode)
        link = links.primary
        if link is None or links.found is not None or link.applied != self._memory.script:
            return None
        return link

    def _ask_replica(self, link: Link, batch: Batch) -> None:
        self._counts.reads_on_replicas += 1
        if link.status == IDLE and batch.is_rerunnable:
            batch.hold_back()

    def _end_with(self, error: Exception) -> None:
        """The client has broken the protocol."""
        sqlstate = getattr(error, "sqlstate", ProtocolError.sqlstate)
        text = str(error) if isinstance(error, ProtocolError) else "a message is malformed"
        self._session.farewell(error_frame(sqlstate, text, severity="FATAL"))

    def go_on(self, before: bytes = b"") -> None:
        """Take up again what waits; `before` was taken once already, and comes first."""
        self.quick = None
        try:
            self.intake.go_on(before)
            if self._out:
                self._flush()
        except (ProtocolError, ValueError) as error:
            self._end_with(error)
        self._finish_input()

    def _take(self, kind: int, frame: bytes) -> bool:
        """Take a frame; False: something has to come first."""
        if self.limbo is not None:
            self._in_limbo(self.limbo, kind, frame)
            return True
        take = self._takers.get(kind)
        if take is not None:
            return take(frame)
        if kind not in _EXTENDED:
            raise ProtocolError(f"a client sends no message of kind 0x{kind:02X} here")
        return self._extended(kind, frame)

    def _terminate(self, frame: bytes) -> bool:
        """End: at once, or when the server has come to it, behind what it was asked before."""
        self.quick = None
        if self.active is not None and self.active.batches:
            # A COPY would take the goodbye for data; nothing else looks at a COPY that fails.
            self._out += [COPY_FAIL_FRAME, frame]
            self._session.is_terminating = True
        else:
            self._session.finish()
        return True

    def _simple(self, frame: bytes) -> bool:
        text = frame[5:-1]
        query = self.classify(text)
        is_alone = self.open is None and not self._held.frames
        link = self._link(reads_only=query.reads_only and is_alone, hint=query.mode)
        if link is None:
            return False
        if is_alone:
            batch = Batch(
                frame,
                is_rerunnable=query.is_rerunnable,
                is_read=query.reads_only,
                is_simple=True,
            )
            self._begin(link, batch)
        else:  # instead of a Sync: rare, but allowed
            batch = self.open or self._open_batch(link)
            self.open = None
            batch.is_rerunnable, batch.is_read, batch.is_simple = False, False, True
        if not query.is_plain:
            frame = self._remember(batch, query, frame, text)
        self._out.append(frame)
        return True

    def _remember(self, batch: Batch, query: Query, frame: bytes, text: bytes) -> bytes:
        """Note what the session will have to know; return the frame to send."""
        batch.execute(query, parts_of(query, text))
        self._note(batch, query)
        wanted = self._translate(text, query)
        return frame if wanted is text else query_frame(wanted)

    def _note(self, batch: Batch, query: Query) -> None:
        batch.is_commit |= any(one.transaction in _COMMITS for one in query.statements)
        if len(query.statements) == 1 and query.statements[0].kind in _STATELESS_KINDS:
            batch.is_rerunnable = batch.is_read = True

    def _translate(self, text: bytes, query: Query) -> bytes:
        if self._is_pooled and not query.is_plain:
            text = self._statements.without_own_deallocate(text, query)
        return text if query.is_plain else translated(text, query, self.mode)

    # --- The extended protocol ------------------------------------------------------------------

    def _extended(self, kind: int, frame: bytes) -> bool:
        if self.open is None and self._is_held(kind, frame):
            return True
        batch = self.open
        if batch is None:
            link = self._link(reads_only=False)
            if link is None:
                return False
            batch = self._open_batch(link)
        self._emit(batch, kind, frame)
        return True

    def _is_held(self, kind: int, frame: bytes) -> bool:
        """Keep a message until it is known where its batch goes; whether that is to be seen yet."""
        if kind == FLUSH and not self._held.frames:
            return True  # for nothing: a server has sent everything at the last Sync
        return self._may_read_elsewhere() and self._held.take(kind, frame, self.classify)

    def _may_read_elsewhere(self) -> bool:
        if not self.mode.uses_replicas or self._memory.pin is not None:
            return False
        return self.active is None or not self.active.is_busy

    def _open_batch(self, link: Link) -> Batch:
        """Begin a batch of the extended protocol with what was held of it."""
        batch = Batch(b"", is_rerunnable=True, is_read=True, is_simple=False)
        held = self._held.release()
        self._begin(link, batch)
        self.open = batch
        for frame in held:
            self._emit(batch, frame[0], frame)
        return batch

    def _emit(self, batch: Batch, kind: int, frame: bytes) -> None:
        """Send a message of the batch that is open."""
        link = self.active
        assert link is not None, "a batch that is open has a link"
        self._keep_for_another_time(batch, frame)
        statements = self._statements
        if kind == BIND:
            batch.has_bound = True
            frame = statements.bind(frame, link, batch)
        elif kind == EXECUTE:
            self._execute(batch, frame)
        elif kind == DESCRIBE:
            frame = statements.describe(frame, link, batch)
        elif kind == PARSE:
            name, at = first_name(frame, 5)
            if statements.is_full_for(name):
                raise ProtocolError("this session has too many prepared statements: close some")
            query = self.classify(first_name(frame, at)[0])
            frame = statements.parse(frame, link, batch, query, self._translate)
        elif kind == CLOSE:
            frame = statements.close(frame, batch)
        self._out.append(frame)

    def _keep_for_another_time(self, batch: Batch, frame: bytes) -> None:
        if not batch.is_rerunnable:
            return
        if len(batch.frames) + len(frame) > self._limits.batch_bytes:
            batch.is_rerunnable, batch.frames = False, b""
        else:
            batch.frames += frame

    def _execute(self, batch: Batch, frame: bytes) -> None:
        prepared = self._statements.portals.get(first_name(frame, 5)[0])
        if prepared is None:
            batch.is_rerunnable = batch.is_read = False
            return
        query = prepared.query
        batch.is_rerunnable &= query.is_rerunnable
        batch.is_read &= query.reads_only
        if not query.is_plain:
            is_only = batch.is_rerunnable and not batch.executed
            batch.execute(query, parts_of(query, prepared.text))
            self._note(batch, query)
            batch.is_rerunnable &= is_only
        elif batch.is_watched:
            batch.execute(query, parts_of(query, prepared.text))

    def _sync(self, frame: bytes) -> bool:
        if self.copying is not None:
            self._out.append(frame)  # the server ignores it
            return True
        batch = self.open
        if batch is None:
            link = self._link(reads_only=self._held.is_read)
            if link is None:
                return False
            batch = self._open_batch(link)
        self._keep_for_another_time(batch, frame)
        self._out.append(frame)
        self.open = None
        return True

    def _call_function(self, frame: bytes) -> bool:
        link = self._link(reads_only=False)
        if link is not None:
            self._begin(link, Batch(b"", is_rerunnable=False, is_read=False, is_simple=True))
            self._out.append(frame)
        return link is not None

    # --- COPY -----------------------------------------------------------------------------------

    def copy_began(self, link: Link, batch: Batch) -> None:
        """Hear that the server takes COPY data, up to the first end that was or will be said.

        What it reads before that end counts for nothing, a Sync neither.
        """
        batch.is_rerunnable = False
        while not batch.has_copy_end and len(link.batches) > 1:
            skipped = link.batches[1]
            del link.batches[1]
            batch.has_copy_end = skipped.has_copy_end
            if self.open is skipped:
                self.open = batch
        if not batch.has_copy_end:
            self.open = None
            self.copying = link

    def _copy_data(self, data: bytes) -> None:
        if self._out:
            self._flush()
        link = self.active
        if link is not None and link.batches:  # else nobody wants it, and a server would drop it
            link.wire.write(data)

    def _end_copy(self, frame: bytes) -> bool:
        link = self.active
        if link is not None and link.batches:
            self._out.append(frame)
            link.batches[-1].has_copy_end = True
            if self.copying is not None and not link.batches[0].is_simple:
                self.open = link.batches[0]  # and this Sync counts
        self.copying = None
        return True

    def end_of_input(self) -> None:
        """Hear that the client says no more; what it has said is done before it is let go."""
        self._is_input_over = True
        self._finish_input()

    def _finish_input(self) -> None:
        if self._is_input_over and not self.intake.is_stopped and not self.intake.is_ended:
            if self.intake.has_part:
                self._session.finish()
            else:
                self.feed(TERMINATE_FRAME)

    # --- Where it goes --------------------------------------------------------------------------

    def _link(self, *, reads_only: bool, hint: ReadMode | None = None) -> Link | None:
        """Return the link for the next batch, or the one that is open; None: wait."""
        active = self.active
        if active is not None and active.is_busy:
            if active.is_primary or (active.status != IDLE and not active.batches):
                return active
            return active if self.open is not None else None
        mode = hint or self.mode
        if mode.uses_replicas and reads_only and self._memory.pin is None:
            return self._links.for_reading(mode)
        return self._links.primary_now()

    def _begin(self, link: Link, batch: Batch) -> None:
        if self._out:
            self._flush()
        self.active = link
        if not link.is_primary:
            self._ask_replica(link, batch)
        link.batches.append(batch)

    def _flush(self) -> None:
        out, self._out = self._out, []
        link = self.active
        if link is not None:
            link.wire.write(out[0] if len(out) == 1 else b"".join(out))

    @property
    def is_resting(self) -> bool:
        """Whether the client is between two batches, and outside a transaction."""
        is_busy = self.active is not None and self.active.is_busy
        return not is_busy and not self._held.frames and self.open is None and self.limbo is None

    def refuse(self, error: bytes) -> None:
        """Answer the batch that waits with an error: there was no link for it in time."""
        if not self.intake.is_stopped:
            return  # nobody waits for an answer
        self.limbo = Limbo(has_told=False, is_block=False, error=error)
        if self._held.release():
            self.limbo.extended(FUNCTION_CALL, None)
        self.go_on()

    def end(self) -> None:
        """Take nothing more."""
        self.intake.is_ended = True
        self.quick = None

    def drop(self) -> bool:
        """Forget the link that is gone; whether a batch was open on it."""
        was_open = self.open is not None
        self.open = self.active = self.copying = self.quick = None
        self._out.clear()
        return was_open

    # --- While there is no server ---------------------------------------------------------------

    def _in_limbo(self, limbo: Limbo, kind: int, frame: bytes) -> None:
        if kind == TERMINATE:
            self._terminate(frame)
        elif kind == QUERY:
            self._client.write(limbo.simple(self.classify(frame[5:-1])))
        elif kind == SYNC:
            self._client.write(limbo.sync())
        elif kind in _EXTENDED:
            limbo.extended(kind, self._statements.in_limbo(kind, frame, self.classify))
        if limbo.is_over:
            self.limbo = None
