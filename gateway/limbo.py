"""A transaction whose server is gone, as the client sees it: failed until it is rolled back. Pure.

PostgreSQL answers everything in a failed transaction with 25P02 until ROLLBACK comes. We do the
same for a transaction that was lost, after telling once that it was (40001, so that drivers and
frameworks run it again). So the client keeps its connection, whatever protocol it speaks.
"""

from typing import Final

from .batches import (
    BIND,
    CLOSE,
    DESCRIBE,
    EXECUTE,
    FAILED,
    FLUSH,
    IDLE,
    PARSE,
)
from .classification.statements import Query, Transaction
from .wire import (
    BIND_COMPLETE_FRAME,
    CLOSE_COMPLETE_FRAME,
    NO_DATA_FRAME,
    PARSE_COMPLETE_FRAME,
    complete_frame,
    error_frame,
    ready_frame,
)

LOST: Final = "40001"  # serialization_failure: run the transaction again
LOST_MESSAGE: Final = (
    "the server of this transaction is gone, and nothing of the transaction was committed"
)
LOST_HINT: Final = "Run the transaction again from its beginning."
_ABORTED: Final = error_frame(
    "25P02", "current transaction is aborted, commands ignored until end of transaction block"
)
_ENDS: Final = frozenset({Transaction.ROLLBACK, Transaction.COMMIT})
_ANSWERS: Final = {
    PARSE: PARSE_COMPLETE_FRAME,
    BIND: BIND_COMPLETE_FRAME,
    DESCRIBE: NO_DATA_FRAME,
    CLOSE: CLOSE_COMPLETE_FRAME,
}


def lost_frame() -> bytes:
    """Return the error that says that a transaction was lost."""
    return error_frame(LOST, LOST_MESSAGE, hint=LOST_HINT)


class Limbo:
    """One lost transaction; or a batch that is answered without a server."""

    __slots__ = ("_answer", "_error", "_has_told", "_is_block", "_is_failing", "_is_over")

    def __init__(
        self,
        *,
        has_told: bool,
        is_block: bool = True,
        is_failing: bool = False,
        error: bytes | None = None,
    ) -> None:
        """`is_block`: only the client ends it; otherwise the end of its batch does.

        `is_failing`: the batch has its error already; `error`: the one to tell.
        """
        self._error = lost_frame() if error is None else error
        self._has_told = has_told
        self._is_block = is_block
        self._answer: list[bytes] = []  # of the batch that is coming in
        self._is_failing = is_failing  # until its Sync
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the client has ended the transaction, and has the whole answer to that."""
        return self._is_over and not self._answer and not self._is_failing

    def simple(self, query: Query) -> bytes:
        """Answer a simple query."""
        answer = self._run(query)
        self._is_over |= not self._is_block
        return answer + self.ready()

    def extended(self, kind: int, query: Query | None) -> None:
        """Take a message of an extended batch; `query` is what it parses, binds or executes."""
        if self._is_failing or kind == FLUSH:
            return
        if self._is_block and query is None and kind in {CLOSE, DESCRIBE}:
            self._answer.append(_ANSWERS[kind])
        elif query is None or not self._is_block or not _is_end(query):
            self._answer.append(self._refuse())
        elif kind == EXECUTE:
            self._answer.append(self._run(query))
        else:
            self._answer.append(_ANSWERS[kind])

    def sync(self) -> bytes:
        """Answer the batch."""
        answer = b"".join(self._answer)
        self._answer.clear()
        self._is_over |= not self._is_block
        return answer + self.ready()

    def refusal(self) -> bytes:
        """Answer a batch that was sent before the client knew."""
        return self._refuse() + self.ready()

    def _run(self, query: Query) -> bytes:
        if not self._is_block or not _is_end(query):
            return self._refuse()
        self._is_over = True
        if query.statements[0].transaction is Transaction.COMMIT and not self._has_told:
            self._is_failing = True
            return self._error
        return complete_frame("ROLLBACK")

    def _refuse(self) -> bytes:
        self._is_failing = True
        if self._has_told:
            return _ABORTED
        self._has_told = True
        return self._error

    def ready(self) -> bytes:
        """End an answer."""
        self._is_failing = False
        return ready_frame(IDLE if self._is_over else FAILED)


def _is_end(query: Query) -> bool:
    return len(query.statements) == 1 and query.statements[0].transaction in _ENDS
