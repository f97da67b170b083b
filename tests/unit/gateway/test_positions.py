"""Which replica may answer: positions, lags, choices, and what the log's answers mean.

In scope: every decision of positions.py; the view that topology.py makes of an answer; positions at
the beginning of a page; that questions are shared. Out of scope: sockets, see
tests/integration/test_gateway_knowledge.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.ids import Epoch, NodeName
from fabric.lsn import Lsn, Tli
from gateway.position_link import (
    PRIMARY_SQL,
    error_code,
    position_of,
    usable_position,
    whole_answer,
)
from gateway.position_watch import PositionError, PositionWatch
from gateway.positions import HEARD_S_MAX, SAMPLES_MAX, Positions
from gateway.topology import KEPT_S, SILENT_MS_MAX, ComputesView, Computing, Target, target_of
from log_service.compute_methods import ComputeInfo, Computes, ComputeState
from log_service.methods import Topology
from log_service.record_bodies import Holder
from pgwire.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

MIB = 1024 * 1024


def known(**replayed: int) -> Positions:
    positions = Positions()
    for name, lsn in replayed.items():
        positions.note_replica(name, Lsn(lsn), 10.0)
    return positions


# --- Positions ------------------------------------------------------------------------------------


def test_a_replica_has_what_it_has_replayed_and_nothing_that_was_not_heard() -> None:
    positions = known(a=100)
    assert positions.replica_has("a", Lsn(100))
    assert not positions.replica_has("a", Lsn(101))
    assert not positions.replica_has("b", Lsn(0))
    positions.note_replica("a", Lsn(90), 11.0)
    assert positions.replica_has("a", Lsn(100)), "an old answer takes nothing back"
    positions.forget("a")
    assert not positions.replica_has("a", Lsn(1)), "another life begins with nothing"


def test_the_lag_is_the_age_of_the_newest_sample_that_was_replayed() -> None:
    positions = Positions()
    for at_s in range(5):
        positions.note_primary(Lsn(1000 + 100 * at_s), float(at_s))
    positions.note_replica("a", Lsn(1250), 4.0)
    assert positions.lag_ms("a", 4.5) == pytest.approx(2500)
    positions.note_replica("a", Lsn(1400), 4.4)
    assert positions.lag_ms("a", 4.5) == 0
    assert positions.lag_ms("b", 4.5) is None
    positions.note_replica("old", Lsn(999), 4.4)
    assert positions.lag_ms("old", 4.5) is None, "further back than anybody remembers"
    assert positions.lag_ms("a", 4.4 + HEARD_S_MAX + 0.01) is None, "not heard of for too long"


def test_a_primary_that_is_silent_makes_everybody_older() -> None:
    positions = Positions()
    positions.note_primary(Lsn(5), 0.0)
    positions.note_replica("a", Lsn(5), 8.0)
    assert positions.lag_ms("a", 8.0) == pytest.approx(8000)


def test_a_primary_that_stands_still_keeps_its_replicas_young() -> None:
    positions = Positions()
    for at_s in range(100):
        positions.note_primary(Lsn(7), float(at_s))
    positions.note_replica("a", Lsn(7), 99.0)
    assert positions.lag_ms("a", 99.5) == 0


def test_a_new_epoch_forgets_where_the_old_primary_was() -> None:
    positions = known(a=100)
    positions.note_primary(Lsn(10_000), 9.0)  # written, and lost with it
    positions.begin_epoch()
    positions.note_primary(Lsn(100), 10.0)
    assert positions.primary == Lsn(100)
    assert positions.lag_ms("a", 10.0) == 0


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.floats(0, 2, allow_nan=False)), min_size=1, max_size=60
    ),
    behind=st.integers(0, 60),
)
def test_a_lag_is_never_shorter_than_the_truth(steps: list[tuple[int, float]], behind: int) -> None:
    positions, lsn, now_s = Positions(), 100, 0.0
    history: list[tuple[int, float]] = []
    for grown, passed_s in steps:
        lsn, now_s = lsn + grown, now_s + passed_s
        positions.note_primary(Lsn(lsn), now_s)
        history.append((lsn, now_s))
    replayed = max(0, lsn - behind)
    positions.note_replica("a", Lsn(replayed), now_s)
    lag_ms = positions.lag_ms("a", now_s)
    ages = [now_s - at_s for then, at_s in history if then <= replayed]
    assert lag_ms == (pytest.approx(min(ages) * 1000) if ages else None)


def test_memory_is_bounded_and_the_past_only_becomes_coarser() -> None:
    positions = Positions()
    count = SAMPLES_MAX * 50
    for at in range(count):
        positions.note_primary(Lsn(at * 10), at * 0.2)
    assert len(positions._lsns) == len(positions._asked_s) <= SAMPLES_MAX
    assert positions._lsns == sorted(positions._lsns)
    now_s = count * 0.2
    for back in (1, 10, 400, 5_000, 40_000):
        positions.note_replica(f"r{back}", Lsn((count - back) * 10), now_s)
        lag_ms = positions.lag_ms(f"r{back}", now_s)
        assert lag_ms is None or lag_ms >= back * 200 - 1 or back == 1
        assert back > 400 or (lag_ms is not None and lag_ms <= back * 200 + 1), "exact, as yet"


# --- Choosing -------------------------------------------------------------------------------------


def test_the_least_loaded_that_is_far_enough_is_chosen() -> None:
    positions = known(a=100, b=200, c=300)
    names, loads = ("a", "b", "c"), {"a": 0, "b": 5, "c": 3}
    assert positions.choose(names, loads, now_s=10.0) == "a"
    assert positions.choose(names, loads, now_s=10.0, floor=Lsn(150)) == "c"
    assert positions.choose(names, loads, now_s=10.0, floor=Lsn(301)) is None
    assert positions.choose((), loads, now_s=10.0) is None


def test_of_equals_a_session_stays_where_it_is() -> None:
    positions = known(a=100, b=100)
    loads = {"a": 2, "b": 2}
    assert positions.choose(("a", "b"), loads, now_s=10.0, sticky="b") == "b"
    assert positions.choose(("a", "b"), {"a": 1, "b": 2}, now_s=10.0, sticky="b") == "a"
    assert positions.choose(("a", "b"), loads, now_s=10.0, sticky="gone") == "a"


def test_a_bound_of_lag_takes_nobody_whose_lag_is_not_known() -> None:
    positions = known(a=100, b=50)
    names = ("a", "b")
    assert positions.choose(names, {}, now_s=10.0, lag_ms_max=1e9) is None, "no primary's sample"
    positions.note_primary(Lsn(50), 9.0)
    positions.note_primary(Lsn(100), 10.0)
    assert positions.choose(names, {"a": 9}, now_s=10.0, lag_ms_max=500) == "a"
    assert positions.choose(names, {"a": 9}, now_s=10.0, lag_ms_max=1500) == "b"
    assert positions.choose(names, {}, now_s=12.0, lag_ms_max=1e9) is None, "not heard lately"


# --- What a primary answers -----------------------------------------------------------------------


def row(*values: bytes | None) -> memoryview:
    parts = [struct.pack(">H", len(values))]
    parts += [struct.pack(">i", -1 if v is None else len(v)) + (v or b"") for v in values]
    return memoryview(b"".join(parts))


def test_behind_the_header_of_a_page_is_before_it() -> None:
    page, segment = Lsn(5 * 8192), Lsn(16 * MIB)
    assert usable_position(page + 24, 16 * MIB) == page
    assert usable_position(segment + 40, 16 * MIB) == segment
    for lsn in (page, page + 40, page + 25, segment + 48, Lsn(MIB) + 40):
        assert usable_position(lsn, 16 * MIB) == lsn
    assert usable_position(Lsn(MIB) + 40, MIB) == Lsn(MIB)


def test_an_answer_is_read_and_anything_else_is_refused() -> None:
    assert position_of(row(b"1/16B3740")) == Lsn(0x1_016B_3740)
    assert position_of(row(b"0/1000028", b"16777216")) == Lsn(0x100_0000)
    with pytest.raises(PositionError):
        position_of(row(None))
    for body in (b"", b"\0\1", b"\0\0", b"\0\1\0\0\0\x09abc", bytes(row(b"nonsense"))):
        with pytest.raises(ProtocolError):
            position_of(memoryview(body))
    with pytest.raises(ProtocolError):
        position_of(row(b"0/1", b"many"))


def test_an_answer_in_one_piece_is_known_and_nothing_else_is_taken_for_one() -> None:
    body = bytes(row(b"0/12"))
    whole = b"2\0\0\0\4D" + struct.pack(">I", len(body) + 4) + body
    whole += b"C\0\0\0\rSELECT 1\0" + READY
    found = whole_answer(whole)
    assert found is not None
    assert position_of(found) == Lsn(0x12)
    for other in (whole[:-1], whole[1:], whole + whole, whole + b"N", b"", whole[:-1] + b"T"):
        assert whole_answer(other) is None


@given(st.binary(max_size=60))
def test_no_answer_of_a_compute_is_more_than_an_error(body: bytes) -> None:
    error_code(memoryview(body))
    with contextlib.suppress(PositionError, ProtocolError):
        assert position_of(memoryview(body)) >= Lsn(0)


# --- Questions are shared -------------------------------------------------------------------------


class Server:
    """Answers questions about a position, one after the other, with a growing number."""

    def __init__(self) -> None:
        self.questions = 0
        self.lsn = 1000
        self.is_mute = False
        self.open = 0
        self.left = asyncio.Event()  # nobody is connected
        self.left.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be a server for one connection."""
        self.open += 1
        self.left.clear()
        (size,) = struct.unpack(">I", await reader.readexactly(4))
        await reader.readexactly(size - 4)
        writer.write(b"R\0\0\0\x08\0\0\0\0" + READY)
        try:
            while True:
                kind, size = struct.unpack(">cI", await reader.readexactly(5))
                await reader.readexactly(size - 4)
                if kind == b"P":
                    writer.write(b"1\0\0\0\x04")
                elif kind == b"E":
                    self.questions += 1
                    await asyncio.sleep(0.01)
                    body = bytes(row(str(Lsn(self.lsn)).encode()))
                    writer.write(b"D" + struct.pack(">I", len(body) + 4) + body)
                elif kind == b"S" and not self.is_mute:
                    writer.write(READY)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            self.open -= 1
            if not self.open:
                self.left.set()


