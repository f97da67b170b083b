"""What a compute's PostgreSQL is told: configuration files and the fixed command line.

The files live in the run directory, never in the data directory. A data directory of faulting
blocks is only whole under the preload library, so a plain `pg_ctl start` or `postgres -D` on it
must fail; it does, because without a postgresql.conf PostgreSQL does not start, instead of reading
zeros.

Settings come in two strengths. What correctness depends on goes on the command line, where neither
a configuration file nor ALTER SYSTEM (postgresql.auto.conf, which does stay in the data directory)
can change it. The rest goes to postgresql.conf.

Everything here is a pure function of values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .servers import PgVersion

SOCKET_PORT = 5432  # the number in the socket's name; every server has its own directory
SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7) has 108 bytes, the last one is 0
EXTRA_SETTINGS_MAX = 1000  # PostgreSQL 18 has some 400
VALUE_BYTES_MAX = 1 << 20
LOOPBACK_RULES = (
    "host    all          all   127.0.0.1/32  scram-sha-256",
    "host    replication  all   127.0.0.1/32  scram-sha-256",
)

# Names that the caller may not set through `extra`: the fixed ones below, and these.
_OURS = frozenset(
    {
        "config_file",
        "data_directory",
        "external_pid_file",
        "include",
        "include_dir",
        "include_if_exists",
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_$]*)*", re.ASCII)
_ESCAPES = {"\\": "\\\\", "'": "''", "\n": "\\n", "\r": "\\r"}


class SettingsError(ValueError):
    """A setting that PostgreSQL or Seawall cannot take: fix the call or the settings file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """The settings of one server. The defaults are those of every compute."""

    # The compute's disk is a cache: never recovered after a crash, so nothing is gained by
    # flushing it and torn pages cannot matter.
    fsync: bool = False
    full_page_writes: bool = False
    # A crashed backend ends the postmaster; the agent discards the directory and starts afresh.
    restart_after_crash: bool = False
    wal_level: Literal["replica", "logical"] = "replica"
    # `sync` keeps posix_fadvise, which becomes our batched prefetch; workers would read, and so
    # fault, three blocks at a time. io_uring would go past the preload library.
    io_method: str = "sync"
    tcp_port: int | None = None  # besides the Unix socket; None: no TCP
    tcp_host: str = "127.0.0.1"  # where that is
    # Lines of pg_hba.conf for TCP. None: whoever comes over loopback, with a password.
    tcp_rules: tuple[str, ...] | None = None
    ident_rules: tuple[str, ...] = ()  # lines of pg_ident.conf, for rules that name a map
    local_auth: Literal["trust", "scram-sha-256"] = "trust"
    extra: Mapping[str, str] = field(default_factory=dict)
    # As `extra`, but beyond the reach of ALTER SYSTEM. Visible to every user in the process list.
    extra_fixed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.io_method not in {"sync", "worker"}:
            raise SettingsError(
                f"io_method {self.io_method} would read data files past the page-fault library: "
                "use sync or worker"
            )
        if self.tcp_port is not None and not 1 <= self.tcp_port <= 65535:  # noqa: PLR2004  # TCP's
            raise SettingsError(f"tcp_port {self.tcp_port} is not a port: use 1 to 65535")
        for rule in (*(self.tcp_rules or ()), *self.ident_rules):
            if "\n" in rule:
                raise SettingsError(f"{rule!r} is more than one line of its file: make it two")
        _verify_extra(self)

    @property
    def port(self) -> int:
        """The number in the socket's name, and the TCP port if there is one."""
        return self.tcp_port or SOCKET_PORT


def _verify_extra(settings: PostgresSettings) -> None:
    extra = [*settings.extra.items(), *settings.extra_fixed.items()]
    if len(extra) > EXTRA_SETTINGS_MAX:
        raise SettingsError(f"{len(extra)} extra settings are more than {EXTRA_SETTINGS_MAX}")
    seen: set[str] = set()
    for name, value in extra:
        _verify_name(name)
        quoted(value, name)
        key = name.lower()
        if key in _OURS or key in FIXED_NAMES:
            raise SettingsError(f"setting {name} is Seawall's own: remove it")
        if key in seen:
            raise SettingsError(f"setting {name} is given twice: remove one")
        seen.add(key)


def _verify_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{name[:80]!r} is not the name of a setting: use one like work_mem")


FIXED_NAMES = frozenset({
    "allow_in_place_tablespaces",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "io_method",
    "listen_addresses",
    "logging_collector",
    "port",
    "restart_after_crash",
    "unix_socket_directories",
    "wal_level",
})  # fmt: skip

