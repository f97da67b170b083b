"""pgbouncer and pgpool-II from Debian's packages, before a server of anybody.

    with running_pgpool(place, inner=target.direct, connections=80) as proxy:
        load(proxy.front)

Both know the superuser alone, show TLS to nobody, and keep sessions, as our gateway does. How
pgbouncer is set is said in `bench/gateway/pgbouncer.py`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.faults.target import TargetError as FaultsTargetError
from bench.gateway.pgbouncer import find_pgbouncer, running_pgbouncer
from bench.pagefault.workspace import Workspace

from . import even
from .haproxy import listens
from .programs import Program, end_all_in, find_program, version_of, write_private
from .sessions import ask, takes_writes, wait_until_nothing_is_missing
from .target import Address, Blow, Target, TargetError

PGPOOL_PACKAGE: Final = "pgpool2"
READY_DEADLINE_SECONDS: Final = 30.0
LINKS_SPARE: Final = 10  # connections of a server that are nobody's of the proxy
VERIFIER: Final = "select rolpassword from pg_authid where rolname = current_user"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that runs."""

    name: str
    version: str
    front: Address
    pid: int


@contextlib.contextmanager
def pgbouncer_before(place: Workspace, inner: Address) -> Iterator[Proxy]:
    """Run a pgbouncer whose users are the inner server's superuser."""
    if inner.host != even.HOST:
        raise TargetError(f"pgbouncer stands before a server of {even.HOST} only: start one there")
    (verifier,) = ask(inner, VERIFIER)
    with contextlib.ExitStack() as ends:
        try:
            version = version_of(find_pgbouncer(os.environ.get("PATH", os.defpath)))
            way = ends.enter_context(
                running_pgbouncer(place, server_port=inner.port, verifier=verifier)
            )
        except FaultsTargetError as error:
            raise TargetError(str(error)) from error
        assert way.pid is not None, "a proxy that runs has a number"
        yield Proxy("pgbouncer", version, replace(inner, port=way.port), way.pid)


def pgpool_text(
    inner: Address,
    readers: Sequence[Address],
    *,
    port: int,
    pcp_port: int,
    directory: str,
    clients: int,
) -> str:
    """Return pgpool.conf. What is not said is as it ships. Pure."""
    settings: dict[str, object] = {
        "backend_clustering_mode": "streaming_replication",
        "listen_addresses": even.HOST,
        "port": port,
        "unix_socket_directories": directory,
        "pcp_listen_addresses": even.HOST,
        "pcp_port": pcp_port,
        "pcp_socket_dir": directory,
        "pid_file_name": f"{directory}/pgpool.pid",
        "logdir": directory,
        "enable_pool_hba": "on",
        "pool_passwd": f"{directory}/pool_passwd",
        # A process a client, each with one server connection that it keeps.
        "num_init_children": clients,
        "max_pool": 1,
        # A server that died is started again: it is waited for, and not struck off for ever.
        "failover_on_backend_error": "off",
        "load_balance_mode": "on" if readers else "off",
        "sr_check_period": 1 if readers else 0,
        "sr_check_user": inner.user,
        "sr_check_database": inner.database,
    }
    for number, one in enumerate((inner, *readers)):
        settings |= {
            f"backend_hostname{number}": one.host,
            f"backend_port{number}": one.port,
            f"backend_weight{number}": 1,
            f"backend_flag{number}": "DISALLOW_TO_FAILOVER",
        }
    return "".join(
        f"{name} = {value if isinstance(value, int) else repr(str(value))}\n"
        for name, value in settings.items()
    )


@contextlib.contextmanager
def pgpool_before(
    place: Workspace, inner: Address, *, readers: Sequence[Address] = (), clients: int
) -> Iterator[Proxy]:
    """Run a pgpool-II that logs in with the password, which is in a private file of its own.

    With readers it spreads reads over them and the primary.
    """
    program = find_program("pgpool", PGPOOL_PACKAGE)
    directory = place.new_directory("pgpool")
    port, pcp_port = even.new_ports(2)
    texts = {
        "pgpool.conf": pgpool_text(
            inner, readers, port=port, pcp_port=pcp_port, directory=str(directory), clients=clients
        ),
        "pool_hba.conf": f"host all all {even.HOST}/32 scram-sha-256\n",
        "pool_passwd": f"{inner.user}:TEXT{inner.password}\n",
        "pcp.conf": "",
    }
    for file, text in texts.items():
        write_private(place, directory / file, text)
    argv: list[str | os.PathLike[str]] = [
        program, "-n", "-f", directory / "pgpool.conf", "-a", directory / "pool_hba.conf",
        "-F", directory / "pcp.conf",
    ]  # fmt: skip
    pgpool = Program("pgpool", argv, directory=directory, place=place)
    front = replace(inner, host=even.HOST, port=port)
    try:
        pgpool.start()
        pgpool.wait_until(
            lambda: listens(port) and not takes_writes(front),
            deadline_seconds=READY_DEADLINE_SECONDS,
        )
        assert pgpool.pid is not None, "it was ready just now"
        yield Proxy("pgpool", version_of(program), front, pgpool.pid)
    finally:
        pgpool.kill()
        end_all_in([directory])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxiedTarget:
    """A target that applications reach through a proxy; all else is its own."""

    name: str
    inner: Target
    proxy: Proxy

    @property
    def description(self) -> str:
        """Both."""
        return f"{self.proxy.version} before {self.inner.description}"

    @property
    def front(self) -> Address:
        """The proxy."""
        return self.proxy.front

    @property
    def direct(self) -> Address:
        """The server."""
        return self.inner.direct

    @property
    def readers(self) -> Sequence[Address]:
        """Of the inner target."""
        return self.inner.readers

    @property
    def pids(self) -> Sequence[int]:
        """Of both."""
        return [self.proxy.pid, *self.inner.pids]

    @property
    def blows(self) -> frozenset[Blow]:
        """What hits the server."""
        return self.inner.blows

    @property
    def facts(self) -> Mapping[str, object]:
        """Of both."""
        return {**self.inner.facts, self.proxy.name: self.proxy.version}

    def strike(self, blow: Blow) -> None:
        """Hit the server."""
        self.inner.strike(blow)

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Mend the server, and wait until the proxy has noticed."""
        self.inner.wait_whole(deadline_seconds=deadline_seconds)
        wait_until_nothing_is_missing(
            self.name, lambda: takes_writes(self.front), deadline_seconds=deadline_seconds
        )
