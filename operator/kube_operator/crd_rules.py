"""The rules of the CRD that look at two fields at once, or at what there was before, in CEL.

The API server evaluates them when an object is written, so whoever writes it is told at once. Each
message names the field and says what to do; `{path}` in it is the place of the type in the object.

CEL has a budget: the API server refuses a CRD whose rules could cost too much for the largest
object that the schema allows: 10 million for a rule, 100 million for all. These are at 4 and 30 in
Kubernetes 1.30, which counts the most. Hence numbers in messages are chosen among literals: how
long `string(number)` may become, CEL does not know.

A rule with `oldSelf` is about a change, and not asked of a new object.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlnode.postgres_settings import FIXED_NAMES

from . import spec

# Of postgresql.conf, besides those that every server has fixed: how a compute finds its files, its
# WAL and its certificates. wal_level is fixed, too, but has two values that users may choose from.
OWN_SETTINGS: Final = tuple(
    sorted(
        FIXED_NAMES - {"wal_level"}
        | {
            "config_file",
            "data_directory",
            "external_pid_file",
            "include",
            "include_dir",
            "include_if_exists",
            "primary_conninfo",
            "primary_slot_name",
            "recovery_target",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_timeline",
            "recovery_target_xid",
            "restore_command",
            "ssl",
            "ssl_ca_file",
            "ssl_cert_file",
            "ssl_key_file",
            "synchronous_standby_names",
        }
    )
)
CONNECTIONS_DEFAULT: Final = 100  # PostgreSQL's max_connections
CONNECTIONS_KEPT: Final = 10  # for superusers, the gateways' own connections, and the agent
LOG_NODE_COUNTS: Final = (1, 3, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a type."""

    rule: str
    message: str
    expression: str = ""
    """CEL that makes a message with the values in it; `message` stands in where it fails."""
    field: str = ""
    """The field of the type that is at fault, as `.count`."""
    forbidden: bool = False
    """Whether the value as such is well-formed, and only the change is refused."""

    def as_json(self, path: str) -> dict[str, str]:
        """Return it as an entry of x-kubernetes-validations."""
        texts = {
            "rule": self.rule,
            "message": self.message.replace("{path}", path),
            "messageExpression": self.expression.replace("{path}", path),
            "fieldPath": self.field,
            "reason": "FieldValueForbidden" if self.forbidden else "",
        }
        return {name: text for name, text in texts.items() if text}


def _names(names: Iterable[str]) -> str:
    return "[" + ", ".join(f"'{name}'" for name in names) + "]"


def _number(field: str, choices: Iterable[int]) -> str:
    """CEL for one of a few numbers as text."""
    known = "".join(f"{field} == {number} ? '{number}' : " for number in choices)
    return f"({known}'another')"


def _those_in(field: str, names: Iterable[str]) -> str:
    """CEL for the names that are keys of a map, with a space before each."""
    return " + ".join(f"('{name}' in {field} ? ' {name}' : '')" for name in names)


def _bytes(field: str) -> str:
    """CEL for the quantity of a size in PostgreSQL's units, whose MB is Kubernetes' Mi."""
    units = {"kB": "Ki", "MB": "Mi", "GB": "Gi", "TB": "Ti"}
    replaced = "".join(f".replace('{ours}', '{theirs}')" for ours, theirs in units.items())
    return f"quantity({field}{replaced})"


def _fits_memory(field: str, limits: str) -> str:
    return (
        f"!has(self.resources.limits) || !('memory' in self.resources.limits) || "
        f"{_bytes(field)}.isLessThan(quantity(string({limits}['memory'])))"
    )


ROOT_RULES: Final = (
    Rule(
        rule=f"self.metadata.name.size() <= {spec.NAME_CHARACTERS_MAX}",
        message=f"metadata.name has more than {spec.NAME_CHARACTERS_MAX} characters: choose a "
        "shorter one, because names of pods and services are made of it",
    ),
    Rule(
        rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message="metadata.name must be a DNS label, because services are named after it: lower "
        "case letters, digits and '-', a letter first and no '-' at the end",
    ),
)