# What a compute wants by default and a user may change. See PostgreSQL's documentation for each.
_DEFAULTS = {
    "hot_standby_feedback": "off",
    # The log is the one synchronous standby; while none is named, `on` is local.
    "synchronous_commit": "on",
    # Zeroing or recycling WAL segments pays for a disk that must not change size under fsync.
    "wal_init_zero": "off",
    "wal_recycle": "off",
    "max_wal_senders": "10",
    # A compute whose log node vanished looks for the next one at once.
    "wal_retrieve_retry_interval": "100ms",
    # Every prefetch becomes one batch to the storage nodes: deep is cheap. 1000 is the maximum.
    "maintenance_io_concurrency": "1000",
    "effective_io_concurrency": "200",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # As initdb sets them for locale C.UTF-8; initdb's own file is not used.
    "timezone": "Etc/UTC",
    "log_timezone": "Etc/UTC",
    "datestyle": "iso, mdy",
    "lc_messages": "C",
    "default_text_search_config": "pg_catalog.english",
}
_DEFAULTS_SINCE = {15: {"recovery_prefetch": "on"}}


def fixed_arguments(settings: PostgresSettings, *, version: PgVersion, run_dir: Path) -> list[str]:
    """Return the part of postgres's command line that nothing in a file can override."""
    fixed = _fixed(settings, version, run_dir)
    assert fixed.keys() <= FIXED_NAMES | {"config_file"}
    fixed |= settings.extra_fixed
    return [argument for name, value in fixed.items() for argument in ("-c", f"{name}={value}")]


def _fixed(settings: PostgresSettings, version: PgVersion, run_dir: Path) -> dict[str, str]:
    require_short_socket_path(run_dir, settings.port)
    fixed = {
        "config_file": str(run_dir / "postgresql.conf"),
        "hba_file": str(run_dir / "pg_hba.conf"),
        "ident_file": str(run_dir / "pg_ident.conf"),
        # A comma would make two directories of one, a leading @ an abstract name.
        "unix_socket_directories": quoted_list_item(str(run_dir)),
        "listen_addresses": "" if settings.tcp_port is None else settings.tcp_host,
        "port": str(settings.port),
        "logging_collector": "off",  # the agent owns standard error
        "hot_standby": "on",  # every compute starts as a replica that can be read
        "fsync": _on_off(settings.fsync),
        "full_page_writes": _on_off(settings.full_page_writes),
        "restart_after_crash": _on_off(settings.restart_after_crash),
        "wal_level": settings.wal_level,
        # A recovering server meets the WAL of in-place tablespaces whether it likes them or not.
        "allow_in_place_tablespaces": "on",
    }
    if version.major >= _IO_METHOD_SINCE:
        fixed["io_method"] = settings.io_method
    return fixed


_IO_METHOD_SINCE = 18


def postgresql_conf(settings: PostgresSettings, *, version: PgVersion) -> str:
    """Return the text of postgresql.conf."""
    values = dict(_DEFAULTS)
    for since, defaults in _DEFAULTS_SINCE.items():
        if version.major >= since:
            values |= defaults
    values |= {name.lower(): value for name, value in settings.extra.items()}
    lines = ["# Written by Seawall at every start; use ALTER SYSTEM or Seawall's own settings."]
    lines += [f"{name} = {quoted(value, name)}" for name, value in sorted(values.items())]
    return "\n".join(lines) + "\n"


def pg_hba_conf(settings: PostgresSettings) -> str:
    """Return who may log in. `trust` is for the socket only, whose directory is private."""
    lines = [
        "# TYPE  DATABASE     USER  ADDRESS       METHOD",
        f"local   all          all                 {settings.local_auth}",
        f"local   replication  all                 {settings.local_auth}",
    ]
    if settings.tcp_port is not None:
        lines += LOOPBACK_RULES if settings.tcp_rules is None else settings.tcp_rules
    return "\n".join(lines) + "\n"


def pg_ident_conf(settings: PostgresSettings) -> str:
    """Return which certificates are which users, for the rules that ask."""
    lines = ["# MAP  WHO THE CERTIFICATE NAMES  USER", *settings.ident_rules]
    return "\n".join(lines) + "\n"


def quoted(value: str, name: str) -> str:
    """Quote a value for postgresql.conf; whatever is in it, it stays one value on one line."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise SettingsError(f"the value of {name} is not valid Unicode: correct it") from error
    if "\0" in value or size > VALUE_BYTES_MAX:
        raise SettingsError(
            f"the value of {name} has a zero byte or more than {VALUE_BYTES_MAX} bytes: correct it"
        )
    return "'" + "".join(_ESCAPES.get(character, character) for character in value) + "'"


def quoted_list_item(item: str) -> str:
    """Quote one entry of a comma-separated list of names, as unix_socket_directories is."""
    return '"' + item.replace('"', '""') + '"'


def require_short_socket_path(run_dir: Path, port: int = SOCKET_PORT) -> None:
    """Refuse a run directory whose socket's path the kernel could not take."""
    path = run_dir / f".s.PGSQL.{port}"
    if len(bytes(path)) > SOCKET_PATH_BYTES_MAX:
        raise SettingsError(
            f"run directory {run_dir} is too long for a Unix socket "
            f"({len(bytes(path))} of at most {SOCKET_PATH_BYTES_MAX} bytes): use a shorter one"
        )


def _on_off(value: bool) -> str:
    return "on" if value else "off"
