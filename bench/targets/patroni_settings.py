"""What Patroni and the HAProxy before it are told, as they ship and as tight as they go. Pure.

In both, a commit waits for a synchronous standby, and waits for ever rather than for nobody
(`synchronous_mode_strict`): so no acknowledged commit is lost when a primary dies, which is what
our log promises and what `stock-sync` does. Patroni itself makes this an option.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .even import HOST, LOCALE, USER
from .haproxy import Checks

SCOPE: Final = "bench"
REPLICATION_USER: Final = "replicator"
MAXIMUM_LAG_BYTES: Final = 1 << 20  # of Patroni's example: who lags more is not promoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast a failure is noticed. The defaults are Patroni's own."""

    ttl: int = 30
    loop_wait: int = 10
    retry_timeout: int = 10
    primary_start_timeout: int = 300
    parameters: tuple[tuple[str, str], ...] = ()  # of PostgreSQL, besides those of all
    checks: Checks = Checks()  # noqa: RUF009  # frozen, and so may be shared

    def words(self) -> str:
        """For the report."""
        return (
            f"ttl {self.ttl}, loop_wait {self.loop_wait}, retry_timeout {self.retry_timeout},"
            f" primary_start_timeout {self.primary_start_timeout},"
            f" HAProxy {self.checks.server_options()}"
        )


DEFAULT: Final = Pace()

TIGHTEST: Final = Pace(
    # Debian's 3.0.2 takes any whole numbers (its validator asks for `int` and nothing more), under
    # the rule of its documentation: loop_wait + 2 * retry_timeout <= ttl. A loop of 1 s is the
    # shortest; a retry_timeout of 1 s would make a leader step down whenever etcd elects its own,
    # which takes 1 s and more. Later versions refuse a ttl below 20 and a retry_timeout below 3:
    # this is more than they give.
    ttl=5,
    loop_wait=1,
    retry_timeout=2,
    # A crashed primary is not waited for: its standbys take over at once.
    primary_start_timeout=0,
    # PostgreSQL waits for 5 s before it asks a new primary for WAL again, and a primary that waits
    # for its synchronous standby acknowledges nothing until then. Ours has the same 100 ms.
    parameters=(("wal_retrieve_retry_interval", "100ms"),),
    # Two checks in a row guard against a REST interface that is late once.
    checks=Checks(inter="500ms", fall=2, rise=1, check_timeout="1s", connect_timeout="1s"),
)


def dynamic_settings(pace: Pace, parameters: Mapping[str, str]) -> dict[str, object]:
    """Return what the members keep in etcd and share."""
    return {
        "ttl": pace.ttl,
        "loop_wait": pace.loop_wait,
        "retry_timeout": pace.retry_timeout,
        "primary_start_timeout": pace.primary_start_timeout,
        "maximum_lag_on_failover": MAXIMUM_LAG_BYTES,
        "synchronous_mode": True,
        "synchronous_mode_strict": True,
        "synchronous_node_count": 1,
        "postgresql": {
            # An old primary comes back by itself; if it cannot be rewound it is copied anew.
            "use_pg_rewind": True,
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
            "use_slots": True,
            "parameters": {**parameters, **dict(pace.parameters)},
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberPlace:
    """Where one member is."""

    name: str
    directory: Path
    port: int
    rest_port: int

    @property
    def data_dir(self) -> Path:
        """Of its postgres."""
        return self.directory / "data"


def member_text(
    member: MemberPlace,
    *,
    etcd_hosts: Sequence[str],
    bin_dir: Path,
    dynamic: Mapping[str, object],
    password: str,
    replication_password: str,
) -> str:
    """Return a member's configuration file. JSON is YAML, too."""
    rest, server = f"{HOST}:{member.rest_port}", f"{HOST}:{member.port}"
    settings = {
        "scope": SCOPE,
        "name": member.name,
        "restapi": {"listen": rest, "connect_address": rest},
        "etcd3": {"hosts": list(etcd_hosts)},
        "bootstrap": {
            "dcs": dynamic,
            "initdb": [{"encoding": "UTF8"}, {"locale": LOCALE}, "data-checksums"],
        },
        "postgresql": {
            "listen": server,
            "connect_address": server,
            "data_dir": str(member.data_dir),
            "bin_dir": str(bin_dir),
            "pgpass": str(member.directory / "pgpass"),
            "authentication": {
                "superuser": {"username": USER, "password": password},
                "replication": {"username": REPLICATION_USER, "password": replication_password},
            },
            "basebackup": [{"checkpoint": "fast"}],
            "parameters": {"unix_socket_directories": str(member.directory)},
            "pg_hba": [
                f"host all all {HOST}/32 scram-sha-256",
                f"host replication all {HOST}/32 scram-sha-256",
            ],
        },
        "watchdog": {"mode": "off"},  # hosts of production have one; here it would be this machine
    }
    return json.dumps(settings, indent=2) + "\n"
