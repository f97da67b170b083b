"""What a compute's postgres is told, as text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fabric.ids import ClusterName, NodeName
from fabric.tls import TlsFiles
from sqlnode.compute.configuration import (
    auto_conf,
    compute_settings,
    ident_rules,
    parse_auto_conf,
    password_file,
    tcp_rules,
    wal_conninfo,
)
from sqlnode.compute.settings import AgentSettings, ServerTls
from sqlnode.control_file import StandbyLimits
from sqlnode.postgres_settings import PostgresSettings, pg_hba_conf, postgresql_conf
from sqlnode.servers import PgVersion

RUN_DIR = Path("/run/c1")
TLS = TlsFiles(ca_file="ca", certificate_file="crt", key_file="key")
SERVER_TLS = ServerTls(certificate_file="crt", key_file="key")
LIMITS = StandbyLimits(
    max_connections=100,
    max_worker_processes=8,
    max_wal_senders=10,
    max_prepared_transactions=0,
    max_locks_per_transaction=64,
)


def agent(**changes: object) -> AgentSettings:
    values: dict[str, object] = {
        "name": NodeName("c1"),
        "cluster": ClusterName("demo"),
        "run_dir": str(RUN_DIR),
        "pg_listen": "tcp://127.0.0.1:5433",
        "log_nodes": ("tcp://127.0.0.1:1",),
        "wal_servers": ("127.0.0.1:11", "127.0.0.1:12"),
        "storage_nodes": ("tcp://127.0.0.1:2",),
    }
    return AgentSettings(**(values | changes))  # type: ignore[arg-type]  # the test names the fields


def settings_of(
    altered: dict[str, str] | None = None, limits: StandbyLimits = LIMITS, **changes: object
) -> PostgresSettings:
    return compute_settings(agent(**changes), limits, run_dir=RUN_DIR, altered=altered or {})


def test_commits_wait_for_the_log_whatever_anybody_sets() -> None:
    settings = settings_of({"synchronous_standby_names": ""})
    assert settings.extra_fixed["synchronous_standby_names"] == "ANY 1 (seawall_log)"
    assert not settings.fsync
    assert not settings.restart_after_crash


@pytest.mark.parametrize(
    ("chosen", "altered", "limit", "expected"),
    [
        ({}, {}, 100, "100"),
        ({}, {}, 300, "300"),
        ({"max_connections": "200"}, {}, 100, "200"),
        ({"max_connections": "200"}, {"max_connections": "250"}, 100, "250"),
        ({}, {"max_connections": "50"}, 100, "100"),
        ({}, {"max_connections": "many"}, 100, "100"),
    ],
)
def test_limits_are_what_was_set_last_and_never_less_than_wal_asks_for(
    chosen: dict[str, str], altered: dict[str, str], limit: int, expected: str
) -> None:
    limits = StandbyLimits(
        max_connections=limit,
        max_worker_processes=8,
        max_wal_senders=10,
        max_prepared_transactions=0,
        max_locks_per_transaction=64,
    )
    settings = settings_of(altered, limits, settings=chosen)
    assert settings.extra_fixed["max_connections"] == expected
    assert "max_connections" not in settings.extra


def test_users_settings_come_after_ours_and_wal_level_can_be_logical() -> None:
    settings = settings_of(settings={"max_wal_size": "1GB", "wal_level": "logical"})
    assert settings.wal_level == "logical"
    assert "max_wal_size = '1GB'" in postgresql_conf(settings, version=PgVersion(18, 1))


def test_wal_comes_from_any_log_node() -> None:
    assert wal_conninfo(agent(), RUN_DIR) == (
        "host='127.0.0.1,127.0.0.1' port='11,12' user=demo.main application_name=c1 "
        "tcp_user_timeout=1000 sslmode=disable"
    )


def test_wal_is_read_with_a_certificate_and_a_password_that_no_setting_shows() -> None:
    secret = "hush"  # noqa: S105  # of nobody
    far = agent(tls=TLS, standby_password=secret, wal_servers=("10.0.0.1:11", "127.0.0.1:12"))
    conninfo = wal_conninfo(far, RUN_DIR)
    assert "sslmode=verify-ca" in conninfo
    assert "sslkey=/run/c1/compute.key" in conninfo
    assert "passfile=/run/c1/wal.pass" in conninfo
    assert secret not in conninfo
    assert password_file("a:b\\c") == "*:*:*:*:a\\:b\\\\c\n"


def test_on_loopback_a_password_is_enough_because_some_servers_know_no_tls() -> None:
    near = agent(tls=TLS, standby_password="hush")  # noqa: S106  # of this test
    assert "sslmode=disable" in wal_conninfo(near, RUN_DIR)
    assert "sslmode=verify-ca" in wal_conninfo(agent(tls=TLS), RUN_DIR)


def test_loopback_takes_passwords_and_gives_no_wal() -> None:
    hba = pg_hba_conf(settings_of())
    assert [line.split() for line in hba.splitlines()[3:]] == [
        ["host", "all", "all", "127.0.0.1/32", "scram-sha-256"],
        ["host", "all", "all", "::1/128", "scram-sha-256"],
    ]


def remote_agent() -> AgentSettings:
    return agent(
        pg_listen="tcp://10.0.0.1:5432",
        tls=TLS,
        server_tls=SERVER_TLS,
        ingest_address="tcp://10.0.0.1:5432",
    )


def test_only_certificates_of_log_nodes_open_the_door_for_wal() -> None:
    assert ident_rules(agent()) == ()
    [rule] = ident_rules(remote_agent())
    name, pattern, user = rule.split()
    assert (name, user) == ("seawall_log", "postgres")
    # PostgreSQL sees RFC 2253's form, in which the role stands behind the node.
    found = re.compile(pattern.removeprefix("/"))
    assert found.search("CN=pg-log-1,OU=log")
    for other in ("CN=pg-compute-1,OU=compute", "CN=OU=log,OU=gateway", "CN=a,OU=logs", "OU=log"):
        assert not found.search(other), other


def test_wal_goes_over_tcp_only_to_who_has_a_certificate() -> None:
    settings = remote_agent()
    rules = [rule.split() for rule in tcp_rules(settings)]
    assert {rule[0] for rule in rules} == {"hostssl"}
    replication = [rule for rule in rules if rule[1] == "replication"]
    assert all(rule[4:] == ["cert", "clientname=DN", "map=seawall_log"] for rule in replication)
    assert len(replication) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pg_listen": "tcp://10.0.0.1:5432"}, "is not loopback"),
        ({"pg_listen": "tcp://127.0.0.1:0"}, "with a port"),
        ({"ingest_address": "tcp://127.0.0.1:5432"}, "needs tls and server_tls"),
        ({"wal_servers": ("nowhere",)}, "must be host:port"),
        ({"settings": {"fsync": "on"}}, "is Seawall's own"),
        ({"settings": {"wal_level": "minimal"}}, "replica or logical"),
        ({"settings": {"no good": "on"}}, "not the name of a setting"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        agent(**changes)


def test_what_alter_system_wrote_is_read_back() -> None:
    content = (
        b"# Do not edit this file manually!\n# It will be overwritten.\n"
        b"work_mem = '7MB'\nsearch_path = 'a, ''b''\\\\c'\nmy.own = 'x=y'\nwork_mem = '8MB'\n"
    )
    found = parse_auto_conf(content)
    assert found == {"work_mem": "8MB", "search_path": "a, 'b'\\\\c", "my.own": "x=y"}
    assert parse_auto_conf(auto_conf(found)) == found


def test_where_wal_comes_from_is_not_taken_over() -> None:
    content = (
        b"primary_conninfo = 'x'\nrecovery_target_time = 'x'\nrestore_command = 'x'\na = 'b'\n"
    )
    assert parse_auto_conf(content) == {"a": "b"}
