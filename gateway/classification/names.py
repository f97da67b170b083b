"""Names of PostgreSQL that are special: what they tell, or leave, is of one server or one session.

Volatility comes from the database (`catalog`); what is here is what volatility does not tell. Some
of these functions are declared stable, and rightly so, but each server has its own answer; others
are volatile, but as good on a replica as on the primary. Extensions are meant where they are
common. Names are bare: a function of a user with such a name is taken for the built-in one, which
costs it the replicas and nothing else.
"""

from typing import Final

HARMLESS_FUNCTIONS: Final = frozenset(
    {
        "clock_timestamp",
        "gen_random_uuid",
        "pg_sleep",
        "pg_sleep_for",
        "pg_sleep_until",
        "random",
        "random_normal",
        "timeofday",
        "uuidv4",
        "uuidv7",
    }
)
"""Volatile built-in functions that only compute; overloads by users are judged by themselves."""

_NODE_FUNCTIONS: Final = frozenset(
    {
        "currval",
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "lastval",
        "mxid_age",
        "nextval",
        "pg_backend_pid",
        "pg_blocking_pids",
        "pg_cancel_backend",
        "pg_conf_load_time",
        "pg_config",
        "pg_current_logfile",
        "pg_current_snapshot",
        "pg_cursor",
        "pg_export_snapshot",
        "pg_is_in_recovery",
        "pg_is_wal_replay_paused",
        "pg_postmaster_start_time",
        "pg_safe_snapshot_blocking_pids",
        "pg_sequence_last_value",
        "pg_terminate_backend",
        "pg_visible_in_snapshot",
        "setval",
    }
)
_NODE_FUNCTION_PREFIXES: Final = (
    "pg_available_",
    "pg_control_",
    "pg_copy_",
    "pg_create_",
    "pg_current_wal",
    "pg_current_xact",
    "pg_drop_",
    "pg_get_backend_",
    "pg_get_replication_",
    "pg_get_shmem_",
    "pg_get_wal_",
    "pg_hba_file",
    "pg_last_",
    "pg_listening_channels",
    "pg_lock",
    "pg_logical_",
    "pg_ls_",
    "pg_notification_queue",
    "pg_prepared_",
    "pg_read_",
    "pg_replication_",
    "pg_show_",
    "pg_snapshot_",
    "pg_stat_",
    "pg_walfile",
    "pg_xact_",
    "txid_",
)

_NODE_RELATIONS: Final = frozenset(
    {
        "pg_aios",
        "pg_available_extension_versions",
        "pg_available_extensions",
        "pg_backend_memory_contexts",
        "pg_config",
        "pg_cursors",
        "pg_file_settings",
        "pg_hba_file_rules",
        "pg_ident_file_mappings",
        "pg_listening_channels",
        "pg_locks",
        "pg_prepared_statements",
        "pg_prepared_xacts",
        "pg_sequences",
        "pg_settings",
        "pg_wait_events",
    }
)
_NODE_RELATION_PREFIXES: Final = ("pg_replication_", "pg_shmem_", "pg_stat")

_PINS: Final = {
    "dblink_connect": "a connection of dblink",
    "dblink_connect_u": "a connection of dblink",
    "pg_advisory_lock": "an advisory lock",
    "pg_advisory_lock_shared": "an advisory lock",
    "pg_backup_start": "a backup",
    "pg_copy_logical_replication_slot": "a replication slot",
    "pg_copy_physical_replication_slot": "a replication slot",
    "pg_create_logical_replication_slot": "a replication slot",
    "pg_create_physical_replication_slot": "a replication slot",
    "pg_replication_origin_session_setup": "a replication origin",
    "pg_try_advisory_lock": "an advisory lock",
    "pg_try_advisory_lock_shared": "an advisory lock",
    "set_limit": "a limit of pg_trgm",
    "setseed": "a seed of random()",
}
"""What a call leaves in the session. Replication slots may be temporary, by an argument."""

_OUTSIDE_PREFIXES: Final = (
    "dblink",
    "lo_export",
    "pg_backup_",
    "pg_cancel_",
    "pg_copy_",
    "pg_create_",
    "pg_drop_",
    "pg_file_",
    "pg_logical_",
    "pg_promote",
    "pg_reload_",
    "pg_replication_",
    "pg_rotate_",
    "pg_switch_",
    "pg_terminate_",
)


def is_node_function(name: str) -> bool:
    """Say whether a function tells of the server or session that it runs in, or changes it."""
    return name in _NODE_FUNCTIONS or name.startswith(_NODE_FUNCTION_PREFIXES)


def is_node_relation(name: str) -> bool:
    """Say whether a relation of the catalog shows another thing on each server."""
    return name in _NODE_RELATIONS or name.startswith(_NODE_RELATION_PREFIXES)


def is_outside_function(name: str) -> bool:
    """Say whether a function does what no rollback takes back, so that it must not run twice."""
    return name.startswith(_OUTSIDE_PREFIXES)


def pin_reason(name: str) -> str | None:
    """Return what a call of a function leaves in the session, if that cannot be moved."""
    return _PINS.get(name)


def is_temporary_schema(name: str) -> bool:
    """Say whether a schema is of one session."""
    return name == "pg_temp" or name.startswith("pg_temp_")
