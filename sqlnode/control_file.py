"""global/pg_control: what a data directory is, and the state that PostgreSQL left it in.

The file is one C structure (ControlFileData in src/include/catalog/pg_control.h), written in place
with a single write and protected by a CRC-32C. Three layouts cover PostgreSQL 13 to 18; they
differ only near the end, where 18 put one more byte before the nonce:

    offset   0  system identifier, control version, catalog version, state
    offset  32  checkpoint Lsn, then the checkpoint record's copy (88 bytes, redo Lsn first)
    offset 128  recovery fields, then the settings a standby must not undercut
    offset 204  constants of the build: alignment, block and segment sizes, checksum version
    offset 288  CRC of everything before it (292 in version 1800)

Parsing is a pure function of bytes. A reader that races with a write can see a torn file; the CRC
tells, and the reader reads again.
"""

import struct
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path

from fabric.lsn import Lsn, Tli

from .servers import PgVersion

CONTROL_FILE = Path("global", "pg_control")
CONTROL_FILE_BYTES = 8192

BLOCK_BYTES = 8192
SEGMENT_BLOCKS = 131072  # 1 GiB

# pg_control_version → where the CRC is. 1300 serves PostgreSQL 13 to 16.
CRC_OFFSETS = {1300: 288, 1700: 288, 1800: 292}
# Where the nonce is by which logins of users that do not exist are made to look like others.
NONCE_OFFSETS = {1300: 256, 1700: 256, 1800: 257}
NONCE_BYTES = 32
# A constant of pg_control.h that gives a wrong byte order or float format away.
FLOAT_FORMAT = 1234567.0

# Catalog version of each release: the only field that tells 15 from 16. It is fixed at the release.
CATALOG_VERSIONS = {
    202107181: 14,
    202209061: 15,
    202307071: 16,
    202406281: 17,
    202506291: 18,
}

_HEAD = struct.Struct("<QIIi4xqQ")  # to the checkpoint's Lsn
_CHECKPOINT = struct.Struct("<QII?3xiQ7I4xq3I4x")
_RECOVERY = struct.Struct("<QQI4xQQ?3x")
_STANDBY = struct.Struct("<i?3x5i?3x")
_BUILD = struct.Struct("<Id8I?3xI")
_VERSION_OFFSET, _STATE_OFFSET = 8, 16
_CHECKPOINT_OFFSET = _HEAD.size  # the checkpoint's Lsn is just before it
_RECOVERY_OFFSET = _CHECKPOINT_OFFSET + _CHECKPOINT.size
_STANDBY_OFFSET = _RECOVERY_OFFSET + _RECOVERY.size
_BUILD_OFFSET = _STANDBY_OFFSET + _STANDBY.size
assert (_CHECKPOINT_OFFSET, _RECOVERY_OFFSET, _STANDBY_OFFSET, _BUILD_OFFSET) == (40, 128, 172, 204)


class ControlFileError(Exception):
    """A data directory that must not be used: pg_control is damaged, unknown or another's."""


class ClusterState(IntEnum):
    """DBState of pg_control.h."""

    STARTING_UP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


_STATES = frozenset(state.value for state in ClusterState)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyLimits:
    """The settings that a standby must not set lower than the primary did, or replay pauses."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int


def wider(one: StandbyLimits, other: StandbyLimits | None) -> StandbyLimits:
    """Return settings that are enough for both."""
    if other is None:
        return one
    return StandbyLimits(
        **{
            field.name: max(getattr(one, field.name), getattr(other, field.name))
            for field in fields(one)
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFile:
    """The fields of pg_control that Seawall decides by."""

    system_identifier: int
    pg_control_version: int
    catalog_version: int
    state: ClusterState
    checkpoint: Lsn
    redo: Lsn
    tli: Tli
    previous_tli: Tli
    full_page_writes: bool
    next_xid: int  # with its epoch in the upper half
    next_oid: int
    next_multixact: int
    oldest_xid: int
    checkpoint_time_s: int  # Unix time, by the clock of the primary that wrote the record
    minimum_recovery_point: Lsn
    minimum_recovery_tli: Tli | None  # None outside recovery
    standby_limits: StandbyLimits
    track_commit_timestamp: bool
    block_bytes: int
    segment_blocks: int
    wal_block_bytes: int
    wal_segment_bytes: int
    data_checksum_version: int

    @property
    def has_data_checksums(self) -> bool:
        """Whether every page carries a checksum."""
        return self.data_checksum_version != 0

    @property
    def major(self) -> int | None:
        """The PostgreSQL major that made the directory, None when it is not one we know."""
        return CATALOG_VERSIONS.get(self.catalog_version)


def read_control_file(data_dir: Path) -> ControlFile:
    """Read and parse a data directory's pg_control, once more if a write may have torn it."""
    path = data_dir / CONTROL_FILE
    try:
        try:
            return parse_control_file(path.read_bytes(), data_dir)
        except ControlFileError:
            return parse_control_file(path.read_bytes(), data_dir)
    except OSError as error:
        raise ControlFileError(
            f"global/pg_control of {data_dir} cannot be read: {error.strerror}; "
            "name a PostgreSQL data directory"
        ) from error


