"""The workers of one gateway ask each other for their tables, so that any of them can tell of all.

    colleagues = Colleagues(settings, index, tables)
    await colleagues.listen()
    await colleagues.ask("pools", "stats")        tables of each worker that has answered

Each worker serves its tables at a Unix socket in `run_dir`, which only its owner can open. A worker
that does not answer in time, because it is being restarted or hangs, is missing from the answer.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from fabric.addresses import UnixAddress
from fabric.rpc import Call, Method, Reply
from fabric.rpc_client import RpcClient
from fabric.rpc_errors import RpcError
from fabric.rpc_server import RpcServer

from .settings import GatewaySettings
from .tables import COLUMNS, Cell, Tables

ASK_MS: Final = 1_000  # takes one; a worker that is busy for a second has other problems

Found: TypeAlias = Mapping[str, Sequence[Sequence[Cell]]]


class TablesWanted(msgspec.Struct, frozen=True):
    """Asks a worker for tables, by name."""

    names: tuple[str, ...]


class TablesFound(msgspec.Struct, frozen=True):
    """They are the payload, because they may be large."""


TABLES: Final = Method("gateway.tables", TablesWanted, TablesFound)
_DECODER: Final = msgspec.msgpack.Decoder(dict[str, list[list[str | int | None]]])


class Colleagues:
    """All workers of a gateway, as one of them sees them."""

    def __init__(
        self, settings: GatewaySettings, index: int, tables: Tables, rng: random.Random
    ) -> None:
        self._run_dir = Path(settings.run_dir)
        self._cluster = settings.cluster
        self._index = index
        self._others = [one for one in range(settings.workers) if one != index]
        self._tables = tables
        self._rng = rng
        self._server: RpcServer | None = None

    async def listen(self) -> None:
        """Answer the others, if there are any."""
        if not self._others:
            return
        path = self._path(self._index)
        path.unlink(missing_ok=True)  # whoever had it is gone, or about to be
        self._server = RpcServer(cluster=self._cluster)
        self._server.add(TABLES, self._answer, roles=())
        await self._server.listen(UnixAddress(str(path)))

    async def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            await self._server.close()

    async def ask(self, *names: str, is_for_all: bool = True) -> dict[int, Found]:
        """Return these tables of all workers that have answered, by index; or only our own."""
        others = self._others if is_for_all else []
        answers = await asyncio.gather(*(self._ask(one, names) for one in others))
        pairs = [(self._index, self._own(names)), *zip(others, answers, strict=True)]
        return {index: answer for index, answer in sorted(pairs) if answer is not None}

    @property
    def indexes(self) -> list[int]:
        """Of all workers that there should be."""
        return sorted((self._index, *self._others))

    async def _ask(self, index: int, names: tuple[str, ...]) -> Found | None:
        client = RpcClient(UnixAddress(str(self._path(index))), rng=self._rng)
        try:
            async with client:
                answer = await client.call(TABLES, TablesWanted(names), timeout_ms=ASK_MS)
            return _DECODER.decode(answer.payload)
        except (RpcError, msgspec.DecodeError):
            return None

    async def _answer(self, _: Call, wanted: TablesWanted) -> Reply[TablesFound]:
        names = [name for name in wanted.names if name in COLUMNS]
        return Reply(TablesFound(), msgspec.msgpack.encode(self._own(names)))

    def _own(self, names: Sequence[str]) -> Found:
        return {name: self._tables.rows(name) for name in names}

    def _path(self, index: int) -> Path:
        return self._run_dir / f"tables-{index}.sock"
