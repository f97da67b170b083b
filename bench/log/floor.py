"""What a durable commit over a network cannot be faster than: one round trip and one fdatasync.

The round trip is a call of fabric's RPC with 100 bytes over loopback TCP to another process; the
fdatasync follows 8 KiB written into a file that was filled before, on the disk of the log nodes.
Both are sampled a few at a time, between what is held against them, so that a slow second of the
machine hits all alike.
"""

import asyncio
import contextlib
import multiprocessing
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

import msgspec
import uvloop

from fabric.addresses import Address, TcpAddress
from fabric.logs import LogSettings, configure
from fabric.rpc import Call, Method, Reply
from fabric.rpc_client import RpcClient
from fabric.rpc_server import RpcServer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

RPC_BYTES: Final = 100
PIECE_BYTES: Final = 8 * 1024
FILE_BYTES: Final = 16 << 20


class Echo(msgspec.Struct, frozen=True):
    """Nothing but a reason to answer."""


ECHO: Final = Method("bench.echo", Echo, Echo)


class Floor:
    """An open RPC connection and an open file."""

    def __init__(self, runner: asyncio.Runner, client: RpcClient, descriptor: int) -> None:
        self._runner = runner
        self._client = client
        self._descriptor = descriptor
        self._offset = 0

    def sample(self, count: int) -> tuple[list[float], list[float]]:
        """Seconds of so many round trips, and of so many writes with fdatasync."""
        return self._runner.run(self._round_trips(count)), [self._sync() for _ in range(count)]

    async def _round_trips(self, count: int) -> list[float]:
        payload = bytes(RPC_BYTES)
        found = []
        for _ in range(count):
            start_s = perf_counter()
            await self._client.call(ECHO, Echo(), payload)
            found.append(perf_counter() - start_s)
        return found

    def _sync(self) -> float:
        start_s = perf_counter()
        os.pwrite(self._descriptor, b"x" * PIECE_BYTES, self._offset)
        os.fdatasync(self._descriptor)
        taken_s = perf_counter() - start_s
        self._offset = (self._offset + PIECE_BYTES) % FILE_BYTES
        return taken_s


@contextlib.contextmanager
def open_floor(directory: Path) -> Iterator[Floor]:
    """Both, ready to be sampled; the server process ends with it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve_echo, args=(theirs,))
    server.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, _file(directory) as file:
            client = RpcClient(ours.recv(), rng=random.Random(1))  # noqa: S311  # of reconnections
            runner.run(client.__aenter__())
            try:
                yield Floor(runner, client, file)
            finally:
                runner.run(client.__aexit__(None, None, None))
    finally:
        ours.send("stop")
        server.join()


def serve_echo(control: "Pipe[Address, str]") -> None:
    """Answer calls until told to stop; the body of the server process."""

    async def echo(_call: Call, request: Echo) -> Reply[Echo]:
        return Reply(request)

    async def serve() -> None:
        server = RpcServer(cluster=None)
        server.add(ECHO, echo, roles=())
        control.send(await server.listen(TcpAddress("127.0.0.1", 0)))
        await asyncio.to_thread(control.recv)
        await server.close()

    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    uvloop.run(serve())


@contextlib.contextmanager
def _file(directory: Path) -> Iterator[int]:
    """A file whose every block has been written, so that only data is left to flush."""
    path = directory / "fdatasync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for offset in range(0, FILE_BYTES, 1 << 20):
            os.pwrite(descriptor, bytes(1 << 20), offset)
        os.fsync(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)
        path.unlink()
