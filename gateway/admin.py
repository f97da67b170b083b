"""The database `seawall`: what the gateway is doing, for whoever has psql and its password.

    SHOW POOLS | CLIENTS | SERVERS | TOPOLOGY | LIMITS | STATS | VERSION | HELP

Only simple queries are taken, and only SHOW: nothing can be changed here. With several workers each
answers for itself: the first column says which one that was.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from pgwire.errors import ProtocolError
from pgwire.rows import Column, Value, encode_rows

from .batches import IDLE, QUERY, SYNC, TERMINATE
from .intake import Intake
from .wire import complete_frame, error_frame, ready_frame

if TYPE_CHECKING:
    from .client import ClientConnection
    from .worker import Worker

ADMIN_DATABASE: Final = "seawall"
ADMIN_USER: Final = "seawall_admin"
STATEMENT_BYTES_MAX: Final = 10_000
ROWS_MAX: Final = 20_000

Rows = Iterable[Sequence[Value]]


class AdminSession:
    """One session of the admin database. As a session of a server it is fed, and closed."""

    def __init__(self, client: "ClientConnection", worker: "Worker") -> None:
        self._client = client
        self._worker = worker
        self._is_skipping = False  # messages of a batch that was refused
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
        """The client says no more; everything is answered at once, so nothing is left to hear."""
        return False

    def leave(self) -> None:
        """End: the gateway stops."""
        self._client.write(error_frame("57P01", "the gateway is shutting down", severity="FATAL"))
        self._client.close()

    def closed(self) -> None:
        """The client is gone."""
        self._intake.is_ended = True

    def _take(self, kind: int, frame: bytes) -> bool:
        if kind == TERMINATE:
            self._intake.is_ended = True
            self._client.close()
        elif kind == QUERY:
            self._client.write(self._answer(frame[5:-1]) + ready_frame(IDLE))
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

    def _answer(self, text: bytes) -> bytes:
        words = text.decode("utf-8", "replace").strip().rstrip(";").lower().split()
        if not words:
            return b"I\0\0\0\4"
        tables = self._tables()
        if len(words) != 2 or words[0] != "show" or words[1] not in tables:  # noqa: PLR2004  # SHOW and a name
            known = ", ".join(name.upper() for name in tables)
            return error_frame("42601", f"database {ADMIN_DATABASE} knows SHOW with {known}")
        names, rows = tables[words[1]]
        columns = [Column("worker"), *(Column(name) for name in names)]
        worker = self._worker.index
        found = [(worker, *row) for _, row in zip(range(ROWS_MAX), rows(), strict=False)]
        return encode_rows(columns, found) + complete_frame("SHOW")

    def _tables(self) -> dict[str, tuple[tuple[str, ...], Callable[[], Rows]]]:
        return {
            "pools": (
                ("database", "user", "server", "idle", "active", "opening", "waiting"),
                self._pools,
            ),
            "clients": (
                ("user", "database", "application", "pid", "state", "server", "age_s"),
                self._clients,
            ),
            "servers": (
                ("user", "database", "server", "role", "pid", "state", "statements"),
                self._servers,
            ),
            "topology": (("name", "role", "host", "port", "epoch", "replayed"), self._topology),
            "limits": (("limit", "value"), self._limits),
            "stats": (("figure", "value"), self._stats),
            "version": (("version",), lambda: [("seawall gateway 0.1.0",)]),
            "help": (("command",), lambda: [(f"SHOW {name.upper()}",) for name in self._tables()]),
        }

    def _pools(self) -> Rows:
        for pool in self._worker.pools.pools:
            key = pool.key
            yield (
                key.database, key.user, pool.replica or "primary", len(pool.idle), pool.used,
                pool.opening, len(pool.waiting),
            )  # fmt: skip

    def _clients(self) -> Rows:
        for client in self._worker.clients:
            age_s = self._worker.now_s() - client.connected_s
            yield (
                client.user, client.database, client.application, client.pid,
                *client.state(), int(age_s),
            )  # fmt: skip

    def _servers(self) -> Rows:
        for link in self._worker.pools.links:
            state = "idle" if link.owner is None else "busy" if link.is_busy else "held"
            yield (
                link.key.user, link.key.database, link.target_name,
                "primary" if link.is_primary else "replica", link.backend_pid, state,
                len(link.statements),
            )  # fmt: skip

    def _topology(self) -> Rows:
        view, positions = self._worker.pools.view, self._worker.watch.positions
        for target in (*(() if view.primary is None else (view.primary,)), *view.replicas):
            is_primary = target == view.primary
            at = positions.primary if is_primary else positions.replayed(target.name)
            yield (
                target.name, "primary" if is_primary else "replica", target.host, target.port,
                int(view.epoch), None if at is None else str(at),
            )  # fmt: skip

    def _limits(self) -> Rows:
        limits = self._worker.settings.limits
        return [(one.name, getattr(limits, one.name)) for one in dataclasses.fields(limits)]

    def _stats(self) -> Rows:
        worker = self._worker
        return [
            ("pid", os.getpid()),
            ("clients", len(worker.clients)),
            ("logins", worker.logins),
            ("links", len(worker.pools.links)),
            ("waiting", worker.pools.waiters),
            ("reads_on_replicas", worker.counts.reads_on_replicas),
            ("reads_sent_again", worker.counts.reads_sent_again),
            ("statements_sent_again", worker.counts.statements_sent_again),
            ("transactions_lost", worker.counts.transactions_lost),
            ("outcomes_unknown", worker.counts.outcomes_unknown),
        ]
