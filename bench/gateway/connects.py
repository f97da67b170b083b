"""Logins a minute with TLS and SCRAM, through a gateway and through pgbouncer.

A gateway of our own shows a certificate; everything else about it is as the cluster's has it. The
clients are two processes, which need about as much of the machine as the gateway does: the rate is
what is left over, not what a gateway with a core for itself would do. `cpu_ms` says what a login
costs the proxy, and does not depend on that.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.failover.elastic import percentile
from bench.faults.target import TargetError
from bench.node_process import node_environment
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace

from .certificate import Certificate, make_certificate
from .connect_process import Done, Order
from .extra_gateway import with_own_gateway
from .pgbouncer import running_pgbouncer
from .ways import GATEWAY, PGBOUNCER, CpuClock, Way
from .world import Stage, staged

LOCAL_HOSTS: Final = ("127.0.0.1", "127.0.0.2")  # a process each, with ports of its own
CLIENTS_A_PROCESS: Final = 8
SECONDS: Final = 60
SECONDS_QUICK: Final = 10
ASKING_S: Final = 20
ASKING_QUICK_S: Final = 5
STATEMENT: Final = "select 1"
GRACE_S: Final = 90


@dataclass(frozen=True, slots=True)
class Rate:
    """What two processes achieved together."""

    per_min: float
    cpu_ms: float  # of the proxy, a login
    p50_ms: float
    p99_ms: float


def measure_connects(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """Logins only, and logins with a statement."""
    return asyncio.run(_connects(place, arguments))


async def _connects(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    bare_s, asking_s = (SECONDS_QUICK, ASKING_QUICK_S) if arguments.quick else (SECONDS, ASKING_S)
    certificate = await asyncio.to_thread(_certificate, place)
    measurements: list[Measurement] = []
    async with staged(place, arguments) as stage, _tls_ways(stage, certificate) as ways:
        for what, seconds, sql in (("", bare_s, ""), ("_asking", asking_s, STATEMENT)):
            for way in ways:
                rate = await _rate(stage, way, certificate, seconds=seconds, sql=sql)
                measurements += _measurements(way.name, what, rate)
    return Outcome(
        benchmark="connects",
        settings={
            "seconds": bare_s,
            "asking_s": asking_s,
            "client_processes": len(LOCAL_HOSTS),
            "clients": CLIENTS_A_PROCESS * len(LOCAL_HOSTS),
        },
        measurements=measurements,
    )


def _certificate(place: Workspace) -> Certificate:
    """Make one that pgbouncer can read, too, which is not root."""
    directory = place.new_directory("tls")
    certificate = make_certificate(directory)
    place.identity.give_tree(directory)
    return certificate


@contextlib.asynccontextmanager
async def _tls_ways(stage: Stage, certificate: Certificate) -> AsyncIterator[tuple[Way, Way]]:
    """pgbouncer and the gateway, both with the same certificate."""
    tls_files = {
        "certificate_file": str(certificate.certificate_file),
        "key_file": str(certificate.key_file),
    }

    def bouncer(name: str) -> contextlib.AbstractContextManager[Way]:
        return running_pgbouncer(
            stage.place,
            server_port=stage.direct.port,
            verifier=stage.credentials.verifier,
            certificate=certificate,
            name=name,
        )

    with bouncer(PGBOUNCER) as pgbouncer:
        if stage.gateway_name is None:
            with bouncer(GATEWAY) as second:
                yield pgbouncer, second
        else:
            async with with_own_gateway(stage, client_tls=tls_files) as own:
                yield pgbouncer, own.gateway


async def _rate(
    stage: Stage, way: Way, certificate: Certificate, *, seconds: float, sql: str
) -> Rate:
    clock = CpuClock.of(way)
    start_s = clock.seconds()
    done = await asyncio.gather(
        *(
            asyncio.to_thread(
                _in_a_process,
                Order(
                    port=way.port,
                    local_host=local_host,
                    seconds=seconds,
                    clients=CLIENTS_A_PROCESS,
                    client_key=stage.credentials.keys.client_key,
                    server_key=stage.credentials.keys.server_key,
                    certificate_file=str(certificate.certificate_file),
                    sql=sql,
                ),
            )
            for local_host in LOCAL_HOSTS
        )
    )
    return rate_of(done, clock.seconds() - start_s, way.name)


def rate_of(done: Sequence[Done], cpu_s: float, name: str) -> Rate:
    """Add up what the processes say; a login that fails is one too many."""
    if failures := sum(one.failures for one in done):
        said = next(text for one in done for text in one.said)
        raise TargetError(f"{failures} logins through {name} failed: {said}")
    logins_ms = sorted(ms for one in done for ms in one.logins_ms)
    return Rate(
        sum(len(one.logins_ms) / one.took_s for one in done) * 60,
        cpu_s / len(logins_ms) * 1e3,
        percentile(logins_ms, 0.50),
        percentile(logins_ms, 0.99),
    )


def _in_a_process(order: Order) -> Done:
    command = [sys.executable, "-P", "-m", "bench.gateway.connect_process"]
    try:
        said = subprocess.run(
            command, input=msgspec.json.encode(order), capture_output=True, check=True,
            env=node_environment(os.environ), timeout=order.seconds + GRACE_S,
        ).stdout  # fmt: skip
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise TargetError(f"a process of clients failed: {last}") from None
    return msgspec.json.decode(said, type=Done)


def _measurements(way: str, what: str, rate: Rate) -> list[Measurement]:
    """The gateway's have no name of a way: they are what the bar is on."""
    name = f"connects{what}" if way == GATEWAY else f"connects{what}_{way}"
    return [
        Measurement(f"{name}_per_min", "/min", (rate.per_min,)),
        Measurement(f"{name}_cpu_ms", "ms", (rate.cpu_ms,)),
        Measurement(f"{name}_p50_ms", "ms", (rate.p50_ms,)),
        Measurement(f"{name}_p99_ms", "ms", (rate.p99_ms,)),
    ]
