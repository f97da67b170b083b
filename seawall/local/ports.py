"""Ports of loopback for a new cluster: chosen once, and remembered.

Ports below those that the kernel gives to outgoing connections: otherwise somebody's connection
could take the port of a node that is down.
"""

import socket
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

from .cluster_file import ClusterError

HOST: Final = "127.0.0.1"
POSTGRES_PORT: Final = 5432
GATEWAY_PORT: Final = 6432  # where people look for a pooler
INTERNAL_MIN: Final = 17_000  # of log and storage nodes
ROOM_FACTOR: Final = 10  # ports that are looked at for each that is needed
PORT_MAX: Final = 65_535

IsFree = Callable[[int], bool]

_claims: list[socket.socket] = []  # of this process, and of the supervisor that it becomes


def choose_ports(
    count: int, *, first: int, ceiling: int, taken: Collection[int], is_free: IsFree
) -> list[int]:
    """Return the first free ports from `first` on, below `ceiling`."""
    found: list[int] = []
    for port in range(first, ceiling):
        if len(found) == count:
            break
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) < count:
        raise ClusterError(
            f"{count} free ports were not found from {first} on: end what listens there"
        )
    return found


def random_first(count: int, *, ceiling: int, below: Callable[[int], int]) -> int:
    """Return where to look for ports of nodes: chance keeps clusters apart that are down now, or
    that begin at the same time and do not listen yet.
    """
    return INTERNAL_MIN + below(max(1, ceiling - INTERNAL_MIN - ROOM_FACTOR * count))


def ephemeral_min() -> int:
    """Return the lowest port that the kernel gives to outgoing connections."""
    text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii")
    return int(text.split()[0])


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of loopback, or of all addresses."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def claim(port: int) -> bool:
    """Whether a port is free, and nobody has chosen it who does not listen yet.

    A name tells others: the kernel forgets it with the last process of the cluster that was begun
    here, and keeps it apart by network namespace, as it does ports.
    """
    if not is_free(port):
        return False
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0seawall/port/{port}")
    except OSError:
        name.close()
        return False
    _claims.append(name)
    return True


def require_free(wanted: Iterator[tuple[str, int]]) -> None:
    """Refuse to start nodes whose ports somebody else has."""
    for name, port in wanted:
        if not is_free(port):
            advice = "end what listens there"
            if name.startswith("compute"):
                advice += ", or choose another with --port"
            elif name.startswith("gateway"):
                advice += ", or choose another with --gateway-port"
            raise ClusterError(f"port {port} of {name} is in use by another program: {advice}")
