"""The database `seawall`: what the gateway is doing, for whoever has psql and its password.

    SHOW POOLS | CLIENTS | SERVERS | TOPOLOGY | LIMITS | STATS | VERSION | HELP

Only simple queries are taken, and only SHOW: nothing can be changed here. All workers are asked,
and the first column says whose row it is; one that does not answer is named in a warning.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from pgwire.backend import NoticeResponse
from pgwire.errors import ProtocolError
from pgwire.messages import encode
from pgwire.rows import Column, encode_rows

from .batches import IDLE, QUERY, SYNC, TERMINATE
from .intake import Intake
from .tables import COLUMNS, COMMON
from .wire import complete_frame, error_frame, ready_frame

if TYPE_CHECKING:
    from .client import ClientConnection
    from .worker import Worker

ADMIN_DATABASE: Final = "seawall"
ADMIN_USER: Final = "seawall_admin"
STATEMENT_BYTES_MAX: Final = 10_000


class AdminSession:
    """One session of the admin database. As a session of a server it is fed, and closed."""

    def __init__(self, client: "ClientConnection", worker: "Worker") -> None:
        self._client = client
        self._worker = worker
        self._is_skipping = False  # messages of a batch that was refused
        self._asking: asyncio.Task[None] | None = None
        self._answer = b""  # to the query that the intake has stopped at
        self._intake = Intake(
            client, self._take, lambda _data: None, frame_bytes_max=STATEMENT_BYTES_MAX
        )

    @staticmethod
    def parameters() -> list[tuple[str, str]]:
        """Return what psql wants to know of a server."""
        return [
            ("server_version", "15.0 (seawall gateway)"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            ("DateStyle", "ISO, MDY"),
            ("integer_datetimes", "on"),
        ]

    def feed(self, data: bytes) -> None:
        """Take bytes of the client."""
        try:
            self._intake.feed(data)
        except ProtocolError as error:
            self._client.fault(str(error))

    def end_of_input(self) -> bool:
        """The client says no more; nor does it want to hear what others are still being asked."""
        return False

    def leave(self) -> None:
        """End: the gateway stops."""
        self._client.write(error_frame("57P01", "the gateway is shutting down", severity="FATAL"))
        self._client.close()

    def closed(self) -> None:
        """The client is gone."""
        self._intake.is_ended = True
        if self._asking is not None:
            self._asking.cancel()

    def _take(self, kind: int, frame: bytes) -> bool:
        if kind == TERMINATE:
            self._intake.is_ended = True
            self._client.close()
        elif kind == QUERY:
            return self._take_query(frame[5:-1])
        elif kind == SYNC:
            self._is_skipping = False
            self._client.write(ready_frame(IDLE))
        elif kind in b"PBDECHF":
            if not self._is_skipping:
                self._is_skipping = True
                self._client.write(
                    error_frame("0A000", f"database {ADMIN_DATABASE} takes simple queries only")
                )
        else:
            raise ProtocolError(f"a client sends no message of kind 0x{kind:02X} here")
        return True

    def _take_query(self, text: bytes) -> bool:
        """Answer a query; False: it is taken again once the others have been asked."""
        if not self._answer:
            words = text.decode("utf-8", "replace").strip().rstrip(";").lower().split()
            if not words:
                self._answer = b"I\0\0\0\4"
            elif len(words) != 2 or words[0] != "show" or words[1] not in COLUMNS:  # noqa: PLR2004  # SHOW and a name
                known = ", ".join(name.upper() for name in COLUMNS)
                self._answer = error_frame(
                    "42601", f"database {ADMIN_DATABASE} knows SHOW with {known}"
                )
            else:
                self._asking = asyncio.create_task(self._ask(words[1]))
                return False
        self._client.write(self._answer + ready_frame(IDLE))
        self._answer = b""
        return True

    async def _ask(self, name: str) -> None:
        """Get the answer, and go on with what the client has sent."""
        colleagues = self._worker.colleagues
        found = await colleagues.ask(name, is_for_all=name not in COMMON)
        rows = [(worker, *row) for worker, tables in found.items() for row in tables[name]]
        columns = [Column("worker"), *(Column(column) for column in COLUMNS[name])]
        missing = [] if name in COMMON else [one for one in colleagues.indexes if one not in found]
        notices = b"".join(encode(_missing(worker)) for worker in missing)
        self._answer = notices + encode_rows(columns, rows) + complete_frame("SHOW")
        try:
            self._intake.go_on()
        except ProtocolError as error:
            self._client.fault(str(error))


def _missing(worker: int) -> NoticeResponse:
    return NoticeResponse.of("WARNING", "01000", f"worker {worker} has not answered")
