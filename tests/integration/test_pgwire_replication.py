"""Replication with real servers of every major: commands, stream, end of a timeline.

What the servers answer to commands is what a replication server of ours has to answer, so the
columns and their types are written down here.
"""

from collections.abc import Iterator

import psycopg
import pytest
from fixtures.servers import Fleet
from integration.pgwire_peer import Messages, Peer, of_class

from fabric.lsn import Lsn, Tli
from pgwire.backend import (
    CommandComplete,
    DataRow,
    ErrorResponse,
    ReadyForQuery,
    RowDescription,
)
from pgwire.copying import CopyBothResponse, CopyDone
from pgwire.frontend import Query
from pgwire.replication import (
    Command,
    CreateReplicationSlot,
    DropReplicationSlot,
    HotStandbyFeedback,
    IdentifySystem,
    Keepalive,
    ReadReplicationSlot,
    Show,
    StartReplication,
    TimelineHistory,
    XLogData,
    encode_feedback,
    encode_status_update,
    format_command,
)
from pgwire.rows import INT4, INT8, TEXT, ColumnType
from sqlnode.postgres import Postgres, request_standby

pytestmark = pytest.mark.postgres

INT8_TIMELINE_SINCE = 16
SOME_TIME_US = 800_000_000_000_000


@pytest.fixture
def server(fleet: Fleet) -> Postgres:
    server = fleet.server("s")
    server.start_blocking()
    return server


@pytest.fixture
def peer(server: Postgres) -> Iterator[Peer]:
    with Peer(server, parameters={"replication": "true"}) as peer:
        yield peer
        peer.leave()


def command(peer: Peer, what: Command) -> Messages:
    return peer.query(format_command(what))


def columns(answers: Messages) -> list[tuple[str, ColumnType]]:
    [description] = of_class(answers, RowDescription)
    assert isinstance(description, RowDescription)
    return [(c.name, ColumnType(c.type_oid, c.type_bytes)) for c in description.columns]


def row(answers: Messages) -> tuple[bytes | None, ...]:
    [data] = of_class(answers, DataRow)
    assert isinstance(data, DataRow)
    return data.values


def identify(peer: Peer) -> tuple[Tli, Lsn]:
    _, tli, lsn, _ = row(command(peer, IdentifySystem()))
    assert tli is not None
    assert lsn is not None
    return Tli.parse(tli.decode()), Lsn.parse(lsn.decode())


def error_code(answers: Messages) -> str:
    [error] = of_class(answers, ErrorResponse)
    assert isinstance(error, ErrorResponse)
    return error.sqlstate


def execute(server: Postgres, sql: str) -> None:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(sql.encode())


def timeline_type(server: Postgres) -> ColumnType:
    return INT8 if server.binaries.version.major >= INT8_TIMELINE_SINCE else INT4


def test_identify_system(server: Postgres, peer: Peer) -> None:
    answers = command(peer, IdentifySystem())
    assert columns(answers) == [
        ("systemid", TEXT),
        ("timeline", timeline_type(server)),
        ("xlogpos", TEXT),
        ("dbname", TEXT),
    ]
    system_identifier, tli, lsn, database = row(answers)
    assert system_identifier == str(server.control().system_identifier).encode()
    assert (tli, database) == (b"1", None)
    assert lsn is not None
    assert Lsn.parse(lsn.decode()) > 0
    assert answers[-2:] == [CommandComplete("IDENTIFY_SYSTEM"), ReadyForQuery()]


def test_show(peer: Peer) -> None:
    answers = command(peer, Show("wal_segment_size"))
    assert columns(answers) == [("wal_segment_size", TEXT)]
    assert row(answers) == (b"16MB",)
    assert answers[-2] == CommandComplete("SHOW")


def test_slot_is_made_read_and_dropped(server: Postgres, peer: Peer) -> None:
    made = command(peer, CreateReplicationSlot("s_1", reserve_wal=True))
    assert columns(made) == [
        ("slot_name", TEXT),
        ("consistent_point", TEXT),
        ("snapshot_name", TEXT),
        ("output_plugin", TEXT),
    ]
    assert row(made) == (b"s_1", b"0/0", None, None)
    assert made[-2] == CommandComplete("CREATE_REPLICATION_SLOT")
    assert error_code(command(peer, CreateReplicationSlot("s_1"))) == "42710"

    read = command(peer, ReadReplicationSlot("s_1"))
    assert columns(read) == [
        ("slot_type", TEXT),
        ("restart_lsn", TEXT),
        ("restart_tli", INT8),
    ]
    kind, lsn, tli = row(read)
    assert (kind, tli) == (b"physical", b"1")
    assert lsn is not None
    assert row(command(peer, ReadReplicationSlot("none"))) == (None, None, None)

    dropped = command(peer, DropReplicationSlot("s_1", wait=True))
    assert dropped == [CommandComplete("DROP_REPLICATION_SLOT"), ReadyForQuery()]
    temporary = CreateReplicationSlot("s_2", temporary=True)
    assert row(command(peer, temporary))[0] == b"s_2"


