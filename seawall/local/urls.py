"""How clients reach a local cluster. A password is in none of this, unless it is asked for."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import msgspec

from .cluster_file import ClusterFile
from .layout import Layout
from .node_files import SUPERUSER
from .ports import HOST

READ_WRITE = "read-write"
PREFER_STANDBY = "prefer-standby"
DATABASE = "postgres"


class Urls(msgspec.Struct, frozen=True):
    """For drivers: libpq's, asyncpg, and whoever knows lists of hosts."""

    primary: str
    replicas: str
    gateway: str | None = None


def urls_of(layout: Layout, cluster: ClusterFile, *, password: str | None = None) -> Urls:
    """Return URLs that name every compute, so that a driver finds the primary by itself."""
    ports = [cluster.computes[name] for name in cluster.compute_names()]
    hosts = ",".join(f"{HOST}:{port}" for port in ports)
    login = SUPERUSER if password is None else f"{SUPERUSER}:{quote(password, safe='')}"
    more = {} if password is not None else {"passfile": str(layout.pgpass)}

    def url(attributes: str) -> str:
        options = urlencode({"target_session_attrs": attributes, **more}, safe="/", quote_via=quote)
        return f"postgresql://{login}@{hosts}/{DATABASE}?{options}"

    return Urls(
        primary=url(READ_WRITE),
        replicas=url(PREFER_STANDBY),
        gateway=_gateway_url(cluster, login, more),
    )


def _gateway_url(cluster: ClusterFile, login: str, more: Mapping[str, str]) -> str | None:
    """Return one address for everything: the gateway finds the primary."""
    hosts = ",".join(f"{HOST}:{cluster.gateways[name]}" for name in cluster.gateway_names())
    if not hosts:
        return None
    options = urlencode(more, safe="/", quote_via=quote)
    return f"postgresql://{login}@{hosts}/{DATABASE}" + (f"?{options}" if options else "")


def libpq_environment(layout: Layout, cluster: ClusterFile) -> Mapping[str, str]:
    """Return the variables with which libpq's programs find the primary."""
    ports = [str(cluster.computes[name]) for name in cluster.compute_names()]
    return {
        "PGHOST": ",".join(HOST for _ in ports),
        "PGPORT": ",".join(ports),
        "PGUSER": SUPERUSER,
        "PGDATABASE": DATABASE,
        "PGPASSFILE": str(layout.pgpass),
        "PGTARGETSESSIONATTRS": READ_WRITE,
    }