_MAJORS = range(spec.MAJOR_MIN, spec.MAJOR_MAX + 1)
_VERSION = Rule(
    rule="self.version == oldSelf.version",
    field=".version",
    forbidden=True,
    message="spec.version cannot change in place: make a new cluster and bring the data over, by "
    "pg_dump or logical replication",
    expression="'spec.version cannot ' + (self.version < oldSelf.version ? 'go down' : 'change') + "
    f"' from ' + {_number('oldSelf.version', _MAJORS)} + ' to ' + "
    f"{_number('self.version', _MAJORS)} + ' in place: make a new cluster and bring the data "
    "over, by pg_dump or logical replication'",
)
_OBJECT_STORE = Rule(
    rule="!has(oldSelf.objectStore) || "
    "(has(self.objectStore) && self.objectStore.url == oldSelf.objectStore.url)",
    field=".objectStore",
    forbidden=True,
    message="spec.objectStore.url cannot change, nor go away, once it is set: the cluster's WAL "
    "and snapshots are there; put it back",
)
_SETTINGS_NAMES = Rule(
    rule="!has(self.settings) || self.settings.all(name, "
    "name.matches('^[a-z_][a-z0-9_]*([.][a-z_][a-z0-9_$]*)*$'))",
    field=".settings",
    message="spec.settings has a name that is none of a setting: write it in lower case, as in "
    "work_mem",
)
_SETTINGS_OWN = Rule(
    rule=f"!has(self.settings) || {_names(OWN_SETTINGS)}.all(name, !(name in self.settings))",
    field=".settings",
    message="spec.settings has what is Seawall's own: remove it",
    expression=f"'spec.settings has what is Seawall\\'s own; remove:' + "
    f"{_those_in('self.settings', OWN_SETTINGS)}",
)
_SETTINGS_BUFFERS = Rule(
    rule="!has(self.settings) || !('shared_buffers' in self.settings)",
    field=".settings",
    message="spec.settings.shared_buffers: use spec.compute.sharedBuffers instead",
)
_SETTINGS_WAL_LEVEL = Rule(
    rule="!has(self.settings) || !('wal_level' in self.settings) || "
    "self.settings['wal_level'] in ['replica', 'logical']",
    field=".settings",
    message="spec.settings.wal_level must be replica or logical: a replica needs no less",
)
_SETTINGS_CONNECTIONS = Rule(
    rule="!has(self.settings) || !('max_connections' in self.settings) || "
    "self.settings['max_connections'].matches('^[1-9][0-9]{0,5}$')",
    field=".settings",
    message="spec.settings.max_connections must be a number in quotes, as in '200'",
)
_GATEWAY_CONNECTIONS = Rule(
    # While gateways are replaced there is one more of them: see manifests/gateway.py.
    rule="self.gateway.replicas == 0 || "
    "(self.gateway.replicas + 1) * self.gateway.serverConnectionsMax <= "
    "(has(self.settings) && 'max_connections' in self.settings && "
    "self.settings['max_connections'].matches('^[1-9][0-9]{0,5}$') "
    f"? int(self.settings['max_connections']) : {CONNECTIONS_DEFAULT}) - {CONNECTIONS_KEPT}",
    field=".gateway",
    message="spec.gateway: replicas and one more, which there is while they are replaced, times "
    f"serverConnectionsMax is above max_connections less {CONNECTIONS_KEPT}, which superusers and "
    "Seawall itself need: lower serverConnectionsMax, or raise spec.settings.max_connections, "
    f"which is {CONNECTIONS_DEFAULT} unless it is set",
)

