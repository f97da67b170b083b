"""What one worker knows of itself, as tables: for the admin database and for Prometheus.

Everything is read when somebody asks, from what is in memory anyway; nothing is counted twice.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from .worker import Worker

ROWS_MAX: Final = 20_000  # of a table of one worker: twice the clients of a gateway

Cell: TypeAlias = str | int | None
Rows: TypeAlias = Iterable[Sequence[Cell]]

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "pools": ("database", "user", "server", "idle", "active", "opening", "waiting"),
    "clients": ("user", "database", "application", "pid", "state", "server", "age_s"),
    "servers": ("user", "database", "server", "role", "pid", "state", "statements"),
    "topology": ("name", "role", "host", "port", "epoch", "replayed"),
    "limits": ("limit", "value"),
    "stats": ("figure", "value"),
    "version": ("version",),
    "help": ("command",),
}
# What every worker would answer alike.
COMMON: Final = frozenset({"limits", "version", "help"})


class Tables:
    """The tables of one worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._rows: Mapping[str, Callable[[], Rows]] = {
            "pools": self._pools,
            "clients": self._clients,
            "servers": self._servers,
            "topology": self._topology,
            "limits": self._limits,
            "stats": self._stats,
            "version": lambda: [("seawall gateway 0.1.0",)],
            "help": lambda: [(f"SHOW {name.upper()}",) for name in COLUMNS],
        }

    def rows(self, name: str) -> list[Sequence[Cell]]:
        """Return a table as it is now; KeyError: there is none of that name."""
        return list(islice(self._rows[name](), ROWS_MAX))

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
            *((one.name, getattr(worker.counts, one.name))
              for one in dataclasses.fields(worker.counts)),
        ]  # fmt: skip
