"""HAProxy before the members of Patroni: one port that leads to whoever is the primary.

The settings are those of the example in Patroni's own documentation, which asks the REST interface
of each member whether it is the primary, and cuts the sessions of one that is no longer.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.pagefault.workspace import Workspace

from .even import HOST
from .programs import Program, find_program, write_private

PACKAGE: Final = "haproxy"
CONNECT_SECONDS: Final = 1.0
CONNECTIONS_SPARE: Final = 100  # of those that the server refuses itself, with its own words


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """How HAProxy finds out who the primary is. The defaults are the example's."""

    inter: str = "3s"
    fall: int = 3
    rise: int = 2
    check_timeout: str = "5s"
    connect_timeout: str = "4s"

    def server_options(self) -> str:
        """As the configuration has them."""
        return f"inter {self.inter} fall {self.fall} rise {self.rise}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One member."""

    name: str
    port: int
    rest_port: int


def haproxy_text(
    backends: Sequence[Backend], *, port: int, checks: Checks, connections: int
) -> str:
    """Return the configuration. Pure."""
    servers = "".join(
        f"    server {one.name} {HOST}:{one.port} check port {one.rest_port}\n" for one in backends
    )
    return f"""\
global
    maxconn {connections}

defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect {checks.connect_timeout}
    timeout server 30m
    timeout check {checks.check_timeout}

listen primary
    bind {HOST}:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server maxconn {connections} {checks.server_options()} on-marked-down shutdown-sessions
{servers}"""


def haproxy_program(
    place: Workspace, backends: Sequence[Backend], *, port: int, checks: Checks, connections: int
) -> Program:
    """Return it, not started yet."""
    program = find_program("haproxy", PACKAGE)
    directory = place.new_directory("haproxy")
    path = directory / "haproxy.cfg"
    text = haproxy_text(
        backends, port=port, checks=checks, connections=connections + CONNECTIONS_SPARE
    )
    write_private(place, path, text)
    return Program("haproxy", [program, "-db", "-f", path], directory=directory, place=place)


def listens(port: int) -> bool:
    """Whether somebody takes connections at a port of loopback."""
    try:
        socket.create_connection((HOST, port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
