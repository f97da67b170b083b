"""The replication server on real sockets: what it answers, what it refuses, how it ends.

The client is made of a few frames (replication_world.py). Peers that misbehave are in
test_replication_peers.py, stock standbys in tests/integration/test_standbys_stream.py.
"""

from pathlib import Path

import pytest
from unit.log_service.replication_world import (
    GROUP,
    START,
    MemorySource,
    ask,
    fatal,
    in_loop,
    nothing_more,
    receive,
    refusal,
    row,
    serving,
    start,
)

from fabric.lsn import Lsn
from log_service.replication_session import ReplicationSettings
from log_service.replication_source import Gate
from log_service.replication_stream import XLOG_DATA_BYTES_MAX
from pgwire.backend import CommandComplete, DataRow, ReadyForQuery, RowDescription
from pgwire.copying import CopyData, CopyDone
from pgwire.frontend import Terminate
from pgwire.messages import encode


@pytest.fixture
def source() -> MemorySource:
    return MemorySource(committed=START + 1000)


# Commands.


@in_loop
async def test_commands_are_answered_as_postgres_does(source: MemorySource, tmp_path: Path) -> None:
    source.fork(source.committed + 24)
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        identity = (str(int(source.system_identifier)).encode(), b"2", b"0/1000400", None)
        assert await row(client, "IDENTIFY_SYSTEM") == identity
        history = (b"00000002.history", b"1\t0/10003E8\tpromoted\n")
        assert await row(client, "TIMELINE_HISTORY 2") == history
        assert await row(client, "SHOW wal_segment_size") == (b"16MB",)
        assert await row(client, "SHOW data_directory_mode") == (b"0700",)
        slot = (b"s", b"0/0", None, None)
        assert await row(client, 'CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL') == slot
        assert await row(client, 'CREATE_REPLICATION_SLOT "s" PHYSICAL (RESERVE_WAL)') == slot
        assert await row(client, 'READ_REPLICATION_SLOT "s"') == (b"physical", None, None)
        dropped = await ask(client, 'DROP_REPLICATION_SLOT "s"')
        assert dropped == [CommandComplete("DROP_REPLICATION_SLOT")]
        source.segment_bytes = 1 << 30
        assert await row(client, "SHOW wal_segment_size") == (b"1GB",)


@in_loop
async def test_commands_that_cannot_be_carried_out_are_refused_by_name(
    source: MemorySource, tmp_path: Path
) -> None:
    source.fork(source.committed + 24)
    source.oldest = START
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        for text, sqlstate, part in [
            ("START_REPLICATION 0/1000401 TIMELINE 2", "XX000", "ahead of the WAL flush position"),
            ("START_REPLICATION 0/10003E9 TIMELINE 1", "XX000", "not in this server's history"),
            ("START_REPLICATION 0/1000000 TIMELINE 3", "XX000", "timeline 3 is not in this"),
            ("START_REPLICATION 0/0 TIMELINE 2", "58P01", "000000020000000000000000 has already"),
            ("TIMELINE_HISTORY 3", "58P01", "00000003.history"),
            ("SHOW work_mem", "42704", "unrecognized configuration parameter"),
            ("START_REPLICATION SLOT s LOGICAL 0/0", "42601", "logical"),
            ("BASE_BACKUP", "42601", "IDENTIFY_SYSTEM"),
            ("select 1", "42601", "IDENTIFY_SYSTEM"),
            ("", "42601", "IDENTIFY_SYSTEM"),
            ("IDENTIFY_SYSTEM " * 400, "42601", ""),
            ("\udcff\udcfe", "42601", "not understood"),
        ]:
            code, message = await refusal(client, text)
            assert code == sqlstate, text
            assert part in message


# Streams.


@in_loop
async def test_committed_wal_is_pushed_as_it_advances(source: MemorySource, tmp_path: Path) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in(application_name="r\t1")
        await start(client, START)
        await receive(client, source, START, START + 1000)
        for _ in range(3):
            before = source.committed
            source.advance(before + 77)
            await receive(client, source, before, source.committed)
        await nothing_more(client, source.committed)
        (status,) = world.server.standbys(GROUP)
        assert (status.application_name, status.tli, status.gate) == ("r?1", 1, None)
        assert status.sent == status.flush == source.committed
        assert world.server.standbys("demo.other") == []


@pytest.mark.parametrize("is_slow", [False, True], ids=["at-hand", "fetched"])
@in_loop
async def test_backlog_comes_in_large_pieces_and_waits_for_a_slow_reader(
    source: MemorySource, tmp_path: Path, is_slow: bool
) -> None:
    source.is_slow = is_slow
    size_bytes = 24 * XLOG_DATA_BYTES_MAX
    source.advance(START + size_bytes)
    settings = ReplicationSettings(write_buffer_bytes_max=2 * XLOG_DATA_BYTES_MAX)
    async with serving(source, tmp_path, settings=settings) as world:
        slow, other = await world.log_in(), await world.log_in(application_name="r2")
        await start(slow, START)
        await start(other, START)
        # The other one gets everything while nobody reads what the slow one is sent.
        await receive(other, source, START, START + size_bytes)
        (status, _) = world.server.standbys()
        assert status.sent < START + size_bytes
        assert await receive(slow, source, START, START + size_bytes) == 24