READY = b"Z\0\0\0\x05I"


def with_server(check: Callable[[Server, PositionWatch], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        server = Server()
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        watch = PositionWatch(password="x", tls=None)  # noqa: S106  # of this test
        watch.follow(
            ComputesView(
                primary=Target("p", 1, "127.0.0.1", port, Epoch(1)),
                replicas=(Target("r", 2, "127.0.0.1", port, Epoch(0)),),
            )
        )
        try:
            async with asyncio.timeout(20):
                await check(server, watch)
        finally:
            await watch.close()
            listener.close()
            await server.left.wait()

    asyncio.run(run())


def test_a_hundred_who_ask_at_once_share_two_questions() -> None:
    async def check(server: Server, watch: PositionWatch) -> None:
        await watch.primary_position()
        server.questions = 0
        answers = await asyncio.gather(*(watch.primary_position() for _ in range(100)))
        assert set(answers) == {Lsn(1000)}
        assert server.questions <= 2

    with_server(check)


def test_nobody_is_given_the_answer_to_a_question_that_was_asked_before() -> None:
    async def check(server: Server, watch: PositionWatch) -> None:
        await watch.primary_position()
        early = asyncio.create_task(watch.primary_position())
        await asyncio.sleep(0.005)  # its question is on its way
        server.questions = 0
        late = asyncio.create_task(watch.primary_position())
        await early
        assert not late.done()
        await late
        assert server.questions >= 1

    with_server(check)


def test_a_replica_is_asked_while_somebody_waits_and_not_longer() -> None:
    async def check(server: Server, watch: PositionWatch) -> None:
        assert not await watch.replica_has("r", Lsn(2000), wait_ms=0)
        assert not await watch.replica_has("nobody", Lsn(1), wait_ms=50)
        waiting = [
            asyncio.create_task(watch.replica_has("r", Lsn(2000), wait_ms=5000)) for _ in range(50)
        ]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        server.lsn = 2000
        assert all(await asyncio.gather(*waiting))
        asked = server.questions
        await asyncio.sleep(0.1)
        assert server.questions == asked
        assert await watch.replica_has("r", Lsn(2000), wait_ms=0), "it is known now"
        began_s = asyncio.get_running_loop().time()
        assert not await watch.replica_has("r", Lsn(3000), wait_ms=50)
        assert asyncio.get_running_loop().time() - began_s < 1

    with_server(check)


def test_lag_is_known_once_it_is_wanted() -> None:
    async def check(server: Server, watch: PositionWatch) -> None:
        loop = asyncio.get_running_loop()
        assert watch.positions.lag_ms("r", loop.time()) is None
        watch.use_lag()
        await asyncio.sleep(0.4)
        assert watch.positions.lag_ms("r", loop.time()) == 0
        assert 2 <= server.questions <= 12

    with_server(check)


def test_a_compute_that_goes_tells_all_who_wait_and_is_forgotten() -> None:
    async def check(server: Server, watch: PositionWatch) -> None:
        assert await watch.replica_has("r", Lsn(1), wait_ms=1000)
        server.is_mute = True
        waiting = asyncio.create_task(watch.primary_position())
        await asyncio.sleep(0.05)
        watch.follow(ComputesView(epoch=Epoch(2)))
        with pytest.raises(PositionError, match="not the primary any more"):
            await waiting
        with pytest.raises(PositionError, match="no primary"):
            await watch.primary_position()
        assert watch.positions.replayed("r") is None

    with_server(check)


def test_the_primary_is_asked_for_all_that_is_visible_not_for_what_is_flushed() -> None:
    # With synchronous_commit off, others see what has not been flushed yet.
    assert "pg_current_wal_insert_lsn" in PRIMARY_SQL


# --- What the log answers -------------------------------------------------------------------------


def compute(name: str, state: ComputeState, *, epoch: int = 0, port: int = 5432) -> ComputeInfo:
    return ComputeInfo(
        name=NodeName(name), instance=7, state=state, address="tcp://127.0.0.1:1",
        client_address=f"127.0.0.1:{port}", user="postgres", epoch=Epoch(epoch), tli=Tli(1),
        received=Lsn(10), replayed=Lsn(10), postmaster_pid=1, agent_pid=1, can_lead=True,
        complaint="", heard_ms_ago=5,
    )  # fmt: skip


def answer(*computes: ComputeInfo, epoch: int = 3, holder: str | None = "c-1") -> Computes:
    topology = Topology(
        version="", node=NodeName("log-1"), leader=None, term=1, is_leading=True, members=(),
        epoch=Epoch(epoch), holder=None if holder is None else Holder(NodeName(holder), "x"),
        is_streaming=True, tli=Tli(1), start=Lsn(0), end=Lsn(10), epoch_start=Lsn(0),
        system_identifier=None,
    )  # fmt: skip
    return Computes(computes, topology)


PRIMARY = compute("c-1", ComputeState.PRIMARY, epoch=3)
REPLICA = compute("c-2", ComputeState.REPLICA, port=5433)


def test_the_primary_is_who_says_so_and_holds_the_epoch() -> None:
    view = Computing().take(answer(PRIMARY, REPLICA), 0.0)
    assert view.primary is not None
    assert (view.primary.name, view.primary.port, view.primary.epoch) == ("c-1", 5432, 3)
    assert [one.name for one in view.replicas] == ["c-2"]
    for other in (
        answer(PRIMARY, epoch=4),
        answer(PRIMARY, holder="c-2"),
        answer(PRIMARY, holder=None),
        answer(compute("c-1", ComputeState.PROMOTING, epoch=3)),
        answer(msgspec.structs.replace(PRIMARY, heard_ms_ago=SILENT_MS_MAX + 1)),
    ):
        assert Computing().take(other, 0.0).primary is None


def test_only_replicas_that_answer_are_any() -> None:
    silent = msgspec.structs.replace(REPLICA, heard_ms_ago=SILENT_MS_MAX + 1)
    empty = msgspec.structs.replace(REPLICA, replayed=Lsn(0))
    starting = compute("c-2", ComputeState.STARTING)
    for info in (silent, empty, starting):
        assert Computing().take(answer(PRIMARY, info), 0.0).replicas == ()


def test_a_leader_that_has_just_begun_takes_nothing_away() -> None:
    computing = Computing()
    before = computing.take(answer(PRIMARY, REPLICA), 0.0)
    assert computing.take(answer(), 1.0) == before
    assert computing.take(answer(), KEPT_S + 1) == ComputesView(
        epoch=Epoch(3), is_log_reachable=True
    )


def test_a_new_epoch_has_no_primary_until_it_says_so() -> None:
    computing = Computing()
    computing.take(answer(PRIMARY, REPLICA), 0.0)
    view = computing.take(answer(REPLICA, epoch=4, holder="c-2"), 0.1)
    assert (view.primary, view.epoch) == (None, 4)
    again = computing.take(
        answer(compute("c-2", ComputeState.PRIMARY, epoch=4, port=5433), epoch=4, holder="c-2"), 0.2
    )
    assert again.primary is not None
    assert again.replicas == ()


def test_a_log_that_is_away_leaves_the_view_and_says_that_it_is_old() -> None:
    computing = Computing()
    before = computing.take(answer(PRIMARY, REPLICA), 0.0)
    lost = computing.lose()
    assert (lost.primary, lost.replicas) == (before.primary, before.replicas)
    assert not lost.is_log_reachable


@pytest.mark.parametrize(
    "address", ["", "host", ":5", "h:", "h:0", "h:65536", "h:99999999999", "h:5x", "h:\u0665"]
)
def test_an_address_that_is_none_makes_no_target(address: str) -> None:
    assert target_of(msgspec.structs.replace(REPLICA, client_address=address)) is None


def test_addresses_of_both_families_are_read() -> None:
    info = msgspec.structs.replace(REPLICA, client_address="[::1]:6000")
    found = target_of(info)
    assert found is not None
    assert (found.host, found.port) == ("::1", 6000)
