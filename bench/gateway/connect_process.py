"""Clients that log in, perhaps ask something, and leave, for some time; a process of its own.

    python -P -m bench.gateway.connect_process < ORDER      prints what came of it, as JSON

The order is on the standard input because there are keys in it. Each client begins anew as soon as
it is done, so the rate is what the server and this process achieve, whoever is the slower one.
"""

import asyncio
import ssl
import sys
import time
from typing import Final

import msgspec

from pgwire.scram import ScramKeys

from .light_client import LightClient, LightClientError

FAILURES_QUOTED_MAX: Final = 3


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    port: int
    local_host: str
    seconds: float
    clients: int
    client_key: bytes
    server_key: bytes
    certificate_file: str
    sql: str  # empty: nothing is asked

    def __repr__(self) -> str:
        return f"Order(port={self.port})"


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    took_s: float
    logins_ms: list[float]  # each one's time, from the connection to the first ReadyForQuery
    failures: int
    said: list[str]  # by some of the failures


async def carry_out(order: Order) -> Done:
    """Until the time is over; who has begun by then may finish."""
    keys = ScramKeys(order.client_key, order.server_key)
    tls = ssl.create_default_context(cafile=order.certificate_file)
    logins_ms: list[float] = []
    failed: list[str] = []
    start_s = time.monotonic()

    async def come_and_go() -> None:
        while time.monotonic() < start_s + order.seconds:
            begun_s = time.monotonic()
            try:
                client = await LightClient.open(
                    order.port, keys, tls=tls, local_host=order.local_host
                )
                login_ms = (time.monotonic() - begun_s) * 1e3
                try:
                    if order.sql:
                        await client.ask(order.sql)
                finally:
                    client.close()
            except LightClientError as error:
                failed.append(str(error))
            else:
                logins_ms.append(login_ms)

    async with asyncio.TaskGroup() as group:
        for _ in range(order.clients):
            group.create_task(come_and_go())
    return Done(
        took_s=time.monotonic() - start_s,
        logins_ms=logins_ms,
        failures=len(failed),
        said=failed[:FAILURES_QUOTED_MAX],
    )


def main() -> None:
    """Read, do, tell."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    done = asyncio.run(carry_out(order))
    sys.stdout.buffer.write(msgspec.json.encode(done))


if __name__ == "__main__":
    main()
