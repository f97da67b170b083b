"""Where messages of WAL end: with a record, or at the end of a page.

In scope: WalStream, on a source that has anything and gives it in pieces of any length. Out of
scope: commands, sessions, real standbys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.replication_source import Gate
from log_service.replication_stream import PAGE_BYTES, XLOG_DATA_BYTES_MAX, WalStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fabric.frames import Buffer

SEGMENT = Lsn(0x17000000)
PATTERN = bytes(range(251))


class Source:
    """WAL whose bytes say where they are, up to an end that moves."""

    system_identifier = SystemIdentifier(1)
    segment_bytes = 16 * 1024 * 1024
    server_version = "15.18"
    tli = Tli(1)
    history_files: ClassVar[Mapping[Tli, bytes]] = {}

    def __init__(self, committed: Lsn, piece_bytes: int) -> None:
        self.committed = committed
        self._piece_bytes = piece_bytes

    def fork_of(self, tli: Tli) -> tuple[Tli, Lsn] | None:
        """It goes on."""
        del tli
        return None

    def start(self, tli: Tli) -> Lsn:
        """The start of a segment."""
        del tli
        return SEGMENT

    def read_now(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer] | None:
        """Two pieces."""
        del tli
        size_bytes = min(bytes_max, self._piece_bytes)
        first = size_bytes // 3
        return [content(lsn, first), content(lsn + first, size_bytes - first)]

    async def read(self, tli: Tli, lsn: Lsn, bytes_max: int) -> Sequence[Buffer]:
        """Everything is at hand."""
        raise NotImplementedError

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Nothing changes by itself."""
        return wake


def content(lsn: int, size_bytes: int) -> bytes:
    first = lsn % len(PATTERN)
    return (PATTERN * (2 + size_bytes // len(PATTERN)))[first : first + size_bytes]


def sent_ends(stream: WalStream, source: Source) -> list[Lsn]:
    """Have all sent that may be; where each message ended."""
    ends = []
    while count := stream.bytes_wanted():
        before = stream.sent
        pieces = source.read_now(source.tli, before, count)
        assert pieces is not None
        _, *bodies = stream.framed(pieces)
        body = b"".join(bytes(piece) for piece in bodies)
        assert body == content(before, len(body))
        assert stream.sent == before + len(body)
        ends.append(stream.sent)
    return ends


@given(
    start=st.integers(0, 3 * PAGE_BYTES),
    lengths=st.lists(st.integers(1, 3 * XLOG_DATA_BYTES_MAX), min_size=1, max_size=4),
    piece_bytes=st.integers(2 * PAGE_BYTES, 2 * XLOG_DATA_BYTES_MAX),
)
def test_messages_end_with_records_or_pages(
    start: int, lengths: list[int], piece_bytes: int
) -> None:
    source = Source(Lsn(SEGMENT + start), piece_bytes)
    stream = WalStream(source, None, tli=Tli(1), start=source.committed, now_us=lambda: 0)
    for length in lengths:
        source.committed = Lsn(source.committed + length)
        ends = sent_ends(stream, source)
        assert all(end % PAGE_BYTES == 0 for end in ends[:-1])
        assert ends[-1] == source.committed


def test_gate_ends_a_message() -> None:
    source = Source(Lsn(SEGMENT + 300_001), 1 << 20)
    gate = Gate(Lsn(SEGMENT + 200_003))
    stream = WalStream(source, gate, tli=Tli(1), start=SEGMENT, now_us=lambda: 0)
    assert sent_ends(stream, source) == [SEGMENT + 131_072, SEGMENT + 200_003]
    gate.move(None)
    assert sent_ends(stream, source) == [SEGMENT + 300_001]


@pytest.mark.parametrize("committed", [1, PAGE_BYTES, XLOG_DATA_BYTES_MAX])
def test_what_is_there_is_sent_at_once(committed: int) -> None:
    source = Source(Lsn(SEGMENT + committed), 1 << 20)
    stream = WalStream(source, None, tli=Tli(1), start=SEGMENT, now_us=lambda: 0)
    assert sent_ends(stream, source) == [SEGMENT + committed]
