"""Whatever clients send, the gateway lives, hangs nobody, and gives nobody's bytes to another.

In scope: bytes at random, frames at random, and real sessions with bytes flipped, cut, repeated and
swapped, before and behind the login. While it goes on, good clients work and check every answer;
each value that they ask for has a mark, which nobody else may ever receive. Out of scope: hostile
servers, which the gateway never connects to; the session's core has tests of its own for them.

The fuzzing user has no rights, so that no mutated statement does harm; its statements end soon.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD, Address, Gateway
from fixtures.waiting import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.gateway.hostile_bytes import PACKETS, TALK, mutated
from integration.gateway.raw_client import RawClient, frame, recording

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fixtures.gateway_world import GatewayCluster

pytestmark = pytest.mark.postgres

EXAMPLES = 60
MUTANTS = 100
QUIET_S = 0.03  # then the client leaves, whether it has been answered or not
RECORDED_BYTES_MAX = 1_000_000
SETTLE_S = 20.0
WORKERS = 2
LIMITS = {"idle_link_ms": 1_000, "login_ms": 5_000, "pool_links": 40, "message_bytes": 1_000_000}
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None,
    # The gateway outlives examples on purpose: what one leaves behind, the next one meets.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def open_files(pids: list[int]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


class Witness(threading.Thread):
    """A good client that goes on all the time; every answer has to be its own."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self.mark = f"witness-{secrets.token_hex(12)}"
        self.answers = 0
        self.failure: Exception | None = None
        self._address = address
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask in the simple, the extended and the pipelined way."""
        try:
            with self._address.connect() as connection:
                while not self._ending.is_set():
                    self._ask(connection)
        except Exception as error:  # noqa: BLE001  # any failure is the test's
            self.failure = error

    def _ask(self, connection: psycopg.Connection[Any]) -> None:
        self.answers += 1
        own = f"{self.mark}-{self.answers}"
        assert connection.execute(f"select '{own}'").fetchone() == (own,)
        assert connection.execute("select %s::text", [own], prepare=True).fetchone() == (own,)
        with connection.pipeline():
            found = [connection.execute("select %s::text", [f"{own}-{n}"]) for n in range(3)]
            assert [one.fetchone() for one in found] == [(f"{own}-{n}",) for n in range(3)]

    def end(self) -> None:
        """Stop, and judge."""
        eventually(
            lambda: self.answers > 2 or not self.is_alive(), deadline_s=SETTLE_S, what="answers"
        )
        self._ending.set()
        self.join(SETTLE_S)
        assert self.failure is None, self.failure
        assert not self.is_alive(), "a good client hangs"


@contextlib.contextmanager
def witnessed(gateway: Gateway) -> Iterator[list[bytes]]:
    """Good clients beside the block, and the same gateway with as many open files behind it.

    Whatever bad clients have received is to be put into the list.
    """
    visitor = gateway.address.but(user=VISITOR, password=VISITOR_PASSWORD)
    pids = gateway.pids()
    for _ in range(4 * WORKERS):  # so that each worker has all that it needs
        for address in (visitor, gateway.address):
            with address.connect() as connection:
                connection.execute("select 1")
    base = open_files(pids)
    witnesses = [Witness(visitor), Witness(gateway.address)]
    received: list[bytes] = []
    for witness in witnesses:
        witness.start()
    try:
        yield received
    finally:
        for witness in witnesses:
            witness.end()
    everything = b"".join(received)
    assert not [one.mark for one in witnesses if one.mark.encode() in everything]
    assert gateway.pids() == pids, "a process of the gateway has ended"
    eventually(lambda: open_files(pids) <= base, deadline_s=SETTLE_S, what="as many open files")
    with visitor.connect() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.fixture(scope="module", params=["session", "transaction"])
def fuzzed(request: pytest.FixtureRequest, gateway_cluster: GatewayCluster) -> Iterator[Gateway]:
    changes = {"pool_mode": request.param, "limits": LIMITS, "workers": WORKERS}
    with gateway_cluster.another(read="auto", **changes) as gateway:
        yield gateway


@pytest.fixture
def visitor(fuzzed: Gateway) -> Address:
    return fuzzed.address.but(user=VISITOR, password=VISITOR_PASSWORD)


def raw(visitor: Address) -> RawClient:
    return RawClient(visitor, options="-c statement_timeout=300")


def test_nonsense_before_the_login(fuzzed: Gateway, visitor: Address) -> None:
    with witnessed(fuzzed) as received:

        @FUZZ
        @given(st.lists(st.one_of(PACKETS, PACKETS, TALK.map(b"".join)), min_size=1, max_size=4))
        def story(packets: list[bytes]) -> None:
            with RawClient(visitor, login=False) as client:
                for packet in packets:
                    client.say(packet)
                received.append(client.rest())

        story()


def test_frames_at_random_behind_the_login(fuzzed: Gateway, visitor: Address) -> None:
    with witnessed(fuzzed) as received:

        @FUZZ
        @given(TALK)
        def story(talk: list[bytes]) -> None:
            with raw(visitor) as client:
                client.say(b"".join(talk))
                received.append(client.heard(RECORDED_BYTES_MAX, quiet_s=QUIET_S) + client.rest())

        story()


def session_of_psycopg(address: Address, port: int) -> None:
    with address.but(port=port).connect(sslmode="disable", gssencmode="disable") as connection:
        connection.execute("create temp table t (a int, b text)")
        connection.execute("insert into t values (%s, %s)", [1, "x" * 300], prepare=True)
        with connection.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
            copy.write_row((2, "copied"))
        with connection.pipeline():
            for number in range(5):
                connection.execute("select %s::int", [number])
        with connection.transaction(), connection.cursor("portal") as portal:
            portal.execute("select * from t")
            portal.fetchone()
        connection.execute("set work_mem = '5MB'")
        connection.execute("set seawall.read = 'auto'")
        connection.execute("select count(*) from pg_class; show work_mem")
        connection.execute("show seawall.position")
        connection.execute("listen news")
        connection.execute("notify news, 'extra'")
        with contextlib.suppress(psycopg.Error):
            connection.execute("select 1/0")
        connection.execute("discard all")


@pytest.mark.parametrize("seed", [1, 2])
def test_real_sessions_with_bytes_flipped(fuzzed: Gateway, visitor: Address, seed: int) -> None:
    with recording(visitor) as (port, frames):
        session_of_psycopg(visitor, port)
    assert len(frames) > 20
    rng = random.Random(seed)
    with witnessed(fuzzed) as received:
        for _ in range(MUTANTS):
            with raw(visitor) as client:
                client.say(mutated(frames, rng))
                received.append(client.heard(RECORDED_BYTES_MAX, quiet_s=QUIET_S) + client.rest())


def test_a_recording_without_a_change_is_a_good_client(fuzzed: Gateway, visitor: Address) -> None:
    """Without this the mutants would show little."""
    with recording(visitor) as (port, frames):
        session_of_psycopg(visitor, port)
    with witnessed(fuzzed) as received, raw(visitor) as client:
        client.say(b"".join(frames))
        received.append(client.heard(RECORDED_BYTES_MAX, quiet_s=3))
    assert received[0].count(b"division by zero") == 1
    assert b"DISCARD ALL" in received[0]


def test_clients_that_vanish_in_the_middle_leave_nothing(fuzzed: Gateway, visitor: Address) -> None:
    with witnessed(fuzzed):
        for number in range(40):
            with raw(visitor) as client:
                client.say(
                    frame(ord("Q"), b"begin; create temp table t (); select pg_sleep(0.05)\0")
                )
                if number % 2:
                    client.say(b"Q\0\0")
