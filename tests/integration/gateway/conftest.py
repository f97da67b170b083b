"""One cluster for all tests of this folder; tests of conformance run once for each target.

`target` is the primary itself, and then the gateway: what a driver gets from the one it must get
from the other.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from fixtures.gateway_world import Address, GatewayCluster, gateway_clusters
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def gateway_cluster(
    identity: Identity, server_binaries: ServerBinaries
) -> Iterator[GatewayCluster]:
    """Started at the first test that asks, and shared."""
    with gateway_clusters(identity, server_binaries) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def direct(gateway_cluster: GatewayCluster) -> Address:
    """The primary itself."""
    return gateway_cluster.direct()


@pytest.fixture(scope="module")
def gateway(gateway_cluster: GatewayCluster) -> Address:
    """The cluster's own gateway, whose settings are the defaults."""
    return gateway_cluster.gateway()


@pytest.fixture(scope="module", params=["direct", "gateway"])
def target(request: pytest.FixtureRequest, gateway_cluster: GatewayCluster) -> Address:
    """The primary itself, then the gateway."""
    return gateway_cluster.direct() if request.param == "direct" else gateway_cluster.gateway()


@pytest.fixture
def table(direct: Address) -> Iterator[str]:
    """A name of a table that no other test uses; the table goes with the test."""
    name = f"table_{next(NUMBERS)}"
    yield name
    with direct.connect() as connection:
        connection.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(name)))
