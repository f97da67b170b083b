"""The cost of one RPC: round trip and throughput on loopback TCP and on a Unix socket.

`python -m bench.rpc` starts a server process, calls it from this one, prints a table and one line
of JSON. Requests carry the payload, answers are small ("send"), or the other way round ("fetch",
how pages and WAL travel). Round trips are measured one at a time, throughput with several calls
under way.
"""

import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop

from fabric.addresses import Address, TcpAddress, UnixAddress
from fabric.logs import LogSettings, configure
from fabric.rpc import Call, Method, Reply
from fabric.rpc_client import RpcClient
from fabric.rpc_server import RpcServer

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

PAYLOADS_BYTES: Final = (100, 8 * 1024, 128 * 1024, 1024 * 1024)
# Deeper queues of large payloads measure the processor's cache: with 16 of 128 KiB under way, plain
# sockets without any protocol move 1.1 GB/s over TCP here, with 4 of them 2.6 GB/s.
CALLS_UNDER_WAY: Final = 4
SECONDS_PER_MEASUREMENT: Final = 1.0
WARM_UP_CALLS: Final = 50


class Fetch(msgspec.Struct, frozen=True):
    """Ask for so many bytes."""

    payload_bytes: int


class Fetched(msgspec.Struct, frozen=True):
    """The answer to `Fetch`; the bytes are its payload."""


FETCH: Final = Method("bench.fetch", Fetch, Fetched)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of the report."""

    link: str
    direction: str
    payload_bytes: int
    round_trip_p50_us: float
    calls_per_s: float
    mb_per_s: float


def main() -> None:
    """Measure every link, direction and size."""
    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    measurements = []
    with tempfile.TemporaryDirectory() as directory:
        for address in (TcpAddress("127.0.0.1", 0), UnixAddress(str(Path(directory, "rpc")))):
            measurements += _with_server(address)
    for row in measurements:
        print(
            f"{row.link:5} {row.direction:6} {row.payload_bytes:8} B "
            f"p50 {row.round_trip_p50_us:7.1f} us {row.calls_per_s:9.0f} calls/s "
            f"{row.mb_per_s:8.1f} MB/s"
        )
    print(json.dumps([asdict(row) for row in measurements]))


def _with_server(address: Address) -> list[Measurement]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(address, theirs))
    server.start()
    try:
        return uvloop.run(_measure_all(ours.recv()))
    finally:
        ours.send("stop")
        server.join()


def _serve(address: Address, control: "Pipe[Address, str]") -> None:
    blank = bytes(max(PAYLOADS_BYTES))

    async def fetch(call: Call, request: Fetch) -> Reply[Fetched]:
        return Reply(Fetched(), memoryview(blank)[: request.payload_bytes])

    async def serve() -> None:
        server = RpcServer(cluster=None)
        server.add(FETCH, fetch, roles=())
        control.send(await server.listen(address))
        await asyncio.to_thread(control.recv)
        await server.close()

    configure(LogSettings(level="warning"), component="bench", stream=sys.stderr)
    uvloop.run(serve())


async def _measure_all(address: Address) -> list[Measurement]:
    link = "unix" if isinstance(address, UnixAddress) else "tcp"
    rows = []
    rng = random.Random(1)  # noqa: S311 - jitter of reconnections needs no cryptography
    async with RpcClient(address, rng=rng) as client:
        for size in PAYLOADS_BYTES:
            payload = bytes(size)
            rows += [
                await _measure(client, link, "send", size, request=Fetch(0), payload=payload),
                await _measure(client, link, "fetch", size, request=Fetch(size), payload=b""),
            ]
    return rows


async def _measure(
    client: RpcClient, link: str, direction: str, size: int, *, request: Fetch, payload: bytes
) -> Measurement:
    def call() -> Coroutine[Any, Any, Any]:
        return client.call(FETCH, request, payload)

    for _ in range(WARM_UP_CALLS):
        await call()
    round_trips_s = await _calls_until(perf_counter() + SECONDS_PER_MEASUREMENT, call)
    start = perf_counter()
    stop = start + SECONDS_PER_MEASUREMENT
    counts = await asyncio.gather(*(_calls_until(stop, call) for _ in range(CALLS_UNDER_WAY)))
    calls_per_s = sum(map(len, counts)) / (perf_counter() - start)
    return Measurement(
        link=link,
        direction=direction,
        payload_bytes=size,
        round_trip_p50_us=round(statistics.median(round_trips_s) * 1e6, 1),
        calls_per_s=round(calls_per_s),
        mb_per_s=round(calls_per_s * size / 1e6, 1),
    )


async def _calls_until(stop: float, call: Any) -> list[float]:
    durations_s = []
    while (start := perf_counter()) < stop:
        await call()
        durations_s.append(perf_counter() - start)
    return durations_s


if __name__ == "__main__":
    main()
