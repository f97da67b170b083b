"""Objects that the rules of the CRD accept and refuse. tests/e2e asks a real API server about them.

Each is the `spec`, or the change of one, and the beginning of what the API server must say; "" if
it must take it. The unit tests see to it that each case passes the schema, so that it is the rule
that refuses it, and that each rule has a case that breaks it.
"""

from typing import Any, Final, NamedTuple

Json = dict[str, Any]


class Case(NamedTuple):
    """A write to the API."""

    title: str
    new: Json
    says: str
    """Part of the answer; "": it is accepted."""
    old: Json | None = None
    """What there was; None: nothing."""
    name: str = "orders"


def _memory(amount: str) -> Json:
    return {"resources": {"limits": {"memory": amount}}}


STORE: Final = {"url": "s3://bucket/one"}
VERSION: Final = {"version": 17}

CASES: Final = (
    Case("the least", VERSION, ""),
    Case("a long name", VERSION, "metadata.name has more than 40 characters", name="a" * 41),
    Case("a name with a dot", VERSION, "metadata.name must be a DNS label", name="shop.orders"),
    Case("a name with a digit first", VERSION, "metadata.name must be a DNS label", name="9lives"),
    Case(
        "an upgrade", {"version": 17}, "spec.version cannot change from 16 to 17", {"version": 16}
    ),
    Case(
        "a downgrade", {"version": 16}, "spec.version cannot go down from 17 to 16", {"version": 17}
    ),
    Case("an object store later", {**VERSION, "objectStore": STORE}, "", VERSION),
    Case(
        "another object store",
        {**VERSION, "objectStore": {"url": "s3://bucket/two"}},
        "spec.objectStore.url cannot change",
        {**VERSION, "objectStore": STORE},
    ),
    Case(
        "no object store any more",
        VERSION,
        "spec.objectStore.url cannot change",
        {**VERSION, "objectStore": STORE},
    ),
    Case(
        "another endpoint of the object store",
        {**VERSION, "objectStore": {**STORE, "endpoint": "https://minio:9000"}},
        "",
        {**VERSION, "objectStore": STORE},
    ),
    Case(
        "an endpoint in the clear",
        {**VERSION, "objectStore": {**STORE, "endpoint": "http://minio:9000"}},
        "spec.objectStore.endpoint must begin with https://",
    ),
    Case(
        "an endpoint in the clear that is allowed",
        {**VERSION, "objectStore": {**STORE, "endpoint": "http://minio:9000", "allowHttp": True}},
        "",
    ),
    Case(
        "settings of Seawall's own",
        {**VERSION, "settings": {"fsync": "on", "work_mem": "4MB", "port": "5433"}},
        "spec.settings has what is Seawall's own; remove: fsync port",
    ),
    Case(
        "a setting in capitals",
        {**VERSION, "settings": {"FSYNC": "on"}},
        "spec.settings has a name that is none of a setting",
    ),
    Case(
        "settings", {**VERSION, "settings": {"work_mem": "4MB", "auto_explain.log_wal": "on"}}, ""
    ),
    Case(
        "shared_buffers among the settings",
        {**VERSION, "settings": {"shared_buffers": "1GB"}},
        "spec.settings.shared_buffers: use spec.compute.sharedBuffers",
    ),
    Case("logical decoding", {**VERSION, "settings": {"wal_level": "logical"}}, ""),
    Case(
        "too little WAL",
        {**VERSION, "settings": {"wal_level": "minimal"}},
        "spec.settings.wal_level must be replica or logical",
    ),
    Case(
        "max_connections in words",
        {**VERSION, "settings": {"max_connections": "many"}},
        "spec.settings.max_connections must be a number",
    ),
    Case(
        "more connections than PostgreSQL has",
        {**VERSION, "gateway": {"replicas": 3}},
        "spec.gateway: replicas and one more",
    ),
    Case(
        "the same with a larger PostgreSQL",
        {**VERSION, "gateway": {"replicas": 3}, "settings": {"max_connections": "130"}},
        "",
    ),
    Case(
        "as many as there is room for, but for the one more of a rollout",
        {**VERSION, "gateway": {"replicas": 2, "serverConnectionsMax": 45}},
        "spec.gateway: replicas and one more",
    ),
    Case("no gateway", {**VERSION, "gateway": {"replicas": 0, "serverConnectionsMax": 99}}, ""),
    Case(
        "an even number of log nodes",
        {**VERSION, "logNodes": {"count": 2}},
        "spec.logNodes.count must be 1, 3 or 5",
    ),
    Case(
        "more log nodes",
        {**VERSION, "logNodes": {"count": 5}},
        "",
        {**VERSION, "logNodes": {"count": 3}},
    ),
    Case(
        "fewer log nodes",
        {**VERSION, "logNodes": {"count": 1}},
        "spec.logNodes.count cannot go down from 3 to 1",
        VERSION,
    ),
    Case("fewer storage nodes", {**VERSION, "storageNodes": {"count": 1}}, "", VERSION),
    Case(
        "a volume that shrinks",
        {**VERSION, "storageNodes": {"volume": {"size": "9Gi"}}},
        "spec.storageNodes.volume.size cannot shrink from 10Gi to 9Gi",
        VERSION,
    ),
    Case("a volume that grows", {**VERSION, "logNodes": {"volume": {"size": "11G"}}}, "", VERSION),
    Case(
        "a volume without a unit",
        {**VERSION, "logNodes": {"volume": {"size": 10}}},
        "spec.logNodes.volume.size is below 1Gi",
    ),
    Case(
        "another class of volumes",
        {**VERSION, "logNodes": {"volume": {"storageClassName": "fast"}}},
        "spec.logNodes.volume.storageClassName cannot change",
        VERSION,
    ),
    Case(
        "a resource that there is not",
        {**VERSION, "logNodes": {"resources": {"limits": {"mem": "1Gi"}}}},
        "spec.logNodes.resources has a resource that Kubernetes does not know",
    ),
    Case(
        "resources that there are",
        {**VERSION, "compute": {"resources": {"limits": {"hugepages-2Mi": "1Gi", "a.io/b": 1}}}},
        "",
    ),
    Case(
        "a request above its limit",
        {
            **VERSION,
            "compute": {
                "resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": "1500m"}}
            },
        },
        "spec.compute.resources: a request is above its limit",
    ),
    Case(
        "memory without a unit",
        {**VERSION, "gateway": {"resources": {"requests": {"memory": 512}}}},
        "spec.gateway.resources: memory is below 32Mi",
    ),
    Case(
        "a cache without a unit",
        {**VERSION, "compute": {"cacheSize": 10}},
        "spec.compute.cacheSize is below 64Mi",
    ),
    Case(
        "a cache above the limit of the disk",
        {**VERSION, "compute": {"resources": {"limits": {"ephemeral-storage": "10Gi"}}}},
        "spec.compute.cacheSize must be below resources.limits.ephemeral-storage",
    ),
    Case(
        "buffers as large as memory",
        {**VERSION, "compute": {"sharedBuffers": "1GB", **_memory("1Gi")}},
        "spec.compute.sharedBuffers must be below",
    ),
    Case(
        "buffers that fit", {**VERSION, "compute": {"sharedBuffers": "1GB", **_memory("4Gi")}}, ""
    ),
    Case(
        "buffers of the engine as large as memory",
        {**VERSION, "storageNodes": {"engineSharedBuffers": "1048576kB", **_memory("1Gi")}},
        "spec.storageNodes.engineSharedBuffers must be below",
    ),
    Case(
        "no label to spread over",
        {**VERSION, "scheduling": {"topologyKey": ""}},
        "spec.scheduling.topologyKey is empty",
    ),
)


def object_of(case: Case, spec: Json) -> Json:
    """Return a whole object."""
    return {
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "PostgresCluster",
        "metadata": {"name": case.name},
        "spec": spec,
    }
