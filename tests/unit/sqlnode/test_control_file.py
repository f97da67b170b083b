"""pg_control as bytes: every version is read, every damage noticed, other clusters refused.

In scope: the parser and the refusals, on files built here from the C structure's layout. Out of
scope: agreement with pg_controldata on real files, see test_postgres_configuration.py.
"""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import Lsn, Tli
from sqlnode.control_file import (
    CONTROL_FILE_BYTES,
    CRC_OFFSETS,
    NONCE_OFFSETS,
    ClusterState,
    ControlFile,
    ControlFileError,
    checkpoint_copy,
    crc32c,
    parse_control_file,
    read_control_file,
    require_supported,
    with_checkpoint_at,
    with_identity,
)
from sqlnode.servers import PgVersion

DIRECTORY = Path("/data/one")
SYSTEM_IDENTIFIER = 7_654_321_012_345_678_901
VERSIONS = [(1300, 202209061), (1300, 202307071), (1700, 202406281), (1800, 202506291)]


def control_bytes(  # the defaults are a standby of PostgreSQL 18
    *,
    version: int = 1800,
    catalog: int = 202506291,
    state: int = 5,
    block_bytes: int = 8192,
    segment_blocks: int = 131072,
    checksums: int = 1,
    float_format: float = 1234567.0,
) -> bytes:
    """Write the structure field by field, as the C compiler lays it out."""
    content = bytearray(CONTROL_FILE_BYTES)
    put = struct.pack_into
    put("<QIIi", content, 0, SYSTEM_IDENTIFIER, version, catalog, state)
    put("<Q", content, 32, 0x1_0000_00A8)  # checkpoint
    put("<QIIB", content, 40, 0x1_0000_0060, 3, 2, 0)  # redo, Tli, previous Tli, full_page_writes
    put("<QI", content, 64, 5 << 32 | 748, 16384)  # next xid, next oid
    put("<II", content, 76, 9, 11)  # next multixact and its offset
    put("<I", content, 84, 730)  # oldest xid
    put("<QI", content, 136, 0x1_0000_0200, 3)  # minimum recovery point
    put("<iiiii", content, 180, 100, 8, 10, 2, 64)  # what a standby must not undercut
    put("<?", content, 200, True)  # track_commit_timestamp
    put("<Id", content, 204, 8, float_format)
    put("<IIII", content, 216, block_bytes, segment_blocks, 8192, 16 << 20)
    put("<I", content, 252, checksums)
    offset = CRC_OFFSETS.get(version, 0)
    if offset:
        put("<I", content, offset, crc32c(bytes(content[:offset])))
    return bytes(content)


def parsed(**fields: int) -> ControlFile:
    return parse_control_file(control_bytes(**fields), DIRECTORY)


def test_crc_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize(("version", "catalog"), VERSIONS)
def test_fields_of_every_version_are_read(version: int, catalog: int) -> None:
    control = parsed(version=version, catalog=catalog)
    assert control.system_identifier == SYSTEM_IDENTIFIER
    assert control.state is ClusterState.IN_ARCHIVE_RECOVERY
    assert control.checkpoint == Lsn.parse("1/A8")
    assert control.redo == Lsn.parse("1/60")
    assert (control.tli, control.previous_tli) == (Tli(3), Tli(2))
    assert control.full_page_writes is False
    assert (control.next_xid, control.next_oid) == (5 << 32 | 748, 16384)
    assert (control.next_multixact, control.oldest_xid) == (9, 730)
    assert control.minimum_recovery_point == Lsn.parse("1/200")
    assert control.minimum_recovery_tli == Tli(3)
    assert control.standby_limits.max_connections == 100
    assert control.standby_limits.max_locks_per_transaction == 64
    assert control.track_commit_timestamp is True
    assert (control.block_bytes, control.segment_blocks) == (8192, 131072)
    assert control.wal_segment_bytes == 16 << 20
    assert control.has_data_checksums


def test_majors_are_told_apart() -> None:
    majors = [parsed(version=version, catalog=catalog).major for version, catalog in VERSIONS]
    assert majors == [15, 16, 17, 18]
    assert parsed(catalog=202412345).major is None


@pytest.mark.parametrize("state", list(ClusterState))
def test_every_state_is_known(state: ClusterState) -> None:
    assert parsed(state=state).state is state


@given(st.integers(0, 8 * CRC_OFFSETS[1800] + 31))
def test_every_flipped_bit_is_noticed(bit: int) -> None:
    content = bytearray(control_bytes())
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ControlFileError, match=r"^global/pg_control of /data/one "):
        parse_control_file(bytes(content), DIRECTORY)


