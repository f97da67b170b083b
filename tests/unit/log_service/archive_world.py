"""A branch whose WAL can be known in advance: for the tests of planning and of archiving.

`Branch` is the truth that both are held against. It says in its own way, byte by byte, whose WAL is
where; nothing of it is shared with the code under test but the vocabulary.
"""

import random
from dataclasses import dataclass, field
from functools import cache

from fabric.ids import BranchName, ClusterName
from fabric.lsn import Lsn, Tli, wal_file_name
from log_service.archive_plan import ArchiveLayout
from log_service.history import Fork, TimelineHistory, extend_history

SEGMENT = 1 << 20
START = Lsn(3 * SEGMENT)
FIRST = Tli(1)
WAL_BYTES_MAX = 12 * SEGMENT
ROOT = "blue/main/wal/"


@dataclass
class Branch:
    """A log that began at START, with what was committed since."""

    first_tli: Tli = FIRST
    history: TimelineHistory = field(init=False)
    files: dict[Tli, bytes] = field(default_factory=dict)
    committed: Lsn = START

    def __post_init__(self) -> None:
        # Older timelines are the past of a cluster that was brought here; the last of them ended
        # behind START, in a segment that the log has as a part of its own first timeline.
        older = tuple(Fork(Tli(tli), START + 5) for tli in range(1, self.first_tli))
        self.history = TimelineHistory(self.first_tli, older)

    @property
    def layout(self) -> ArchiveLayout:
        """Where its archive is."""
        return ArchiveLayout(
            cluster=ClusterName("blue"),
            branch=BranchName("main"),
            segment_bytes=SEGMENT,
            first_tli=self.first_tli,
        )

    def commit(self, size_bytes: int) -> None:
        """Let the newest timeline grow, within what `wal_of` can tell."""
        self.committed = min(self.committed + size_bytes, START + WAL_BYTES_MAX)

    def promote(self) -> None:
        """End the newest timeline where it is, and begin another."""
        tli = Tli(self.history.tli + 1)
        end = max(self.committed, self.history.start)
        self.history = extend_history(self.history, tli=tli, end=end, reason="promoted")
        self.files[tli] = self.history.file
        self.committed = end

    def spans(self) -> list[tuple[Tli, Lsn, Lsn]]:
        """Each timeline of the log with the WAL that is its own."""
        spans, start = [], START
        for fork in self.history.forks:
            if fork.tli >= self.first_tli:
                spans.append((fork.tli, start, fork.end))
                start = fork.end
        return [*spans, (self.history.tli, start, self.committed)]

    def owner(self, tli: Tli, lsn: Lsn) -> Tli:
        """In whose WAL the byte is that `tli` has at `lsn`."""
        spans = [span for span in self.spans() if span[0] <= tli]
        return next(span[0] for span in spans if span[1] <= lsn < span[2])

    def bytes_of(self, tli: Tli, start: Lsn, end: Lsn) -> bytes:
        """What `tli` and its ancestors have from `start` up to `end`."""
        assert START <= start <= end <= self.committed
        content = bytearray()
        for own, first, last in self.spans():
            if own <= tli and start < last and first < end:
                low, high = max(start, first) - START, min(end, last) - START
                content += wal_of(own)[low:high]
        assert len(content) == end - start
        return bytes(content)

    def expected(self, since: Lsn = START) -> dict[str, bytes]:
        """The whole archive, history files included."""
        newest = self.history.tli
        objects = {
            f"{ROOT}{tli:08X}/{tli:08X}.history": content for tli, content in self.files.items()
        }
        for tli, first, last in self.spans():
            start = max(first, since).segment_start(SEGMENT)
            while first < last and start < last:
                end, name = start + SEGMENT, f"{ROOT}{tli:08X}/{wal_file_name(tli, start, SEGMENT)}"
                if end <= last:
                    objects[name] = self.bytes_of(tli, start, end)
                elif tli != newest:
                    objects[name + ".partial"] = self.bytes_of(tli, start, last)
                start = end
        return objects


@cache
def wal_of(tli: Tli) -> bytes:
    """Bytes from START on that no other timeline has."""
    return random.Random(int(tli)).randbytes(WAL_BYTES_MAX)
