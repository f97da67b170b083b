"""What nodes are told when a proxy stands where they are known, and what they keep where.

In scope: the pure part. Out of scope: a cluster that is fitted out; see
tests/integration/faults/test_fitted_cluster.py.
"""

from pathlib import Path

import msgspec
import pytest

from bench.faults.fitting import ClusterFile, LogPorts, elsewhere, kept_at

FILE = ClusterFile("c", "main", {"log-1": LogPorts(1, 2)}, {"storage-1": 3}, {"compute-1": 4})
TOP = Path("/top")


@pytest.mark.parametrize(
    ("name", "listen", "told"),
    [
        ("log-1", "rpc_listen", {"rpc_advertise": "tcp://127.0.0.1:1"}),
        ("log-1", "pg_listen", {"pg_advertise": "tcp://127.0.0.1:1"}),
        ("compute-1", "pg_listen", {"pg_advertise": "127.0.0.1:1"}),
        ("storage-1", "rpc_listen", {}),
    ],
)
def test_node_listens_elsewhere_and_says_where_it_is_known(
    name: str, listen: str, told: dict[str, str]
) -> None:
    found = elsewhere(name, listen, public=1, hidden=2)
    assert found == {listen: "tcp://127.0.0.1:2", **told}


def test_what_is_kept_is_data_and_a_computes_is_its_cache() -> None:
    assert kept_at(TOP, FILE, "log-1") == TOP / "nodes/log-1/data"
    assert kept_at(TOP, FILE, "storage-1") == TOP / "nodes/storage-1/data"
    assert kept_at(TOP, FILE, "compute-1") == TOP / "nodes/compute-1/run"
    elsewhere_run = msgspec.structs.replace(FILE, run_root="/r")
    assert kept_at(TOP, elsewhere_run, "compute-1") == Path("/r/compute-1")
