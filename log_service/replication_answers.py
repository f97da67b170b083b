"""What a replication server answers to commands: rows as PostgreSQL's walsender sends them. Pure.

Only physical replication is served. Slots do not exist: how much WAL a log node keeps is the log's
own decision. So a slot of any name can be created, read and dropped, and holds nothing back.

`checked_start` decides whether a stream may begin where a standby wants it to. A standby asks from
the start of a segment, on the timeline that it is on or, after a switch, on the next one.
"""

from dataclasses import dataclass
from typing import Final, assert_never

from fabric.lsn import Lsn, Tli, history_file_name, wal_file_name
from pgwire.backend import CommandComplete, ErrorResponse, ReadyForQuery
from pgwire.messages import encode
from pgwire.replication import (
    Command,
    CreateReplicationSlot,
    DropReplicationSlot,
    IdentifySystem,
    ReadReplicationSlot,
    Show,
    StartReplication,
    TimelineHistory,
)
from pgwire.rows import INT8, Column, Value, encode_rows

from .replication_source import WalSource

READY: Final = encode(ReadyForQuery())

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


class RefusedError(Exception):
    """A command that is not carried out; the session goes on. The text is for the peer."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class StreamStart:
    """Where a stream begins. `is_over`: at the fork already, so there is nothing to copy."""

    tli: Tli
    lsn: Lsn
    is_over: bool


def answer(command: Command, source: WalSource) -> bytes:
    """Return the whole answer to a command that is not the start of a stream."""
    match command:
        case IdentifySystem():
            return _result("IDENTIFY_SYSTEM", *_system(source))
        case TimelineHistory(tli):
            return _result("TIMELINE_HISTORY", *_history(source, tli))
        case Show(name):
            return _result("SHOW", [Column(name)], [_setting(source, name)])
        case CreateReplicationSlot() as create:
            return _result("CREATE_REPLICATION_SLOT", *_created(create))
        case ReadReplicationSlot():
            columns = [Column("slot_type"), Column("restart_lsn"), Column("restart_tli", INT8)]
            return _result("READ_REPLICATION_SLOT", columns, ["physical", None, None])
        case DropReplicationSlot():
            return _complete("DROP_REPLICATION_SLOT") + READY
        case StartReplication():
            raise AssertionError("a stream is not one answer")
        case _:
            assert_never(command)


def checked_start(command: StartReplication, source: WalSource) -> StreamStart:
    """Decide where a stream begins; RefusedError in PostgreSQL's own words if it cannot."""
    tli, lsn = command.tli or source.tli, command.lsn
    fork = source.fork_of(tli)
    if tli != source.tli and fork is None:
        raise RefusedError("XX000", f"requested timeline {tli:d} is not in this server's history")
    if fork is not None and lsn > fork[1]:
        raise RefusedError(
            "XX000",
            f"requested starting point {lsn} on timeline {tli:d} is not in this server's history: "
            f"timeline {fork[0]:d} forked from it at {fork[1]}",
        )
    if fork is None and lsn > source.committed:
        raise RefusedError(
            "XX000",
            f"requested starting point {lsn} is ahead of the WAL flush position of this server "
            f"{source.committed}",
        )
    is_over = fork is not None and lsn == fork[1]
    if lsn < source.start(tli) and not is_over:
        raise removed(source, tli, lsn)
    return StreamStart(tli, lsn, is_over)


def removed(source: WalSource, tli: Tli, lsn: Lsn) -> RefusedError:
    """Return what to tell a standby that needs WAL from before what is kept."""
    name = wal_file_name(tli, lsn, source.segment_bytes)
    return RefusedError("58P01", f"requested WAL segment {name} has already been removed")


def end_of_stream(fork: tuple[Tli, Lsn] | None) -> bytes:
    """Return what follows the copy: the timeline that comes next, if one does, and the tags."""
    tags = _complete("START_STREAMING") + _complete("START_REPLICATION") + READY
    if fork is None:
        return tags
    columns = [Column("next_tli", INT8), Column("next_tli_startpos")]
    return encode_rows(columns, [(int(fork[0]), fork[1])]) + tags


def refusal(sqlstate: str, message: str) -> bytes:
    """Return an error after which the session goes on."""
    return encode(ErrorResponse.of("ERROR", sqlstate, message)) + READY


def shutdown_of_stream() -> bytes:
    """Return what a walsender says when its server shuts down: readers take it for the end."""
    return _complete("COPY 0")


def _system(source: WalSource) -> tuple[list[Column], list[Value]]:
    # PostgreSQL 15 calls the timeline an int4, which ends at 2^31; nobody looks at the type.
    columns = [Column("systemid"), Column("timeline", INT8), Column("xlogpos"), Column("dbname")]
    return columns, [str(int(source.system_identifier)), int(source.tli), source.committed, None]


def _history(source: WalSource, tli: Tli) -> tuple[list[Column], list[Value]]:
    content = source.history_files.get(tli)
    name = history_file_name(tli)
    if content is None:
        raise RefusedError("58P01", f'could not open file "pg_wal/{name}": it does not exist')
    return [Column("filename"), Column("content")], [name, content]


def _setting(source: WalSource, name: str) -> Value:
    match name.lower():
        case "wal_segment_size":
            unit, letter = (_GIB, "GB") if source.segment_bytes % _GIB == 0 else (_MIB, "MB")
            return f"{source.segment_bytes // unit}{letter}"
        case "data_directory_mode":
            return "0700"  # what pg_receivewal gives to the files it writes
        case "server_version":
            return source.server_version
        case _:
            raise RefusedError("42704", f'unrecognized configuration parameter "{name}"')


def _created(command: CreateReplicationSlot) -> tuple[list[Column], list[Value]]:
    names = ("slot_name", "consistent_point", "snapshot_name", "output_plugin")
    return [Column(name) for name in names], [command.name, "0/0", None, None]


def _result(tag: str, columns: list[Column], row: list[Value]) -> bytes:
    return encode_rows(columns, [row]) + _complete(tag) + READY


def _complete(tag: str) -> bytes:
    return encode(CommandComplete(tag))