def parse_control_file(content: bytes, data_dir: Path) -> ControlFile:
    """Parse the bytes of pg_control; data_dir only names the directory in errors."""
    _verify_integrity(content, data_dir)
    head = _HEAD.unpack_from(content, 0)
    checkpoint = _CHECKPOINT.unpack_from(content, _CHECKPOINT_OFFSET)
    recovery = _RECOVERY.unpack_from(content, _RECOVERY_OFFSET)
    standby = _STANDBY.unpack_from(content, _STANDBY_OFFSET)
    build = _BUILD.unpack_from(content, _BUILD_OFFSET)
    if build[1] != FLOAT_FORMAT:
        raise _damaged(data_dir, "it was written on a machine with another number format")
    if head[3] not in _STATES:
        raise _damaged(data_dir, f"its state {head[3]} is not one of PostgreSQL's")
    return ControlFile(
        system_identifier=head[0],
        pg_control_version=head[1],
        catalog_version=head[2],
        state=ClusterState(head[3]),
        checkpoint=Lsn(head[5]),
        redo=Lsn(checkpoint[0]),
        tli=Tli(checkpoint[1]),
        previous_tli=Tli(checkpoint[2]),
        full_page_writes=checkpoint[3],
        next_xid=checkpoint[5],
        next_oid=checkpoint[6],
        next_multixact=checkpoint[7],
        oldest_xid=checkpoint[9],
        checkpoint_time_s=checkpoint[13],
        minimum_recovery_point=Lsn(recovery[1]),
        minimum_recovery_tli=Tli(recovery[2]) if recovery[2] else None,
        standby_limits=StandbyLimits(
            max_connections=standby[2],
            max_worker_processes=standby[3],
            max_wal_senders=standby[4],
            max_prepared_transactions=standby[5],
            max_locks_per_transaction=standby[6],
        ),
        track_commit_timestamp=standby[7],
        block_bytes=build[2],
        segment_blocks=build[3],
        wal_block_bytes=build[4],
        wal_segment_bytes=build[5],
        data_checksum_version=build[11],
    )


def _verify_integrity(content: bytes, data_dir: Path) -> None:
    if len(content) < CONTROL_FILE_BYTES:
        raise _damaged(data_dir, f"it has {len(content)} bytes instead of {CONTROL_FILE_BYTES}")
    version = _HEAD.unpack_from(content, 0)[1]
    if version == 0:
        raise _damaged(data_dir, "it is filled with zeros")
    crc_offset = CRC_OFFSETS.get(version)
    if crc_offset is None:
        raise ControlFileError(
            f"global/pg_control of {data_dir} has version {version}, and Seawall knows "
            f"{', '.join(map(str, CRC_OFFSETS))}: use a directory of a supported PostgreSQL"
        )
    (expected,) = struct.unpack_from("<I", content, crc_offset)
    if crc32c(content[:crc_offset]) != expected:
        raise _damaged(data_dir, "its checksum does not match")


def _damaged(data_dir: Path, what: str) -> ControlFileError:
    return ControlFileError(
        f"global/pg_control of {data_dir} is damaged: {what}; "
        "restore the directory from a good copy"
    )


