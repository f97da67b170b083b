"""What PostgreSQL is told: quoting that holds, names that are ours, limits that are said.

In scope: the text and the command line as values. Out of scope: that a real server reads them so,
see tests/integration/test_postgres_configuration.py.
"""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlnode.postgres_settings import (
    PostgresSettings,
    SettingsError,
    fixed_arguments,
    pg_hba_conf,
    postgresql_conf,
    quoted,
    require_short_socket_path,
)
from sqlnode.servers import PgVersion

RUN_DIR = Path("/run/one")
# PostgreSQL's own scanner for a quoted value, guc-file.l.
STRING_TOKEN = re.compile(r"'([^'\\\n]|\\.|'')*'")
# What it makes of the token, GUC_scanstr in guc-file.l.
ESCAPE = re.compile(r"\\([nr\\])|''")


def unquoted(token: str) -> str:
    replaced = {"\\n": "\n", "\\r": "\r", "\\\\": "\\", "''": "'"}
    return ESCAPE.sub(lambda match: replaced[match[0]], token[1:-1])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_value_is_one_token_that_means_the_value(value: str) -> None:
    token = quoted(value, "x")
    assert STRING_TOKEN.fullmatch(token)
    assert "\n" not in token
    assert unquoted(token) == value


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * (1 << 20) + "x"])
def test_value_that_cannot_be_written_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="the value of work_mem"):
        PostgresSettings(extra={"work_mem": value})


@pytest.mark.parametrize("name", ["", "a b", "fsync = on\n#", "1a", "a.", ".a", "ä", "a'b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="is not the name of a setting"):
        PostgresSettings(extra={name: "x"})


@pytest.mark.parametrize("name", ["fsync", "FSYNC", "io_method", "include", "config_file", "port"])
@pytest.mark.parametrize("where", ["extra", "extra_fixed"])
def test_settings_of_ours_are_refused(name: str, where: str) -> None:
    extra = {where: {name: "on"}}
    with pytest.raises(SettingsError, match=f"setting {name} is Seawall's own"):
        PostgresSettings(**extra)  # type: ignore[arg-type]  # the name of the field varies


def test_setting_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="setting work_mem is given twice"):
        PostgresSettings(extra={"Work_Mem": "1MB"}, extra_fixed={"work_mem": "2MB"})


def test_io_uring_is_refused() -> None:
    with pytest.raises(SettingsError, match="io_method io_uring would read data files past"):
        PostgresSettings(io_method="io_uring")


def test_settings_follow_the_version() -> None:
    settings = PostgresSettings()
    new = fixed_arguments(settings, version=PgVersion(18, 4), run_dir=RUN_DIR)
    old = fixed_arguments(settings, version=PgVersion(17, 10), run_dir=RUN_DIR)
    assert "io_method=sync" in new
    assert not any(argument.startswith("io_method") for argument in old)
    assert "recovery_prefetch = 'on'" in postgresql_conf(settings, version=PgVersion(15, 0))
    assert "recovery_prefetch" not in postgresql_conf(settings, version=PgVersion(14, 0))


def test_disk_is_a_cache() -> None:
    arguments = fixed_arguments(PostgresSettings(), version=PgVersion(18, 4), run_dir=RUN_DIR)
    assert {"fsync=off", "full_page_writes=off", "restart_after_crash=off"} <= set(arguments)


def test_extra_settings_replace_defaults() -> None:
    text = postgresql_conf(PostgresSettings(extra={"WAL_Recycle": "on"}), version=PgVersion(18, 4))
    assert re.findall("(?m)^wal_recycle = .*$", text) == ["wal_recycle = 'on'"]


def test_trust_never_reaches_tcp() -> None:
    assert "host" not in pg_hba_conf(PostgresSettings())
    text = pg_hba_conf(PostgresSettings(tcp_port=6000))
    hosts = [line.split() for line in text.splitlines() if line.startswith("host")]
    assert {tuple(host[3:]) for host in hosts} == {("127.0.0.1/32", "scram-sha-256")}


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(SettingsError, match=f"tcp_port {port} is not a port"):
        PostgresSettings(tcp_port=port)


def test_socket_path_is_at_most_107_bytes_long() -> None:
    name_bytes = len("/.s.PGSQL.5432")
    require_short_socket_path(Path("/" + "x" * (106 - name_bytes)))
    with pytest.raises(SettingsError, match="108 of at most 107 bytes"):
        require_short_socket_path(Path("/" + "x" * (107 - name_bytes)))
    with pytest.raises(SettingsError, match="too long"):
        require_short_socket_path(Path("/" + "ü" * 60))