def test_stream_is_the_wal_of_the_server(server: Postgres, peer: Peer) -> None:
    tli, start = identify(peer)
    execute(server, "create table t (a text); insert into t select repeat('x', 1000000)")
    # A write that waits for nothing, so that the position is surely beyond everything above.
    execute(server, "select pg_switch_wal()")
    command(peer, CreateReplicationSlot("s"))
    peer.send(Query(format_command(StartReplication("s", start.segment_start(), tli))))
    assert peer.receive() == CopyBothResponse()

    end, wal = start.segment_start(), bytearray()
    segment_end = end + 16 * 1024 * 1024
    while end < segment_end:
        message = peer.receive_stream()
        if isinstance(message, XLogData):
            assert message.start == end
            assert message.sent_us > SOME_TIME_US
            end += len(message.data)
            wal += message.data
    segment = server.data_dir / "pg_wal" / f"{tli:08X}{0:08X}{start // (16 * 1024 * 1024):08X}"
    assert wal == segment.read_bytes()

    # A status update that asks for an answer gets a keepalive.
    peer.send_bytes(encode_feedback(HotStandbyFeedback(SOME_TIME_US, 0, 0, 0, 0)))
    peer.send_bytes(encode_status_update(end, end, end, SOME_TIME_US, True))
    while not isinstance(message := peer.receive_stream(), Keepalive):
        pass
    assert message.end >= end
    assert reported(server) == f"{end} {end} {end}"

    peer.send(CopyDone())
    answers = peer.answers()
    assert CopyDone() in answers
    assert answers[-1] == ReadyForQuery()
    assert of_class(answers, CommandComplete)[-1] == CommandComplete("START_REPLICATION")


def reported(server: Postgres) -> str:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        found = connection.execute(
            "select write_lsn::text || ' ' || flush_lsn || ' ' || replay_lsn"
            " from pg_stat_replication"
        ).fetchone()
    assert found is not None
    return str(found[0])


def test_position_beyond_the_end_is_refused(peer: Peer) -> None:
    tli, end = identify(peer)
    answers = peer.query(format_command(StartReplication(None, end + (1 << 32), tli)))
    assert error_code(answers) == "XX000"


def test_end_of_a_timeline(fleet: Fleet) -> None:
    data_dir = fleet.make_cluster("s")
    request_standby(data_dir, fleet.identity)
    server = fleet.server("s", data_dir=data_dir)
    server.start_blocking()
    server.promote_blocking()
    with Peer(server, parameters={"replication": "true"}) as peer:
        assert identify(peer)[0] == Tli(2)
        history = command(peer, TimelineHistory(Tli(2)))
        assert columns(history) == [("filename", TEXT), ("content", TEXT)]
        name, content = row(history)
        assert name == b"00000002.history"
        assert content == (server.data_dir / "pg_wal" / "00000002.history").read_bytes()
        fork = Lsn.parse(content.decode().split("\t")[1])
        assert error_code(command(peer, TimelineHistory(Tli(7)))) == "58P01"
        verify_end_of_stream(peer, fork)
        # Exactly at the fork there is nothing to stream, and so no CopyBothResponse.
        answers = command(peer, StartReplication(None, fork, Tli(1)))
        verify_next_timeline(answers, fork)
        beyond = command(peer, StartReplication(None, fork + 1, Tli(1)))
        assert error_code(beyond) == "XX000"
        peer.leave()


def verify_end_of_stream(peer: Peer, fork: Lsn) -> None:
    start = fork.segment_start()
    peer.send(Query(format_command(StartReplication(None, start, Tli(1)))))
    assert peer.receive() == CopyBothResponse()
    end = start
    while end < fork:
        message = peer.receive_stream()
        if isinstance(message, XLogData):
            assert message.start == end
            end += len(message.data)
    assert end == fork
    assert peer.answers(CopyDone) == [CopyDone()]
    verify_next_timeline(peer.ask(CopyDone()), fork)


def verify_next_timeline(answers: Messages, fork: Lsn) -> None:
    assert columns(answers) == [("next_tli", INT8), ("next_tli_startpos", TEXT)]
    assert row(answers) == (b"2", str(fork).encode())
    assert answers[2:] == [
        CommandComplete("START_STREAMING"),
        CommandComplete("START_REPLICATION"),
        ReadyForQuery(),
    ]