_LOG_COUNT = Rule(
    rule=f"self.count in {list(LOG_NODE_COUNTS)}",
    field=".count",
    message="{path}.count must be 1, 3 or 5: an even number survives no more than the odd one "
    "below it",
)
_LOG_COUNT_GROWS = Rule(
    rule="self.count >= oldSelf.count",
    field=".count",
    forbidden=True,
    message="{path}.count cannot go down: set it back",
    expression="'{path}.count cannot go down from ' + "
    f"{_number('oldSelf.count', LOG_NODE_COUNTS)} + ' to ' + "
    f"{_number('self.count', LOG_NODE_COUNTS)} + ': set it back'",
)
_VOLUME_GROWS = Rule(
    rule="!quantity(string(self.size)).isLessThan(quantity(string(oldSelf.size)))",
    field=".size",
    forbidden=True,
    message="{path}.size cannot shrink: set it back, or make a new cluster",
    expression="'{path}.size cannot shrink from ' + string(oldSelf.size) + ' to ' + "
    "string(self.size) + ': set it back'",
)
_VOLUME_CLASS = Rule(
    rule="has(self.storageClassName) == has(oldSelf.storageClassName) && "
    "(!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    forbidden=True,
    message="{path}.storageClassName cannot change: the volumes that there are have their class; "
    "put it back",
)
_VOLUME_SIZE = Rule(
    rule="!quantity(string(self.size)).isLessThan(quantity('1Gi'))",
    field=".size",
    message="{path}.size is below 1Gi: give it a unit, as in 10Gi",
)
_KNOWN = (
    "name in ['cpu', 'memory', 'ephemeral-storage'] || "
    "name.startsWith('hugepages-') || name.contains('/')"
)
_RESOURCES_NAMES = Rule(
    rule=f"(!has(self.requests) || self.requests.all(name, {_KNOWN})) && "
    f"(!has(self.limits) || self.limits.all(name, {_KNOWN}))",
    message="{path} has a resource that Kubernetes does not know: there are cpu, memory, "
    "ephemeral-storage, hugepages-<size>, and those of devices, as in example.com/device",
)
_RESOURCES_ORDER = Rule(
    # Of these three alone: Kubernetes 1.30 takes each quantity for a text of 3 MB.
    rule="!has(self.requests) || !has(self.limits) || ['cpu', 'memory', 'ephemeral-storage'].all("
    "name, !(name in self.requests) || !(name in self.limits) || "
    "!quantity(string(self.limits[name])).isLessThan(quantity(string(self.requests[name]))))",
    message="{path}: a request is above its limit: lower the request or raise the limit",
)
_RESOURCES_MEMORY = Rule(
    rule="[has(self.requests) && 'memory' in self.requests ? string(self.requests['memory']) : "
    "'1Gi', has(self.limits) && 'memory' in self.limits ? string(self.limits['memory']) : "
    "'1Gi'].all(memory, !quantity(memory).isLessThan(quantity('32Mi')))",
    message="{path}: memory is below 32Mi, with which nothing starts: give it a unit, as in 1Gi",
)
_CACHE = Rule(
    rule="!quantity(string(self.cacheSize)).isLessThan(quantity('64Mi'))",
    field=".cacheSize",
    message="{path}.cacheSize is below 64Mi: give it a unit, as in 10Gi",
)
_CACHE_FITS = Rule(
    rule="!has(self.resources.limits) || !('ephemeral-storage' in self.resources.limits) || "
    "quantity(string(self.cacheSize))"
    ".isLessThan(quantity(string(self.resources.limits['ephemeral-storage'])))",
    field=".cacheSize",
    message="{path}.cacheSize must be below resources.limits.ephemeral-storage, which counts "
    "more than the cache: a pod above its limit is evicted",
)
_BUFFERS_FIT = Rule(
    rule=_fits_memory("self.sharedBuffers", "self.resources.limits"),
    field=".sharedBuffers",
    message="{path}.sharedBuffers must be below {path}.resources.limits.memory: a quarter of it is "
    "a good start",
)
_ENGINE_BUFFERS_FIT = Rule(
    rule=_fits_memory("self.engineSharedBuffers", "self.resources.limits"),
    field=".engineSharedBuffers",
    message="{path}.engineSharedBuffers must be below {path}.resources.limits.memory: an eighth of "
    "it is a good start",
)
_ENDPOINT = Rule(
    rule="!has(self.endpoint) || self.endpoint.startsWith('https://') || "
    "(self.allowHttp && self.endpoint.startsWith('http://'))",
    field=".endpoint",
    message="{path}.endpoint must begin with https://, or with http:// if {path}.allowHttp is true",
)
_TOPOLOGY_KEY = Rule(
    rule="self.topologyKey != ''",
    field=".topologyKey",
    message="{path}.topologyKey is empty: name a label of Kubernetes nodes, as in "
    "topology.kubernetes.io/zone, or leave it out",
)

TYPE_RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    spec.ClusterSpec.__name__: (
        _VERSION,
        _OBJECT_STORE,
        _SETTINGS_NAMES,
        _SETTINGS_OWN,
        _SETTINGS_BUFFERS,
        _SETTINGS_WAL_LEVEL,
        _SETTINGS_CONNECTIONS,
        _GATEWAY_CONNECTIONS,
    ),
    spec.LogNodes.__name__: (_LOG_COUNT, _LOG_COUNT_GROWS),
    spec.Volume.__name__: (_VOLUME_SIZE, _VOLUME_GROWS, _VOLUME_CLASS),
    spec.Resources.__name__: (_RESOURCES_NAMES, _RESOURCES_ORDER, _RESOURCES_MEMORY),
    spec.Compute.__name__: (_CACHE, _CACHE_FITS, _BUFFERS_FIT),
    spec.StorageNodes.__name__: (_ENGINE_BUFFERS_FIT,),
    spec.ObjectStore.__name__: (_ENDPOINT,),
    spec.Scheduling.__name__: (_TOPOLOGY_KEY,),
}
