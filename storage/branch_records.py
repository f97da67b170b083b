"""Which branches a node keeps, on its disk: one small file a branch, beside the page store.

The page store knows the cuts it has; a record says that a branch is to be here even before it has
one, and holds what no cut can: the first WAL of a cluster that was founded here.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from fabric.codec import decode_hook, encode_hook
from fabric.ids import BranchName
from log_service.record_bodies import Genesis

RECORD_BYTES_MAX: Final = 1 << 20
SUFFIX: Final = ".json"


class BranchRecord(msgspec.Struct, frozen=True):
    """One branch of this node."""

    branch: BranchName
    sources: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    """Storage nodes to copy the first cut from; none: the object store."""

    genesis: Genesis | None = None
    """Of a cluster that was founded here."""

    first_wal: bytes = b""
    """What its log begins with, until its first compute has written it there."""


class BranchRecordError(Exception):
    """A record cannot be read or written; the sentence says why."""


class BranchRecords:
    """The records of one node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def all(self) -> Iterator[BranchRecord]:
        """Read every record."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            yield self._read(path)

    def find(self, branch: BranchName) -> BranchRecord | None:
        """Return the record of a branch."""
        path = self._path(branch)
        return self._read(path) if path.exists() else None

    def save(self, record: BranchRecord) -> None:
        """Make a record durable, in place of an older one."""
        path = self._path(record.branch)
        aside = path.with_suffix(".new")
        try:
            with aside.open("wb") as file:
                file.write(_ENCODER.encode(record))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            self._sync()
        except OSError as error:
            raise BranchRecordError(f"{path} cannot be written: {error.strerror}") from error

    def remove(self, branch: BranchName) -> None:
        """Forget a branch."""
        self._path(branch).unlink(missing_ok=True)
        self._sync()

    def _read(self, path: Path) -> BranchRecord:
        try:
            content = path.read_bytes()[: RECORD_BYTES_MAX + 1]
            record = _DECODER.decode(content)
        except (OSError, msgspec.DecodeError) as error:
            raise BranchRecordError(
                f"{path} is damaged ({error}): remove it and adopt the branch again"
            ) from error
        if self._path(record.branch) != path:
            raise BranchRecordError(
                f"{path} is that of branch {record.branch}: rename or remove it"
            )
        return record

    def _path(self, branch: BranchName) -> Path:
        return self._directory / f"{branch}{SUFFIX}"

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_ENCODER: Final = msgspec.json.Encoder(enc_hook=encode_hook)
_DECODER: Final = msgspec.json.Decoder(BranchRecord, dec_hook=decode_hook)
