"""What real servers of every major send is decoded, and encoded again to the same bytes.

The client is a bare socket: nothing but pgwire decides what is sent. Drivers are in
test_pgwire_drivers.py, replication in test_pgwire_replication.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.servers import Fleet, new_run_root
from integration.pgwire_peer import Peer, connected, of_class, same_bytes, send_packet

from pgwire.authentication import AuthenticationOk
from pgwire.backend import (
    BackendKeyData,
    BindComplete,
    CloseComplete,
    CommandComplete,
    DataRow,
    EmptyQueryResponse,
    ErrorResponse,
    FunctionCallResponse,
    NegotiateProtocolVersion,
    NoData,
    NoticeResponse,
    NotificationResponse,
    ParameterDescription,
    ParameterStatus,
    ParseComplete,
    PortalSuspended,
    ReadyForQuery,
    RowDescription,
    TransactionStatus,
)
from pgwire.copying import CopyData, CopyDone, CopyFail, CopyInResponse, CopyOutResponse
from pgwire.fields import Format
from pgwire.frames import FrameReader
from pgwire.frontend import (
    Bind,
    Close,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Parse,
    Query,
    Sync,
    Target,
)
from pgwire.messages import BACKEND_LIMITS
from pgwire.startup import (
    REFUSED,
    CancelRequest,
    GssRequest,
    SslRequest,
    StartupMessage,
    encode_startup,
)
from sqlnode.postgres import Postgres
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

pytestmark = pytest.mark.postgres

INT4PL_OID = 177
INT4_OID, TEXT_OID = 23, 25
PROTOCOL_3_2_SINCE = 18


@pytest.fixture(scope="module")
def server(
    server_binaries: ServerBinaries, identity: Identity, cluster_template: Path
) -> Iterator[Postgres]:
    """One server for all; tests keep to temporary tables."""
    fleet = Fleet(
        binaries=server_binaries,
        identity=identity,
        directory=new_run_root(identity),
        template=cluster_template,
    )
    try:
        server = fleet.server("s")
        server.start_blocking()
        yield server
    finally:
        fleet.close()


@pytest.fixture
def peer(server: Postgres) -> Iterator[Peer]:
    with Peer(server) as peer:
        yield peer
        peer.leave()


def test_start_up_tells_key_and_settings(peer: Peer) -> None:
    assert peer.opening[0] == AuthenticationOk()
    [key] = of_class(peer.opening, BackendKeyData)
    assert isinstance(key, BackendKeyData)
    assert (key.pid > 0, len(key.key)) == (True, 4)
    settings = of_class(peer.opening, ParameterStatus)
    assert ParameterStatus("server_encoding", "UTF8") in settings
    assert peer.opening[-1] == ReadyForQuery(TransactionStatus.IDLE)


def test_protocol_3_2_is_spoken_or_negotiated(server: Postgres) -> None:
    with Peer(server, minor=2) as peer:
        negotiated = of_class(peer.opening, NegotiateProtocolVersion)
        [key] = of_class(peer.opening, BackendKeyData)
        assert isinstance(key, BackendKeyData)
        if server.binaries.version.major >= PROTOCOL_3_2_SINCE:
            assert (negotiated, len(key.key)) == ([], 32)
        else:
            assert (negotiated, len(key.key)) == ([NegotiateProtocolVersion(3, 0)], 4)


def test_unknown_options_of_the_protocol_are_named(server: Postgres) -> None:
    with Peer(server, parameters={"_pq_.seawall": "1"}) as peer:
        assert NegotiateProtocolVersion(3, 0, ("_pq_.seawall",)) in peer.opening


def test_refusal_is_an_error_with_its_code(server: Postgres) -> None:
    answer = send_packet(server, StartupMessage(3, 0, {"user": "nobody"}))
    reader = FrameReader(BACKEND_LIMITS)
    reader.feed(answer)
    *_, error = [same_bytes(kind, body) for kind, body in reader]
    assert isinstance(error, ErrorResponse)
    assert (error.severity, error.sqlstate) == ("FATAL", "28000")


@pytest.mark.parametrize("packet", [SslRequest(), GssRequest()])
def test_request_for_encryption_is_answered_by_one_byte(
    server: Postgres, packet: SslRequest | GssRequest
) -> None:
    with connected(server) as connection:
        connection.sendall(encode_startup(packet))
        assert connection.recv(2) == REFUSED


def test_simple_query(peer: Peer) -> None:
    answers = peer.query(
        "set client_min_messages = debug1; select 1 as one, null, 'Grüße'; ; "
        "do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; end $$"
    )
    [columns] = of_class(answers, RowDescription)
    assert isinstance(columns, RowDescription)
    assert [(c.name, c.type_oid) for c in columns.columns] == [
        ("one", INT4_OID),
        ("?column?", TEXT_OID),
        ("?column?", TEXT_OID),
    ]
    assert of_class(answers, DataRow) == [DataRow((b"1", None, "Grüße".encode()))]
    tags = [m.tag for m in answers if isinstance(m, CommandComplete)]
    assert tags == ["SET", "SELECT 1", "DO"]
    [notice] = of_class(answers, NoticeResponse)
    assert isinstance(notice, NoticeResponse)
    assert {code: notice.fields[code] for code in "VMDH"} == {
        "V": "NOTICE",
        "M": "n",
        "D": "d",
        "H": "h",
    }
    assert EmptyQueryResponse() in peer.query(" ")


def test_transaction_status_follows_the_session(peer: Peer) -> None:
    texts = ["begin", "select 1/0", "select 1", "rollback"]
    ready = [peer.query(text)[-1] for text in texts]
    status = TransactionStatus
    expected = [status.IN_TRANSACTION, status.FAILED, status.FAILED, status.IDLE]
    assert ready == [ReadyForQuery(each) for each in expected]


def test_columns_of_a_table_are_described(peer: Peer) -> None:
    peer.query('create temp table t (a int, b varchar(10), c text, d numeric(5, 2), e "char")')
    peer.query("insert into t values (1, 'x', repeat('y', 100000), 1.5, 'c')")
    peer.query("insert into t values (2)")
    answers = peer.query("select * from t")
    [columns] = of_class(answers, RowDescription)
    assert isinstance(columns, RowDescription)
    assert [(c.attribute_number, c.type_bytes, c.type_modifier) for c in columns.columns] == [
        (1, 4, -1),
        (2, -1, 14),
        (3, -1, -1),
        (4, -1, (5 << 16 | 2) + 4),
        (5, 1, -1),
    ]
    assert all(c.table_oid for c in columns.columns)
    assert DataRow((b"1", b"x", b"y" * 100_000, b"1.50", b"c")) in answers
    assert DataRow((b"2", None, None, None, None)) in answers


def test_extended_query(peer: Peer) -> None:
    answers = peer.ask(
        Parse("s", "select $1 + i, $2::text from generate_series(1, 3) i", (INT4_OID, 0)),
        Describe(Target.STATEMENT, "s"),
        Bind("p", "s", (Format.BINARY, Format.TEXT), (b"\0\0\0\5", b"x"), (Format.BINARY,)),
        Describe(Target.PORTAL, "p"),
        Execute("p", 2),
        Execute("p"),
        Close(Target.PORTAL, "p"),
        Close(Target.STATEMENT, "s"),
        Sync(),
    )
    described = [m for m in answers if isinstance(m, RowDescription)]
    assert [[c.format for c in m.columns] for m in described] == [
        [Format.TEXT, Format.TEXT],
        [Format.BINARY, Format.BINARY],
    ]
    rows = [DataRow((bytes([0, 0, 0, n]), b"x")) for n in (6, 7, 8)]
    assert answers == [
        ParseComplete(),
        ParameterDescription((INT4_OID, TEXT_OID)),
        described[0],
        BindComplete(),
        described[1],
        rows[0],
        rows[1],
        PortalSuspended(),
        rows[2],
        CommandComplete("SELECT 1"),
        CloseComplete(),
        CloseComplete(),
        ReadyForQuery(),
    ]


def test_statement_without_rows_is_described_as_such(peer: Peer) -> None:
    answers = peer.ask(Parse("", "create table t ()"), Describe(Target.STATEMENT, ""), Sync())
    assert answers == [ParseComplete(), ParameterDescription(()), NoData(), ReadyForQuery()]


def test_flush_brings_the_answers_so_far(peer: Peer) -> None:
    peer.send(Parse("", "select 1"), Flush())
    assert peer.answers(ParseComplete) == [ParseComplete()]
    assert peer.ask(Sync()) == [ReadyForQuery()]


def test_error_skips_to_the_next_sync(peer: Peer) -> None:
    answers = peer.ask(Parse("", "selec 1"), Describe(Target.STATEMENT, ""), Sync())
    error, ready = answers
    assert isinstance(error, ErrorResponse)
    assert (error.severity, error.sqlstate, error.fields["P"]) == ("ERROR", "42601", "1")
    assert 'syntax error at or near "selec"' in error.message
    assert ready == ReadyForQuery()


def test_parameters_up_to_the_limit_of_the_protocol(peer: Peer) -> None:
    count = 65_535
    answers = peer.ask(
        Parse("", "select $65535", (TEXT_OID,) * count),
        Describe(Target.STATEMENT, ""),
        Sync(),
    )
    assert ParameterDescription((TEXT_OID,) * count) in answers
    parameters = *(None,) * (count - 1), b"last"
    assert DataRow((b"last",)) in peer.ask(Bind("", "", (), parameters), Execute(""), Sync())


def test_columns_up_to_the_limit_of_the_server(peer: Peer) -> None:
    answers = peer.query("select " + ",".join(["1"] * 1664))
    assert DataRow((b"1",) * 1664) in answers
    too_many = peer.query("select " + ",".join(["1"] * 1665))
    assert [m.sqlstate for m in too_many if isinstance(m, ErrorResponse)] == ["54011"]


def test_function_call(peer: Peer) -> None:
    numbers = (b"\0\0\0\2", b"\0\0\0\3")
    call = FunctionCall(INT4PL_OID, (Format.BINARY,), numbers, Format.BINARY)
    assert peer.ask(call) == [FunctionCallResponse(b"\0\0\0\5"), ReadyForQuery()]
    null = FunctionCall(INT4PL_OID, (), (b"2", None), Format.TEXT)
    assert peer.ask(null) == [FunctionCallResponse(None), ReadyForQuery()]


def test_copy_in_and_out(peer: Peer) -> None:
    peer.query("create temp table t (a int, b text)")
    peer.send(Query("copy t from stdin"))
    assert peer.receive() == CopyInResponse(Format.TEXT, (Format.TEXT, Format.TEXT))
    pieces = CopyData(b"1\tone\n2"), CopyData(b"\ttwo\n")
    assert peer.ask(*pieces, CopyDone()) == [CommandComplete("COPY 2"), ReadyForQuery()]
    assert peer.query("copy t to stdout") == [
        CopyOutResponse(Format.TEXT, (Format.TEXT, Format.TEXT)),
        CopyData(b"1\tone\n"),
        CopyData(b"2\ttwo\n"),
        CopyDone(),
        CommandComplete("COPY 2"),
        ReadyForQuery(),
    ]
    binary = peer.query("copy t to stdout (format binary)")
    assert binary[0] == CopyOutResponse(Format.BINARY, (Format.BINARY, Format.BINARY))


def test_copy_that_the_client_gives_up(peer: Peer) -> None:
    peer.query("create temp table t (a int)")
    peer.send(Query("copy t from stdin"))
    peer.receive()
    error, ready = peer.ask(CopyData(b"1\n"), CopyFail("no more"))
    assert isinstance(error, ErrorResponse)
    assert error.sqlstate == "57014"
    assert "no more" in error.message
    assert ready == ReadyForQuery()


def test_notification(peer: Peer) -> None:
    answers = peer.query("listen c; notify c, 'p'")
    [key] = of_class(peer.opening, BackendKeyData)
    assert isinstance(key, BackendKeyData)
    assert NotificationResponse(key.pid, "c", "p") in answers


@pytest.mark.parametrize("minor", [0, 2])
def test_cancel_ends_the_running_statement(server: Postgres, minor: int) -> None:
    running = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    with Peer(server, minor=minor) as sleeper, Peer(server) as observer:
        [key] = of_class(sleeper.opening, BackendKeyData)
        assert isinstance(key, BackendKeyData)
        sleeper.send(Query("select pg_sleep(1000)"))
        while DataRow((b"1",)) not in observer.query(running):
            pass
        assert send_packet(server, CancelRequest(key.pid, key.key)) == b""
        [error] = of_class(sleeper.answers(), ErrorResponse)
        assert isinstance(error, ErrorResponse)
        assert error.sqlstate == "57014"


def test_latin_1_passes_unharmed(server: Postgres) -> None:
    with Peer(server, parameters={"client_encoding": "LATIN1"}) as peer:
        text = b"select 'Gr\xfc\xdfe' as \"\xfc\"".decode("utf-8", "surrogateescape")
        answers = peer.query(text)
        assert DataRow((b"Gr\xfc\xdfe",)) in answers
