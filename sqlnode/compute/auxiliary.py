"""What PostgreSQL does not log and users expect to find again: kept as notes of the branch's log.

- `postgresql.auto.conf`, what ALTER SYSTEM has set: saved when it changes on the primary, and
  brought back wherever a data directory is built, so that it holds on every compute.
- Cumulative statistics: PostgreSQL writes them when it shuts down in order, and throws them away
  after a crash. So do we: they are saved when a primary shuts down, brought back to the lives that
  begin before there is another primary, and then forgotten.
- The blocks that a primary has read, as a hint for whoever begins with nothing: `prewarm.py`.

Not kept: replication slots. Physical ones are of no use, because standbys read WAL from the log,
which needs no slot. A logical slot decodes from a snapshot of the catalogs that only its own server
has; it ends with its primary, as it does on a stock server before PostgreSQL 17.
"""

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from fabric.ids import BranchName, Epoch
from fabric.rpc_errors import RpcError
from log_service.client import LogClient
from log_service.record_bodies import NOTE_BYTES_MAX
from sqlnode.control_file import ClusterState, parse_control_file, with_state

from .configuration import AUTO_CONF, auto_conf, parse_auto_conf
from .prewarm import Run, packed, unpacked

STATISTICS: Final = Path("pg_stat/pgstat.stat")
SETTINGS_NOTE: Final = AUTO_CONF
STATISTICS_NOTE: Final = "pgstat.stat"
PREWARM_NOTE: Final = "prewarm"
STATISTICS_BYTES_MAX: Final = 64 * 1024 * 1024
CALL_MS: Final = 2_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a new data directory gets besides a cut."""

    altered: Mapping[str, str] = field(default_factory=dict)  # by ALTER SYSTEM
    statistics: bytes | None = None
    prewarm: tuple[Run, ...] = ()

    def put(self, data_dir: Path) -> None:
        """Write it into a directory that was just built."""
        (data_dir / AUTO_CONF).write_bytes(auto_conf(self.altered))
        if self.statistics is not None:
            (data_dir / STATISTICS).write_bytes(self.statistics)

    def control(self, content: bytes) -> bytes:
        """Return pg_control for it. Statistics are read only after an orderly shutdown, and the
        state of a standby that was shut down differs from ours in nothing else.
        """
        state = parse_control_file(content, Path("the cut")).state
        if self.statistics is None or state is not ClusterState.IN_ARCHIVE_RECOVERY:
            return content
        return with_state(content, ClusterState.SHUT_DOWN_IN_RECOVERY)


async def read_saved(client: LogClient, branch: BranchName) -> Saved:
    """Return what the log has. Raises RpcError: a compute without its settings is another one."""
    notes = dict(await client.read_notes(branch, timeout_ms=CALL_MS))
    return Saved(
        altered=parse_auto_conf(notes.get(SETTINGS_NOTE, b"")),
        statistics=_unpacked(notes.get(STATISTICS_NOTE)),
        prewarm=_runs(notes.get(PREWARM_NOTE)),
    )


def _runs(note: bytes | None) -> tuple[Run, ...]:
    if note is None:
        return ()
    try:
        return tuple(unpacked(note))
    except ValueError as error:
        log.warning("the list of blocks to fetch is damaged", reason=str(error))
        return ()


def _unpacked(packed: bytes | None) -> bytes | None:
    if packed is None:
        return None
    try:
        return zlib.decompressobj().decompress(packed, STATISTICS_BYTES_MAX)
    except zlib.error as error:
        log.warning("saved statistics are damaged", reason=str(error))
        return None


class Keeper:
    """Saves what changes in one data directory, once its server is the primary of an epoch."""

    def __init__(self, client: LogClient, branch: BranchName, data_dir: Path) -> None:
        self._client, self._branch, self._data_dir = client, branch, data_dir
        self._seen: tuple[int, int, int] | None = None  # what the file was when it was looked at
        self._settings = b""
        self._prewarm = b""
        self._saving = asyncio.Lock()
        self.look()

    def look(self) -> bytes | None:
        """Return postgresql.auto.conf if it is another one than at the last look."""
        path = self._data_dir / AUTO_CONF
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen == self._seen:
                return None
            content = path.read_bytes()
        except OSError:
            return None
        self._seen = seen
        is_same = parse_auto_conf(content) == parse_auto_conf(self._settings)
        self._settings = content
        return None if is_same else content

    def replace(self, altered: Mapping[str, str]) -> bool:
        """Write other settings than there are, if they are others; postgres has to be told."""
        if parse_auto_conf(self._settings) == dict(altered):
            return False
        aside = self._data_dir / f"{AUTO_CONF}.seawall"
        aside.write_bytes(auto_conf(altered))
        aside.replace(self._data_dir / AUTO_CONF)
        self.look()
        return True

    async def save_settings(self, epoch: Epoch) -> None:
        """Save them if somebody has changed them. Whoever comes meanwhile waits for the end of it:
        a shutdown comes while a look is under way, and must not believe that all is saved."""
        async with self._saving:
            content = self.look()
            is_saved = content is None
            try:
                if content is not None:
                    is_saved = await self._save(SETTINGS_NOTE, epoch, content)
            finally:  # also when it was cancelled
                if not is_saved:
                    self._seen, self._settings = None, b"?"  # look again

    async def save_prewarm(self, epoch: Epoch, runs: list[Run]) -> None:
        """Save which blocks were read, if they are others than last time."""
        note = packed(runs)
        if note != self._prewarm and await self._save(PREWARM_NOTE, epoch, note):
            self._prewarm = note

    async def save_statistics(self, epoch: Epoch) -> None:
        """Save what a server wrote that has shut down."""
        try:
            content = (self._data_dir / STATISTICS).read_bytes()
        except OSError:
            return
        await self._save(STATISTICS_NOTE, epoch, zlib.compress(content, 1))

    async def forget_statistics(self, epoch: Epoch) -> None:
        """There is a primary, whose own statistics go on: those that were saved are old."""
        await self._save(STATISTICS_NOTE, epoch, None)

    async def _save(self, name: str, epoch: Epoch, content: bytes | None) -> bool:
        if content is not None and len(content) > NOTE_BYTES_MAX:
            log.warning("too large to be kept", what=name, bytes=len(content))
            return True
        try:
            await self._client.set_note(self._branch, name, epoch, content, timeout_ms=CALL_MS)
        except RpcError as error:
            log.warning("not saved yet", what=name, reason=str(error))
            return False
        if content is not None:
            log.info("saved", what=name, bytes=len(content))
        return True