@in_loop
async def test_advances_of_one_turn_are_one_message_to_each_reader(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        clients = [await world.log_in(application_name=f"r{number}") for number in range(3)]
        for client in clients:
            await start(client, source.committed)
        assert len(source.wakes) == 1
        before = source.committed
        for _ in range(10):
            source.advance(source.committed + 10)
        for client in clients:
            assert await receive(client, source, before, before + 100) == 1
            client.send(encode(Terminate()))
            assert await client.at_eof()
    assert not source.wakes


@in_loop
async def test_stream_ends_at_the_fork_and_goes_on_with_the_next_timeline(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        fork = source.committed
        await receive(client, source, START, fork)
        source.fork(fork + 500)
        assert await client.message() == CopyDone()
        client.report(fork)  # on its way when the reader hears of the end
        client.send(encode(CopyDone()))
        _, data, *tags, _ready = await client.messages(ReadyForQuery)
        assert data == DataRow((b"2", str(fork).encode()))
        assert tags == [CommandComplete("START_STREAMING"), CommandComplete("START_REPLICATION")]
        await start(client, START, 2)
        await receive(client, source, START, fork + 500)


@in_loop
async def test_start_at_exactly_the_fork_names_the_next_timeline_at_once(
    source: MemorySource, tmp_path: Path
) -> None:
    fork = source.committed
    source.fork(fork + 500)
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        answer = await ask(client, f"START_REPLICATION {fork} TIMELINE 1")
        assert [type(message) for message in answer] == [
            RowDescription,
            DataRow,
            CommandComplete,
            CommandComplete,
        ]


@in_loop
async def test_reader_may_end_its_stream_and_begin_another(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        for _ in range(2):
            await start(client, START)
            client.send(encode(CopyDone()))
            *wal, done, first, second, _ready = await client.messages(ReadyForQuery)
            assert all(isinstance(message, CopyData) for message in wal)
            assert done == CopyDone()
            assert first == CommandComplete("START_STREAMING")
            assert second == CommandComplete("START_REPLICATION")
        assert world.server.standbys() == []


@in_loop
async def test_gate_holds_and_opens(source: MemorySource, tmp_path: Path) -> None:
    gate = Gate(START + 333)
    async with serving(source, tmp_path, gate_of=lambda _: gate) as world:
        client = await world.log_in()
        await start(client, START)
        await receive(client, source, START, START + 333)
        source.fork(source.committed + 500)
        await nothing_more(client, START + 333)
        gate.move(START + 100)  # what was sent cannot be taken back
        await nothing_more(client, START + 333)
        gate.move(START + 400)
        await receive(client, source, START + 333, START + 400)
        await nothing_more(client, START + 400)
        gate.move(None)
        await receive(client, source, START + 400, START + 1000)
        assert await client.message() == CopyDone()


@in_loop
async def test_keepalives_are_answered_while_wal_is_fetched(
    source: MemorySource, tmp_path: Path
) -> None:
    source.is_slow = True
    source.may_fetch.clear()
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        await nothing_more(client, START)
        source.may_fetch.set()
        await receive(client, source, START, START + 1000)


@in_loop
async def test_reader_may_leave_while_wal_is_fetched(source: MemorySource, tmp_path: Path) -> None:
    source.is_slow = True
    source.may_fetch.clear()
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        client.send(encode(CopyDone()))
        assert await client.message() == CopyDone()
        await client.messages(ReadyForQuery)
        source.may_fetch.set()
        await start(client, START)
        await receive(client, source, START, START + 1000)


@in_loop
async def test_reader_that_diverged_is_told_so(source: MemorySource, tmp_path: Path) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        await receive(client, source, START, START + 1000)
        source.committed = START + 990  # which no log does: a promotion before the committed end
        source.fork(START + 2000)
        code, message = await fatal(client)
        assert code == "XX000"
        assert "make the standby anew" in message


@in_loop
async def test_reader_that_lags_behind_the_trimmed_log_is_told_so(
    source: MemorySource, tmp_path: Path
) -> None:
    for source.is_slow in (False, True):
        async with serving(source, tmp_path) as world:
            client = await world.log_in()
            await start(client, source.committed)
            source.oldest = Lsn(source.committed + 10)
            source.advance(source.committed + 100)
            code, message = await fatal(client)
            assert (code, "has already been removed" in message) == ("58P01", True)


@in_loop
async def test_wal_that_cannot_be_read_ends_the_stream(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "the disk says no")

    source.is_slow = True
    monkeypatch.setattr(MemorySource, "load", fail)
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, START)
        code, message = await fatal(client)
        assert code == "58030"
        assert "disk" not in message


# The end.


@in_loop
async def test_close_tells_streams_as_postgres_does_and_the_others_why(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        streaming, idle, silent = await world.log_in(), await world.log_in(), await world.connect()
        await start(streaming, source.committed)
        await world.server.close()
        assert await streaming.message() == CommandComplete("COPY 0")
        assert await streaming.at_eof()
        assert (await fatal(idle))[0] == "57P01"
        assert (await fatal(silent))[0] == "57P01"
        assert not (tmp_path / ".s.PGSQL.5432").exists()


@in_loop
async def test_close_does_not_wait_for_a_reader_that_does_not_read(
    source: MemorySource, tmp_path: Path
) -> None:
    source.advance(START + 64 * XLOG_DATA_BYTES_MAX)
    settings = ReplicationSettings(drain_timeout_ms=50)
    async with serving(source, tmp_path, settings=settings) as world:
        client = await world.log_in()
        await start(client, START)
        await world.server.close()
        assert world.server.standbys() == []


@in_loop
async def test_a_group_that_leaves_the_node_takes_its_readers_along(
    source: MemorySource, tmp_path: Path
) -> None:
    async with serving(source, tmp_path) as world:
        client = await world.log_in()
        await start(client, source.committed)
        world.server.disconnect("demo.other")
        await nothing_more(client, source.committed)
        world.server.disconnect(GROUP)
        assert await client.message() == CommandComplete("COPY 0")
