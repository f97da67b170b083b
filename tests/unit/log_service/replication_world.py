"""What the tests of the replication server share: WAL in memory, and a client of a few frames."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import uvloop

from fabric.addresses import Address, UnixAddress, parse_address
from fabric.frames import Buffer
from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.history import TimelineHistory, extend_history
from log_service.replication_admission import Admission, Applicant
from log_service.replication_server import ReplicationServer
from log_service.replication_session import ReplicationSettings
from log_service.replication_source import Gate, WalRemovedError, WalSource
from log_service.replication_stream import XLOG_DATA_BYTES_MAX
from pgwire.backend import (
    BackendMessage,
    CommandComplete,
    DataRow,
    ErrorResponse,
    ReadyForQuery,
    RowDescription,
)
from pgwire.copying import CopyBothResponse, CopyData
from pgwire.frames import FrameReader
from pgwire.frontend import Query
from pgwire.messages import BACKEND_LIMITS, decode_backend, encode
from pgwire.replication import (
    Keepalive,
    StreamMessage,
    XLogData,
    decode_copy_data,
    encode_status_update,
)
from pgwire.startup import MAJOR, StartupMessage, encode_startup

P = ParamSpec("P")

GROUP = "demo.main"
IDENTIFIER = SystemIdentifier(7123456789012345678)
NOWHERE = Lsn(0)
START = Lsn(0x1000000)
DEADLINE_S = 10.0  # for anything that a test waits for; only a failing one gets there


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test under uvloop, as the product does."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 6 * DEADLINE_S))

    return run


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class SourceBase:
    """The state and the notifications of a WAL source; where its bytes are is left open."""

    committed: Lsn
    history: TimelineHistory = field(default_factory=lambda: TimelineHistory(Tli(1)))
    system_identifier: SystemIdentifier = IDENTIFIER
    segment_bytes: int = 16 << 20
    server_version: str = "15.18"
    oldest: Lsn = NOWHERE
    history_files: dict[Tli, bytes] = field(default_factory=dict)
    wakes: set[Callable[[], None]] = field(default_factory=set)
    is_slow: bool = False  # nothing is at hand: everything has to be fetched
    may_fetch: asyncio.Event = field(default_factory=_set_event)  # what a fetch waits for

    @property
    def tli(self) -> Tli:
        """The newest timeline."""
        return self.history.tli

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """What followed a timeline, and where."""
        return self.history.fork_of(tli)

    def start(self, tli: Tli) -> Lsn:
        """What is kept."""
        del tli
        return self.oldest

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Remember whom to wake."""
        self.wakes.add(wake)
        return lambda: self.wakes.discard(wake)

    def advance(self, committed: Lsn) -> None:
        """Commit up to a position."""
        assert committed >= self.committed
        self.committed = committed
        self.wake()

    def promote(self, tli: Tli, file: bytes, history: TimelineHistory, committed: Lsn) -> None:
        """Go on with another timeline."""
        history.verify_extends(self.history)
        self.history_files[tli] = file
        self.history = history
        self.committed = committed
        self.wake()

    def wake(self) -> None:
        """Tell everybody that something has moved."""
        for wake in list(self.wakes):
            wake()

    def load(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Get bytes from wherever they are; may be called in any thread."""
        raise NotImplementedError

    def read_now(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer] | None:
        """Return bytes unless everything is slow."""
        return None if self.is_slow else self._checked(tli, lsn, bytes_max)

    async def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Return bytes from another thread."""
        await self.may_fetch.wait()
        return await asyncio.to_thread(self._checked, tli, lsn, bytes_max)

    def _checked(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        fork = self.fork_of(tli)
        assert 0 < bytes_max <= (self.committed if fork is None else fork[1]) - lsn
        if lsn < self.oldest:
            raise WalRemovedError
        return self.load(tli, lsn, bytes_max)


@dataclass(slots=True, eq=False)
class MemorySource(SourceBase):
    """WAL whose byte at a position depends on the position and on the timeline that wrote it."""

    def load(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Make the bytes up."""
        del tli
        # In two pieces, as records of the log would be.
        data = self.expected(lsn, lsn + bytes_max)
        half = len(data) // 2
        return [data[:half], memoryview(data)[half:]] if half else [data]

    def expected(self, start: Lsn, end: Lsn) -> bytes:
        """What a reader must get for [start, end)."""
        parts = []
        at = start
        while at < end:
            owner = self.history.owner_of(at)
            ended = self.history.fork_of(owner)
            stop = end if ended is None else min(end, ended[1])
            parts.append(_pattern(owner, at, stop))
            at = stop
        return b"".join(parts)

    def fork(self, committed: Lsn) -> None:
        """End the timeline where it is, and commit up to a position of the next one."""
        tli = Tli(self.tli + 1)
        history = extend_history(self.history, tli=tli, end=self.committed, reason="promoted")
        self.promote(tli, history.file, history, committed)


def _pattern(tli: Tli, start: Lsn, end: Lsn) -> bytes:
    period = bytes((at * 7 + tli) % 251 for at in range(251))
    first = start % len(period)
    return (period * (2 + (end - start) // len(period)))[first : first + (end - start)]


@dataclass(slots=True)
class Client:
    """A connection to the server; whatever it awaits has a deadline."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: FrameReader = field(default_factory=lambda: FrameReader(BACKEND_LIMITS))
    queued: list[tuple[int, bytes]] = field(default_factory=list)

    def send(self, *data: bytes) -> None:
        """Send frames."""
        self.writer.writelines(data)

    def query(self, text: str) -> None:
        """Send a command."""
        self.send(encode(Query(text)))

    def report(self, lsn: Lsn, *, reply_requested: bool = False) -> None:
        """Send a standby's report."""
        self.send(encode_status_update(lsn, lsn, lsn, 0, reply_requested))

    async def frame(self) -> tuple[int, bytes]:
        """Receive a frame; EOFError at the end of the connection."""
        while not self.queued:
            async with asyncio.timeout(DEADLINE_S):
                data = await self.reader.read(1 << 16)
            if not data:
                raise EOFError
            self.frames.feed(data)
            self.queued += [(kind, bytes(body)) for kind, body in self.frames]
        return self.queued.pop(0)

    async def message(self) -> BackendMessage:
        """Receive a message."""
        return decode_backend(*await self.frame())

    async def messages(self, until: type[BackendMessage]) -> list[BackendMessage]:
        """Read up to and including the first message of a kind."""
        found = [await self.message()]
        while not isinstance(found[-1], until):
            found.append(await self.message())
        return found

    async def streamed(self) -> StreamMessage:
        """Receive a message of the stream."""
        message = await self.message()
        assert isinstance(message, CopyData), message
        return decode_copy_data(message.data)

    async def at_eof(self) -> bool:
        """Wait for the end of the connection; False if anything came before."""
        try:
            await self.frame()
        except (EOFError, ConnectionResetError):
            return True
        return False

    def close(self) -> None:
        """Leave."""
        self.writer.close()


@dataclass(slots=True)
class World:
    """A server with one branch, and how to reach it."""

    server: ReplicationServer
    source: SourceBase
    address: Address
    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        """Connect and say nothing."""
        assert isinstance(self.address, UnixAddress)
        client = Client(*await asyncio.open_unix_connection(self.address.path))
        self.clients.append(client)
        return client

    async def log_in(self, application_name: str = "r1") -> Client:
        """Connect as a standby does, up to the first ReadyForQuery."""
        client = await self.connect()
        client.send(startup(application_name=application_name))
        await client.messages(ReadyForQuery)
        return client


def startup(minor: int = 0, **parameters: str) -> bytes:
    standby = {"user": GROUP, "replication": "true", "application_name": "r1"}
    return encode_startup(StartupMessage(MAJOR, minor, standby | parameters))


@asynccontextmanager
async def serving(
    source: SourceBase,
    directory: Path,
    *,
    settings: ReplicationSettings | None = None,
    admission: Admission | None = None,
    gate_of: Callable[[Applicant], Gate | None] = lambda _: None,
) -> AsyncIterator[World]:
    """Serve a source as the branch demo.main on a Unix socket."""
    sources: Mapping[str, WalSource] = {GROUP: source}
    server = ReplicationServer(
        source_of=sources.get,
        admission=admission or Admission(trusts_local=True),
        settings=settings,
        gate_of=gate_of,
    )
    address = await server.listen(parse_address(f"unix://{directory}/.s.PGSQL.5432"))
    world = World(server, source, address)
    try:
        yield world
    finally:
        for client in world.clients:
            client.close()
        await server.close()


async def ask(client: Client, text: str) -> list[object]:
    """Send a command; return what comes up to ReadyForQuery, without that."""
    client.query(text)
    *messages, _ready = await client.messages(ReadyForQuery)
    return list(messages)


async def row(client: Client, text: str) -> tuple[bytes | None, ...]:
    """Send a command; return its one row."""
    description, data, complete = await ask(client, text)
    assert isinstance(description, RowDescription)
    assert isinstance(complete, CommandComplete)
    assert complete.tag == text.partition(" ")[0]
    assert isinstance(data, DataRow)
    return data.values


async def refusal(client: Client, text: str) -> tuple[str, str]:
    """Send a command that is refused; return code and message. The session goes on."""
    (error,) = await ask(client, text)
    assert isinstance(error, ErrorResponse)
    assert error.severity == "ERROR"
    assert (await row(client, "IDENTIFY_SYSTEM"))[3] is None
    return error.sqlstate, error.message


async def start(client: Client, lsn: Lsn, tli: int = 1) -> None:
    """Begin a stream."""
    client.query(f"START_REPLICATION {lsn} TIMELINE {tli}")
    assert isinstance(await client.message(), CopyBothResponse)


async def receive(client: Client, source: MemorySource, begin: Lsn, end: Lsn) -> int:
    """Receive exactly [begin, end) and check every byte; return how many messages it took."""
    at, count = begin, 0
    while at < end:
        message = await client.streamed()
        if isinstance(message, Keepalive):
            continue
        assert isinstance(message, XLogData)
        assert message.start == at
        assert len(message.data) <= XLOG_DATA_BYTES_MAX
        assert bytes(message.data) == source.expected(at, at + len(message.data))
        at += len(message.data)
        count += 1
    assert at == end
    return count


async def nothing_more(client: Client, lsn: Lsn) -> None:
    """Show that nothing was sent beyond a position: a keepalive asked for comes next."""
    client.report(lsn, reply_requested=True)
    message = await client.streamed()
    assert isinstance(message, Keepalive)
    assert message.end == lsn


async def fatal(client: Client) -> tuple[str, str]:
    """Return code and message of the error with which the server ends the connection."""
    *_before, error = await client.messages(ErrorResponse)
    assert isinstance(error, ErrorResponse)
    assert error.severity == "FATAL"
    assert await client.at_eof()
    return error.sqlstate, error.message
