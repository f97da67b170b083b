"""More computes than there are: the order, without the time that it takes to load the rest of us.

Whoever types `seawall scale` waits for the new compute, and half a second of loading before the
order would be half of that time. What is done about the order is the supervisor's.
"""

import os
import signal
from collections.abc import Mapping

from msgspec.structs import replace

from .cluster_file import COMPUTES_MAX, ClusterError, load, require_owner, save
from .layout import Layout
from .ports import PORT_MAX, POSTGRES_PORT, choose_ports, claim, ephemeral_min
from .processes import Running, find_running


def order_more(layout: Layout, computes: int) -> bool:
    """Order so many computes; False, and nothing is done, if some have to leave for that."""
    require_owner(layout)
    require_computes(computes)
    cluster = load(layout)
    supervisor = require_supervisor(layout)
    try:
        if cluster.compute_names()[computes:]:
            return False
        wanted = with_computes(cluster.computes, computes)
        save(layout, replace(cluster, computes=wanted, computes_wanted=computes))
        supervisor.send(signal.SIGHUP)
    finally:
        os.close(supervisor.pidfd)
    return True


def require_supervisor(layout: Layout) -> Running:
    """Return the supervisor, which carries out what is wanted."""
    found = find_running(layout.lock)
    if found is None:
        raise ClusterError(f"no supervisor runs for {layout.top}: run `seawall up` first")
    return found


def require_computes(count: int) -> None:
    """Refuse a number of computes that a cluster on one machine cannot have."""
    if not 1 <= count <= COMPUTES_MAX:
        raise ClusterError(
            f"a local cluster has 1 to {COMPUTES_MAX} computes, not {count}"
            + (": `seawall down` stops it" if count == 0 else "")
        )


def with_computes(
    computes: Mapping[str, int], wanted: int, *, first_port: int | None = None
) -> dict[str, int]:
    """Return the computes, with ports for those that are new."""
    found = dict(computes)
    missing = wanted - len(found)
    if missing <= 0:
        return found
    ports: list[int] = []
    if first_port is not None:
        ports.append(first_port)
    first = (max([*found.values(), *ports]) + 1) if found or ports else POSTGRES_PORT
    taken = {*found.values(), *ports}
    ceiling = ephemeral_min() if first < ephemeral_min() else PORT_MAX + 1
    ports += choose_ports(
        missing - len(ports), first=first, ceiling=ceiling, taken=taken, is_free=claim
    )
    for port in ports:
        found[f"compute-{len(found) + 1}"] = port
    return found
