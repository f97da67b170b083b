"""What a keeper is given, and what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from fabric.ids import BranchName, NodeName
from fabric.lsn import Lsn
from log_service.client import LogClient
from sqlnode.control_file import ControlFile
from sqlnode.harvest import Harvest
from sqlnode.pagefault.block_map import Pages
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

from .cut import Cut
from .page_store import PageStore
from .redo_engine import EngineSettings, EngineSpec, RedoEngine
from .redo_plan import IDLE_STOP_S
from .wal_scan import CheckpointFound

FULL_RETRY_S: Final = 5.0


class Engine(Protocol):
    """What a keeper asks of an engine; see `RedoEngine`, which is the one there is."""

    async def start(self) -> None:
        """Begin where the source's cut is."""

    async def close(self) -> None:
        """End it, whatever state it is in."""

    async def replay_to(self, target: CheckpointFound) -> None:
        """Replay up to the end of a checkpoint record."""

    async def replay_ahead(self, upto: Lsn) -> None:
        """Take WAL that has no checkpoint."""

    async def restartpoint(self, target: CheckpointFound) -> ControlFile:
        """Make the files the state there."""

    def harvest(self) -> Harvest:
        """Set aside what has changed."""

    def stored(self) -> None:
        """Storage has the harvest."""

    def not_stored(self) -> None:
        """Storage has it not."""

    def read_pages(self, path: str, first: int, count: int) -> Pages:
        """Return pages of the harvest."""


class KeeperState(Enum):
    """What a keeper does at the moment."""

    WAITING = "waiting"  # for a checkpoint; an engine may be up
    STARTING = "starting"  # an engine
    REPLAYING = "replaying"
    STORING = "storing"
    FAILING = "failing"  # the engine failed, and another one comes after a pause
    FULL = "full"  # the store has no room


@dataclass(frozen=True, slots=True, kw_only=True)
class CutTimes:
    """Where the time of a cut went."""

    replay_s: float
    restartpoint_s: float
    store_s: float
    pages: int


@dataclass(slots=True)
class CutTotals:
    """What cuts have taken since the keeper began, for whoever watches."""

    cuts: int = 0
    pages: int = 0
    replay_s: float = 0.0
    restartpoint_s: float = 0.0
    store_s: float = 0.0

    def add(self, times: CutTimes) -> None:
        """Count one more cut."""
        self.cuts += 1
        self.pages += times.pages
        self.replay_s += times.replay_s
        self.restartpoint_s += times.restartpoint_s
        self.store_s += times.store_s


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperContext:
    """What a node gives to the keepers of its branches."""

    node: NodeName
    store: PageStore
    client: LogClient
    binaries: ServerBinaries
    identity: Identity
    run_dir: Path
    wal_conninfo: Callable[[BranchName], str]
    settings: EngineSettings
    published: Callable[[BranchName, Cut], None]
    idle_stop_s: float = IDLE_STOP_S
    full_retry_s: float = FULL_RETRY_S
    engine_of: Callable[[EngineSpec], Engine] = RedoEngine
