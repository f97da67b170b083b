"""The replication client against servers that lie, are silent, or hang up.

The other end of each connection is played by the test. In scope: what is sent and answered, the
limits, nonsense of every kind, how a connection ends. Out of scope: real servers
(tests/integration/test_replication_client.py), cutting the stream (test_wal_receiver.py).
"""

import asyncio
import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
from unit.fabric.certificates import Authority
from unit.log_service.liars import (
    NAME,
    START,
    TLI,
    Arrive,
    meet,
    meet_streaming,
    over_tcp,
    wal,
    with_liar,
)
from unit.log_service.wal_recorder import Recorder

from fabric.addresses import UnixAddress
from fabric.ids import ClusterName, Role
from fabric.tls import ClientTls, IdentityError, client_context
from log_service import replication_client
from log_service.replication_client import (
    ConnectionLostError,
    Piece,
    ReplicationClient,
    ReplicationSettings,
    ServerRefusedError,
    Upstream,
)
from pgwire.backend import (
    BackendMessage,
    CommandComplete,
    DataRow,
    ErrorResponse,
    NoticeResponse,
    ParameterStatus,
    ReadyForQuery,
)
from pgwire.copying import CopyBothResponse, CopyData, CopyDone
from pgwire.errors import ProtocolError
from pgwire.frontend import Terminate
from pgwire.messages import decode_frontend
from pgwire.replication import (
    encode_keepalive,
)
from pgwire.startup import ACCEPTED, REFUSED, SslRequest

SECRET = "pencil"  # noqa: S105  # of these tests
CLIENT_URI = "seawall://blue/log/l1"


def client_tls(authority: Authority) -> ClientTls:
    context = client_context(authority.issue(CLIENT_URI))
    return ClientTls(context, ClusterName("blue"), Role.COMPUTE)


@pytest.fixture
def path(run_root: Path) -> Path:
    """Where a liar listens."""
    return run_root / "s"


