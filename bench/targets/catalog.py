"""All targets by their names.

with start("stock", place, TargetSettings(shared_buffers="256MB")) as target:
    ...

seawall-ha      seawall up --ha; what an application is given is the gateway
seawall-small   seawall up
stock           PostgreSQL with its own defaults, fsync on
stock-sync      a primary with two synchronous standbys, ANY 1; nothing fails over
patroni         three servers, etcd of three, HAProxy; as they ship, no commit is lost
patroni-tuned   the same, as tight as it goes
pgbouncer       before a stock server
pgpool          before a stock server
dsn             a server that runs already, see dsn.py
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from bench.pagefault.workspace import Workspace

from .dsn import dsn_target
from .patroni import patroni_target
from .patroni_settings import DEFAULT, TIGHTEST
from .proxies import LINKS_SPARE, ProxiedTarget, pgbouncer_before, pgpool_before
from .seawall_cluster import HA, SMALL, seawall_target
from .stock import stock_sync_target, stock_target
from .target import Target, TargetError, TargetSettings

Start = Callable[[Workspace, TargetSettings], AbstractContextManager[Target]]


@contextlib.contextmanager
def _pgbouncer(place: Workspace, settings: TargetSettings) -> Iterator[Target]:
    with (
        stock_target(place, settings) as inner,
        pgbouncer_before(place, inner.direct) as proxy,
    ):
        yield ProxiedTarget(name="pgbouncer", inner=inner, proxy=proxy)


@contextlib.contextmanager
def _pgpool(place: Workspace, settings: TargetSettings) -> Iterator[Target]:
    clients = settings.max_connections - LINKS_SPARE
    with (
        stock_target(place, settings) as inner,
        pgpool_before(place, inner.direct, clients=clients) as proxy,
    ):
        yield ProxiedTarget(name="pgpool", inner=inner, proxy=proxy)


def _dsn(_place: Workspace, _settings: TargetSettings) -> AbstractContextManager[Target]:
    return dsn_target()


_STARTS: Final[dict[str, Start]] = {
    HA: partial(seawall_target, name=HA),
    SMALL: partial(seawall_target, name=SMALL),
    "stock": stock_target,
    "stock-sync": stock_sync_target,
    "patroni": partial(patroni_target, name="patroni", pace=DEFAULT),
    "patroni-tuned": partial(patroni_target, name="patroni-tuned", pace=TIGHTEST),
    "pgbouncer": _pgbouncer,
    "pgpool": _pgpool,
    "dsn": _dsn,
}
NAMES: Final = tuple(_STARTS)


def start(name: str, place: Workspace, settings: TargetSettings) -> AbstractContextManager[Target]:
    """Return a target to be entered; TargetError if there is none of that name."""
    if name not in _STARTS:
        raise TargetError(f"there is no target {name}: choose one of {', '.join(NAMES)}")
    return _STARTS[name](place, settings)