@given(st.binary(max_size=CONTROL_FILE_BYTES + 1))
def test_any_bytes_are_refused_with_one_sentence(content: bytes) -> None:
    with pytest.raises(ControlFileError, match=r"^global/pg_control of /data/one [^\n]+$"):
        parse_control_file(content, DIRECTORY)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged: it has 0 bytes instead of 8192"),
        (control_bytes()[:-1], "is damaged: it has 8191 bytes instead of 8192"),
        (bytes(CONTROL_FILE_BYTES), "is damaged: it is filled with zeros"),
        (control_bytes(version=1201), "has version 1201, and Seawall knows 1300, 1700, 1800"),
        (control_bytes(state=7), "is damaged: its state 7"),
        (control_bytes(float_format=1.0), "another number format"),
    ],
    ids=["empty", "short", "zeros", "version", "state", "float"],
)
def test_damage_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(ControlFileError, match=reason):
        parse_control_file(content, DIRECTORY)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControlFileError, match=f"of {tmp_path} cannot be read: No such file"):
        read_control_file(tmp_path)


# What may be used.


def check(control: ControlFile, *, major: int = 18, checksums: bool = True) -> None:
    require_supported(
        control,
        data_dir=DIRECTORY,
        server_version=PgVersion(major, 4),
        system_identifier=SYSTEM_IDENTIFIER,
        data_checksums=checksums,
    )


def test_ordinary_directory_is_supported() -> None:
    check(parsed())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"block_bytes": 16384}, "has blocks of 16384 bytes .* needs 8192"),
        ({"segment_blocks": 2048}, "has relation segments of 2048 blocks .* needs 131072"),
        ({"checksums": 0}, "has no data checksums: turn them on with pg_checksums"),
        ({"catalog": 202406281, "version": 1700}, "belongs to PostgreSQL 17 .* not to 18"),
        ({"catalog": 202412345}, "belongs to an unknown PostgreSQL"),
    ],
    ids=["blocks", "segments", "checksums", "other major", "unknown"],
)
def test_other_directories_are_refused(fields: dict[str, int], reason: str) -> None:
    with pytest.raises(ControlFileError, match=f"^data directory /data/one {reason}"):
        check(parsed(**fields))


def test_other_cluster_is_refused() -> None:
    stranger = replace(parsed(), system_identifier=1)
    with pytest.raises(ControlFileError, match=f"identifier 1 instead of {SYSTEM_IDENTIFIER}"):
        check(stranger)
    require_supported(stranger, data_dir=DIRECTORY, server_version=PgVersion(18, 0))


def test_directory_without_checksums_can_be_admitted() -> None:
    check(parsed(checksums=0), checksums=False)


# Changed control files.

NONCE = bytes(range(32))


@pytest.mark.parametrize(("version", "catalog"), VERSIONS)
def test_identity_can_be_replaced(version: int, catalog: int) -> None:
    old = control_bytes(version=version, catalog=catalog)
    new = with_identity(old, system_identifier=5, nonce=NONCE)
    control = parse_control_file(new, DIRECTORY)
    assert control == replace(parse_control_file(old, DIRECTORY), system_identifier=5)
    crc = CRC_OFFSETS[version]
    nonce_end = NONCE_OFFSETS[version] + len(NONCE)
    assert new[NONCE_OFFSETS[version] : nonce_end] == NONCE
    assert crc - 4 < nonce_end <= crc
    assert new[8 : NONCE_OFFSETS[version]] == old[8 : NONCE_OFFSETS[version]]
    assert new[crc + 4 :] == old[crc + 4 :]


def test_checkpoint_can_be_moved_when_the_cluster_was_shut_down() -> None:
    old = control_bytes(state=ClusterState.SHUT_DOWN)
    new = with_checkpoint_at(old, Lsn.parse("2/28"))
    control = parse_control_file(new, DIRECTORY)
    assert (control.checkpoint, control.redo) == (Lsn.parse("2/28"), Lsn.parse("2/28"))
    assert control.tli == Tli(3)
    assert len(checkpoint_copy(new)) == 88
    assert checkpoint_copy(new)[:8] == (0x2_0000_0028).to_bytes(8, "little")
    assert checkpoint_copy(new)[8:] == checkpoint_copy(old)[8:]
    with pytest.raises(ControlFileError, match="needs the WAL that it has"):
        with_checkpoint_at(control_bytes(), Lsn(40))


def test_damaged_control_file_is_not_changed() -> None:
    content = control_bytes()[:-9] + bytes(9)
    broken = content[:40] + b"\xff" + content[41:]
    with pytest.raises(ControlFileError, match="checksum"):
        with_identity(broken, system_identifier=5, nonce=NONCE)
    with pytest.raises(ValueError, match="32 bytes"):
        with_identity(content, system_identifier=5, nonce=NONCE[1:])