def require_supported(
    control: ControlFile,
    *,
    data_dir: Path,
    server_version: PgVersion,
    system_identifier: int | None = None,
    data_checksums: bool = True,
) -> None:
    """Refuse a data directory that this server, or Seawall at all, must not run on.

    Pass the system identifier when the cluster is known already. data_checksums=False admits a
    directory without page checksums, on which a source that returns garbage goes unnoticed.
    """
    for reason in _objections(control, server_version, system_identifier, data_checksums):
        raise ControlFileError(f"data directory {data_dir} {reason}")


def _objections(
    control: ControlFile,
    server_version: PgVersion,
    system_identifier: int | None,
    data_checksums: bool,
) -> list[str]:
    """Everything that speaks against a directory, the gravest first."""
    found: list[str] = []
    if control.major != server_version.major:
        made_by = (
            "an unknown PostgreSQL" if control.major is None else f"PostgreSQL {control.major}"
        )
        found.append(
            f"belongs to {made_by} (catalog version {control.catalog_version}), "
            f"not to {server_version.major}: use a server of its own major"
        )
    if system_identifier not in {None, control.system_identifier}:
        found.append(
            f"has system identifier {control.system_identifier} instead of {system_identifier}: "
            "it belongs to another cluster, name the right one"
        )
    if control.block_bytes != BLOCK_BYTES or control.wal_block_bytes != BLOCK_BYTES:
        found.append(
            f"has blocks of {control.block_bytes} bytes (WAL: {control.wal_block_bytes}) and "
            f"Seawall needs {BLOCK_BYTES}: use a server built with the default block size"
        )
    if control.segment_blocks != SEGMENT_BLOCKS:
        found.append(
            f"has relation segments of {control.segment_blocks} blocks and Seawall needs "
            f"{SEGMENT_BLOCKS}: use a server built with the default segment size"
        )
    if data_checksums and not control.has_data_checksums:
        found.append(
            "has no data checksums: turn them on with pg_checksums --enable while it is shut down"
        )
    return found


def with_identity(content: bytes, *, system_identifier: int, nonce: bytes) -> bytes:
    """Return pg_control as another cluster's: two copies of a directory must not be one cluster.

    The nonce must be random and secret. Whose WAL it is stands in the WAL, too.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"the nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    changed, version = _verified_copy(content)
    struct.pack_into("<Q", changed, 0, system_identifier)
    offset = NONCE_OFFSETS[version]
    changed[offset : offset + NONCE_BYTES] = nonce
    return _sealed(changed, version)


def with_checkpoint_at(content: bytes, lsn: Lsn) -> bytes:
    """Return the pg_control of a cluster that was shut down, with its checkpoint somewhere else.

    All that the checkpoint says of the cluster stays. A record that says so must be at `lsn`.
    """
    changed, version = _verified_copy(content)
    (state,) = struct.unpack_from("<i", changed, _STATE_OFFSET)
    if state != ClusterState.SHUT_DOWN:
        raise ControlFileError("a cluster that was not shut down needs the WAL that it has")
    struct.pack_into("<QQ", changed, _CHECKPOINT_OFFSET - 8, lsn, lsn)
    return _sealed(changed, version)


def with_state(content: bytes, state: ClusterState) -> bytes:
    """Return pg_control as if PostgreSQL had left the directory in another state."""
    changed, version = _verified_copy(content)
    struct.pack_into("<i", changed, _STATE_OFFSET, state)
    return _sealed(changed, version)


def checkpoint_copy(content: bytes) -> bytes:
    """Return what the last checkpoint's record says, as pg_control repeats it."""
    changed, _ = _verified_copy(content)
    return bytes(changed[_CHECKPOINT_OFFSET : _CHECKPOINT_OFFSET + _CHECKPOINT.size])


def _verified_copy(content: bytes) -> tuple[bytearray, int]:
    _verify_integrity(content, Path("this cluster"))
    (version,) = struct.unpack_from("<I", content, _VERSION_OFFSET)
    return bytearray(content), version


def _sealed(content: bytearray, version: int) -> bytes:
    offset = CRC_OFFSETS[version]
    struct.pack_into("<I", content, offset, crc32c(bytes(content[:offset])))
    return bytes(content)


def crc32c(content: bytes) -> int:
    """Return the Castagnoli CRC; a table look-up per byte is fast enough for 300 bytes."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> tuple[int, ...]:
    polynomial = 0x82F63B78  # reflected
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (polynomial if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
