"""Check a log on disk without opening it: every checksum, every link, every footer. Read-only.

For an operator who doubts a disk, and for tests. It goes by the same rules as recovery, but reads
every byte where recovery trusts footers, and it goes on after the first damage. It takes no lock:
give it a log at rest or a copy. A copy of a log in use is fine if `state` was copied first and the
segments in order of their names; entries may then be missing at the end, which is no finding.
"""

from dataclasses import dataclass, field
from pathlib import Path

from .disk_errors import LogError
from .disk_files import LogDirectory, OpenFile
from .log_recovery import check_range, live_headers, scan
from .log_state import LogState, SavedStart, StateFile, read_start
from .record import Kind
from .segment import SegmentHeader
from .segment_file import FoundDrain, read_footer, read_footer_bytes
from .segment_index import SegmentIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was found; the log is sound if `findings` is empty."""

    findings: tuple[str, ...]
    notes: tuple[str, ...]  # what an unclean end leaves behind; recovery takes care of it
    segments: int
    drains: int
    records: int
    first_index: int  # in the segments, some of it maybe before the start; 0, 0: nothing
    last_index: int
    wal: tuple[tuple[int, int, int], ...]  # (tli, from lsn, to lsn)

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def verify(directory: Path) -> VerifyReport:
    """Read the whole log; damage is told in the report, never raised."""
    checked = _Checked()
    try:
        files = LogDirectory(directory, is_locked=False)
        state = StateFile(files, is_writable=False).saved
        saved = read_start(files)
        _check_all(checked, files, state, saved)
    except LogError as error:
        checked.findings.append(str(error))
    return checked.report()


@dataclass(slots=True)
class _Checked:
    """The report under way."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    indexes: list[SegmentIndex] = field(default_factory=list)
    drains: int = 0
    records: int = 0
    wal: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, found: FoundDrain) -> None:
        """Count a sound drain."""
        self.drains += 1
        self.records += len(found.records)
        for record in found.records:
            if record.kind != Kind.WAL:
                continue
            end = record.lsn + len(record.body)
            if self.wal and self.wal[-1][0] == record.tli and self.wal[-1][2] == record.lsn:
                self.wal[-1] = (record.tli, self.wal[-1][1], end)
            else:
                self.wal.append((record.tli, record.lsn, end))

    def report(self) -> VerifyReport:
        """Return what was found."""
        there = [index for index in self.indexes if index.last_index >= index.first_index]
        return VerifyReport(
            findings=tuple(self.findings),
            notes=tuple(self.notes),
            segments=len(self.indexes),
            drains=self.drains,
            records=self.records,
            first_index=there[0].first_index if there else 0,
            last_index=there[-1].last_index if there else 0,
            wal=tuple(self.wal),
        )


def _check_all(checked: _Checked, files: LogDirectory, state: LogState, saved: SavedStart) -> None:
    if saved.member != state.member:
        checked.findings.append(f"{files.path}: state and start are of different members")
    state = state.after_reset(saved)
    headers, removed = live_headers(files, state, saved)
    checked.notes += [f"{name} is no longer of the log" for name in removed]
    for number, header in enumerate(headers):
        following = headers[number + 1] if number + 1 < len(headers) else None
        try:
            _check_segment(checked, files, header, state, following)
        except LogError as error:
            checked.findings.append(str(error))
    if not checked.findings:
        check_range(files, checked.indexes, state, saved.start)


def _check_segment(
    checked: _Checked,
    files: LogDirectory,
    header: SegmentHeader,
    state: LogState,
    following: SegmentHeader | None,
) -> None:
    file = files.open_to_read(header.file_name)
    scanned = scan(file, header, state, following, checked.add)
    checked.indexes.append(scanned.index)
    if scanned.torn_bytes:
        checked.notes.append(f"{file.path}: a torn tail of {scanned.torn_bytes} bytes")
    if following is not None:  # that of the last segment may be from a crash, and is not used
        _check_footer(checked, file, scanned.index, state)


def _check_footer(checked: _Checked, file: OpenFile, index: SegmentIndex, state: LogState) -> None:
    footer = read_footer(file, index.header)
    if footer is None or footer.is_stale(state.cut_index, state.generation):
        checked.notes.append(f"{file.path} has no footer, so the next start scans it")
        return
    wanted = index.encode_footer(generation=footer.generation)
    if read_footer_bytes(file, index.header, len(wanted)) != wanted:
        checked.findings.append(f"{file.path}: the footer does not describe the segment")