def test_startup_packet_names_us(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        connecting = asyncio.create_task(ReplicationClient.connect(upstream))
        startup = await (await arrive()).let_in()
        assert startup.parameters == {
            "user": "ada",
            "database": "replication",
            "replication": "true",
            "application_name": NAME,
        }
        (await connecting).close()

    with_liar(story, path)


def test_burst_is_one_callback_and_a_report_one_message(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive)
        liar.send(wal(START, b"one"), wal(START + 3, b"two"), wal(START + 6, b"three"))
        await recorder.until(lambda: recorder.bursts)
        assert [[bytes(data) for _, data in burst] for burst in recorder.bursts] == [
            [b"one", b"two", b"three"]
        ]
        client.report(START + 11)
        client.report(START + 11)
        client.report(START + 3)
        status = await liar.status()
        assert (status.write, status.flush, status.apply) == (START + 11, START + 11, 0)
        assert status.sent_us == (1_000_000_000 - 946_684_800) * 1_000_000
        client.close()
        assert decode_frontend(*await liar.frame()) == Terminate()
        with pytest.raises(EOFError):
            await liar.frame()

    with_liar(story, path)


def test_keepalive_that_asks_is_answered_with_the_last_report(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive)
        liar.send(encode_keepalive(START, 0, True))
        assert (await liar.status()).flush == 0
        liar.send(wal(START, b"one"))
        await recorder.until(lambda: recorder.bursts)
        client.report(START + 3)
        assert (await liar.status()).flush == START + 3
        liar.send(encode_keepalive(START, 0, False), encode_keepalive(START, 0, True))
        assert (await liar.status()).flush == START + 3
        client.close()

    with_liar(story, path)


def test_new_stream_reports_nothing_of_the_old_one(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive)
        client.report(START + 100)
        await liar.status()
        liar.send(CopyDone())
        assert await liar.frame() == (ord("c"), b"")
        liar.send(CommandComplete("START_STREAMING"), ReadyForQuery())
        await recorder.until(lambda: recorder.ended)
        assert recorder.ended == [(None, START)]
        starting = asyncio.create_task(
            client.start(slot=None, lsn=START, tli=TLI, handler=recorder)
        )
        await liar.query()
        liar.send(CopyBothResponse(), encode_keepalive(START, 0, True))
        await starting
        assert (await liar.status()).flush == 0
        client.close()

    with_liar(story, path)


def test_wal_in_the_same_burst_as_the_answer_is_not_missed(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar = await meet(upstream, arrive)
        recorder = Recorder(client, reports=False)
        starting = asyncio.create_task(
            client.start(slot=None, lsn=START, tli=TLI, handler=recorder)
        )
        await liar.query()
        liar.send(CopyBothResponse(), wal(START, b"one"), wal(START + 4, b"gap"))
        await starting
        assert "was expected" in await recorder.until_lost()

    with_liar(story, path)


LIES: list[tuple[tuple[bytes | BackendMessage, ...], str]] = [
    ((wal(START + 1, b"x"),), "goes on at 0/1000001, where 0/1000000 was expected"),
    ((wal(START, b"one"), wal(START, b"one")), "goes on at 0/1000000"),
    ((wal(START, bytes(128 * 1024 + 1)),), "announces a length of"),
    ((b"d\xff\xff\xff\xffw" + bytes(30),), "announces a length of"),
    ((CopyData(b"?"),), "CopyData out of turn"),
    ((CopyData(b"?" + bytes(40)),), "unknown"),
    ((b"?\0\0\0\4",), "no messages of kind"),
    ((ReadyForQuery(),), "ReadyForQuery out of turn"),
    ((CopyBothResponse(),), "CopyBothResponse out of turn"),
    ((ErrorResponse.of("ERROR", "58P01", "WAL was removed"),), "58P01: WAL was removed"),
    ((CommandComplete("COPY 0"),), "shut down"),
    ((CopyDone(), ErrorResponse.of("ERROR", "XX000", "no"), ReadyForQuery()), "XX000: no"),
    ((CopyDone(), DataRow((b"x", b"y")), ReadyForQuery()), "did not name a timeline"),
    ((CopyDone(), DataRow((None, None)), ReadyForQuery()), "did not name a timeline"),
    ((CopyDone(), DataRow((b"2",)), ReadyForQuery()), "did not name a timeline"),
    ((CopyDone(), *[DataRow(())] * 17), "DataRow out of turn"),
    ((CopyDone(), wal(START, b"x")), "CopyData out of turn"),
    ((CopyDone(), CopyBothResponse()), "CopyBothResponse out of turn"),
]


@pytest.mark.parametrize(("lie", "sentence"), LIES)
def test_liar_is_left_with_a_clear_sentence(
    lie: tuple[bytes | BackendMessage, ...], sentence: str, path: Path
) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        _, liar, recorder = await meet_streaming(upstream, arrive)
        liar.send(*lie)
        assert sentence in await recorder.until_lost()

    with_liar(story, path)


def test_notices_and_settings_do_not_disturb_the_stream(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive)
        notice = NoticeResponse.of("WARNING", "01000", "careful")
        liar.send(wal(START, b"a"), notice, ParameterStatus("a", "b"), wal(START + 1, b"b"))
        await recorder.until(lambda: recorder.end == START + 2)
        client.close()

    with_liar(story, path)


def test_silent_server_is_asked_and_then_left(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        _, liar, recorder = await meet_streaming(upstream, arrive, silence_ms_max=60)
        while not (await liar.status()).reply_requested:
            pass
        assert await recorder.until_lost() == "the server has been silent for 60 ms"

    with_liar(story, path)


def test_server_that_does_not_end_what_it_ends_is_left(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        _, liar, recorder = await meet_streaming(upstream, arrive, silence_ms_max=60)
        liar.send(CopyDone())
        assert "silent" in await recorder.until_lost()

    with_liar(story, path)


def test_server_that_does_not_read_costs_no_memory(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, _ = await meet_streaming(upstream, arrive, silence_ms_max=10**6)
        last = START
        for _ in range(50):
            for _ in range(1000):
                last += 1
                client.report(last)
            await asyncio.sleep(0)
        assert client._link.transport.get_write_buffer_size() < 1_000_000  # of some 2 MB
        while (await liar.status()).flush != last:
            pass
        client.close()

    with_liar(story, path)


def test_handler_may_close_in_the_middle_of_a_burst(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive)
        closed = asyncio.Event()

        def close(pieces: list[Piece]) -> None:
            assert len(pieces) == 1
            client.close()
            closed.set()

        recorder.instead = close
        liar.send(wal(START, b"one"), CopyDone(), wal(START + 3, b"two"))
        await closed.wait()
        assert decode_frontend(*await liar.frame()) == Terminate()
        with pytest.raises(EOFError):
            await liar.frame()
        assert not recorder.lost
        assert not recorder.ended

    with_liar(story, path)


def test_mistake_of_a_handler_ends_its_stream_and_is_reported(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        _, liar, recorder = await meet_streaming(upstream, arrive)

        def stumble(_pieces: list[Piece]) -> None:
            raise ZeroDivisionError("a mistake")

        recorder.instead = stumble
        liar.send(wal(START, b"one"))
        assert await recorder.until_lost() == "a mistake"
        assert [type(what["exception"]) for what in reported] == [ZeroDivisionError]

    with_liar(story, path)


def test_words_of_a_server_that_leaves_are_remembered(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar = await meet(upstream, arrive)
        liar.send(ErrorResponse.of("FATAL", "57P01", "shutting down"))
        with pytest.raises(EOFError):
            await liar.frame()
        with pytest.raises(ConnectionLostError, match="57P01: shutting down"):
            await client.identify()

    with_liar(story, path)


def test_server_that_we_do_not_read_is_not_called_silent(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar, recorder = await meet_streaming(upstream, arrive, silence_ms_max=60)
        client.pause_reading()
        for _ in range(5):
            assert not (await liar.status()).reply_requested
        assert not recorder.lost
        client.resume_reading()
        assert "silent" in await recorder.until_lost()

    with_liar(story, path)


def test_server_that_hangs_up_in_the_middle_is_told(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        _, liar, recorder = await meet_streaming(upstream, arrive)
        liar.send(wal(START, b"one")[:-1])
        await liar.hang_up()
        assert "closed the connection" in await recorder.until_lost()
        assert not recorder.bursts

    with_liar(story, path)


def test_server_that_answers_nothing_is_left(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        with pytest.raises(ConnectionLostError, match=r"let us in at .* within 50 ms"):
            await ReplicationClient.connect(upstream, ReplicationSettings(login_timeout_ms=50))
        await arrive()
        client, _ = await meet(upstream, arrive, command_timeout_ms=50)
        with pytest.raises(ConnectionLostError, match="answer IDENTIFY_SYSTEM within 50 ms"):
            await client.identify()
        assert not client.is_open

    with_liar(story, path)


def test_command_that_is_cancelled_takes_the_connection_with_it(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar = await meet(upstream, arrive)
        asking = asyncio.create_task(client.identify())
        await liar.query()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(ConnectionLostError, match="cancelled"):
            await client.show("port")

    with_liar(story, path)


def test_two_commands_at_once_are_a_mistake(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, _, _ = await meet_streaming(upstream, arrive)
        with pytest.raises(RuntimeError, match="one thing at a time"):
            await client.identify()
        client.close()

    with_liar(story, path)


@pytest.mark.parametrize(
    "answer",
    [
        (CommandComplete("x"),),
        (DataRow((b"1", b"1")),),
        (DataRow((b"1", b"1", b"0/1", None)), DataRow((b"1", b"1", b"0/1", None))),
        (DataRow((b"x", b"1", b"0/1", None)),),
        (DataRow((b"1", b"0", b"0/1", None)),),
        (DataRow((b"1", b"1", b"\xff", None)),),
        (DataRow((None, b"1", b"0/1", None)),),
    ],
)
def test_answer_that_makes_no_sense_closes(answer: tuple[BackendMessage, ...], path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar = await meet(upstream, arrive)
        asking = asyncio.create_task(client.identify())
        await liar.query()
        liar.send(*answer, ReadyForQuery())
        with pytest.raises(ProtocolError):
            await asking
        assert not client.is_open

    with_liar(story, path)


def test_last_words_of_a_server_are_told(path: Path) -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, liar = await meet(upstream, arrive)
        asking = asyncio.create_task(client.identify())
        await liar.query()
        liar.send(ErrorResponse.of("FATAL", "57P01", "shutting down"))
        await liar.hang_up()
        with pytest.raises(ServerRefusedError, match="57P01: shutting down"):
            await asking
        assert not client.is_open

    with_liar(story, path)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (REFUSED, "does not speak TLS"),
        (b"E", "does not speak TLS"),
        (ACCEPTED + b"R", "in clear text before TLS"),
    ],
)
def test_liar_cannot_talk_us_out_of_tls(answer: bytes, sentence: str, tmp_path: Path) -> None:
    tls = client_tls(Authority.create(tmp_path / "ca"))

    async def story(upstream: Upstream, arrive: Arrive) -> None:
        connecting = asyncio.create_task(
            ReplicationClient.connect(dataclasses.replace(upstream, tls=tls))
        )
        liar = await arrive()
        assert isinstance(await liar.startup(), SslRequest)
        liar.send(answer)
        with pytest.raises((ConnectionLostError, ProtocolError), match=sentence):
            await connecting

    over_tcp(story)


def test_plain_tcp_is_spoken_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication_client, "socket_is_loopback", lambda _name: False)

    async def story(upstream: Upstream, arrive: Arrive) -> None:
        connecting = asyncio.create_task(ReplicationClient.connect(upstream))
        liar = await arrive()
        with pytest.raises(IdentityError, match="is not loopback: use TLS"):
            await connecting
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await liar.startup()

    over_tcp(story)


def test_kernel_queues_no_more_than_it_was_told() -> None:
    async def story(upstream: Upstream, arrive: Arrive) -> None:
        client, _ = await meet(upstream, arrive, kernel_buffer_bytes=100_000)
        connected = client._link.transport.get_extra_info("socket")
        # Linux doubles the number, to account for its own bookkeeping.
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        client.close()

    over_tcp(story)


def test_tls_on_a_unix_socket_is_a_mistake(tmp_path: Path) -> None:
    tls = client_tls(Authority.create(tmp_path / "ca"))
    with pytest.raises(ValueError, match="no TLS on a Unix socket"):
        Upstream(address=UnixAddress("/s"), user="ada", application_name=NAME, tls=tls)


def test_no_repr_shows_the_password() -> None:
    upstream = Upstream(
        address=UnixAddress("/s"), user="ada", application_name=NAME, password=SECRET
    )
    assert SECRET not in repr(upstream)
