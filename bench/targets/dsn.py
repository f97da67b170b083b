"""A server somewhere else, by a libpq connection string: it is measured, and never hurt.

SEAWALL_BENCH_DSN names it, as a URL or as `host=... port=...`; without it libpq's own variables do
(PGHOST, PGSERVICE and so on). The password comes from PGPASSWORD, a password file or a service
file, and never from the string: that stands in process lists and in logs.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .sessions import takes_writes, wait_until_nothing_is_missing
from .target import Address, Blow, TargetError

VARIABLE: Final = "SEAWALL_BENCH_DSN"
CONNECT_SECONDS: Final = 10
SHOWN: Final = ("server_version", "shared_buffers", "max_connections", "fsync", "autovacuum")


@dataclass(frozen=True, slots=True, kw_only=True)
class DsnTarget:
    """A server that runs already."""

    description: str
    facts: Mapping[str, object]
    front: Address
    name: str = "dsn"

    @property
    def direct(self) -> Address:
        """There is one way to it."""
        return self.front

    @property
    def readers(self) -> Sequence[Address]:
        """None that are known."""
        return ()

    @property
    def pids(self) -> Sequence[int]:
        """They are somewhere else."""
        return ()

    @property
    def blows(self) -> frozenset[Blow]:
        """Nobody's server is hurt."""
        return frozenset()

    def strike(self, blow: Blow) -> None:
        """Refuse."""
        raise TargetError(f"a server that a DSN names is not hurt by {blow}: leave this part out")

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Until it takes writes."""
        wait_until_nothing_is_missing(
            self.name, lambda: takes_writes(self.front), deadline_seconds=deadline_seconds
        )


@contextmanager
def dsn_target(conninfo: str | None = None) -> Iterator[DsnTarget]:
    """Return the server of a connection string, or of the environment."""
    address, shown = _looked_up(os.environ.get(VARIABLE, "") if conninfo is None else conninfo)
    target = DsnTarget(
        description=f"PostgreSQL {shown['server_version']} at {address.host}:{address.port},"
        f" shared_buffers {shown['shared_buffers']}",
        facts={"postgres": shown["server_version"], "settings": shown},
        front=address,
    )
    target.wait_whole()
    yield target


def _looked_up(conninfo: str) -> tuple[Address, dict[str, str]]:
    """Connect once: libpq knows best what a string, variables and files mean together."""
    try:
        if conninfo_to_dict(conninfo).get("password"):
            raise TargetError(
                "the connection string has a password: put it into PGPASSWORD or a password file"
            )
        with psycopg.connect(conninfo, connect_timeout=CONNECT_SECONDS) as connection:
            info = connection.info
            shown = {name: _shown(connection, name) for name in SHOWN}
            address = Address(
                host=info.host,
                port=info.port,
                user=info.user,
                database=info.dbname,
                password=info.password,
            )
    except psycopg.Error as error:
        raise TargetError(
            f"no server is reached; name it in {VARIABLE} or by PGHOST and so on: "
            f"{str(error).strip()}"
        ) from error
    if address.host.startswith("/"):
        raise TargetError(
            f"the server is reached by the socket {address.host}: name a host, because all"
            " targets are compared over TCP"
        )
    return address, shown


def _shown(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute(f"show {name}".encode()).fetchone()
    assert row is not None, "every setting has a value"
    return str(row[0])
