"""Read entries, or WAL, from the segments of an open log. Any thread may.

Every record's checksum, index and link to the one before is checked on the way: what is returned
is what was appended, or there is an error. If the writer cut, trimmed or recycled the place
meanwhile, that error is LogGoneError; if not, the bytes are damaged."""

from collections.abc import Iterator

from .disk_errors import CorruptLogError, LogGoneError
from .log_segments import Place, SegmentTable
from .record import Kind, Record
from .segment_file import BadDrainError, FoundDrain, walk


def read_entries(table: SegmentTable, first: int, last: int, bytes_max: int) -> list[Record]:
    """Return entries from `first` on, at least one, at most up to `last` and `bytes_max`."""
    place = table.place_of_index(first)
    if place is None:
        raise LogGoneError(f"entry {first} is not in the log, which ends before it")
    records: list[Record] = []
    size_bytes = 0
    for record in _records_from(table, place):
        if record.index < first:
            continue
        size_bytes += record.size_bytes
        if record.index > last or (records and size_bytes > bytes_max):
            break
        records.append(record)
        if record.index == last:
            break
    return records


def read_wal(
    table: SegmentTable, tli: int, lsn: int, bytes_max: int
) -> tuple[list[memoryview], int]:
    """Return contiguous WAL of one timeline from exactly `lsn`, and the last entry it is from."""
    pieces: list[memoryview] = []
    size_bytes = last_index = 0
    place = table.place_of_wal((tli, lsn))
    if place is None:
        return pieces, last_index
    for record in _records_from(table, place):
        if record.kind != Kind.WAL or record.index < place.first_index or record.tli < tli:
            continue
        at = lsn + size_bytes - record.lsn
        if at >= len(record.body) and record.tli == tli:
            continue
        if at < 0 or record.tli > tli or size_bytes >= bytes_max:
            break
        piece = memoryview(record.body)[at : at + bytes_max - size_bytes]
        pieces.append(piece)
        size_bytes += len(piece)
        last_index = record.index
        if size_bytes >= bytes_max:
            break
    return pieces, last_index


def _records_from(table: SegmentTable, place: Place) -> Iterator[Record]:
    """Yield the entries from a place to the end of the log, over the ends of segments."""
    next_index, term = place.next_index, None
    following: Place | None = place
    while following is not None:
        for found in _walk(table, following):
            for record in found.records:
                if record.index < next_index:
                    continue  # the segment has grown since the place before this one
                if record.index != next_index or term not in (None, record.prev_term):
                    raise _error(table, following, f"entry {next_index} does not follow")
                next_index, term = next_index + 1, record.term
                yield record
        if next_index <= following.last_index:
            raise _error(table, following, f"entry {next_index} is missing")
        following = table.place_of_index(next_index)


def _walk(table: SegmentTable, place: Place) -> Iterator[FoundDrain]:
    try:
        yield from walk(place.file, place.header, place.offset, place.end)
    except BadDrainError as error:
        raise _error(table, place, str(error), error.offset) from error


def _error(table: SegmentTable, place: Place, what: str, offset: int = 0) -> Exception:
    if table.has_changed_since(place):
        return LogGoneError(f"the entries around {place.next_index} were cut or trimmed meanwhile")
    return CorruptLogError.at(place.file.path, offset or place.offset, what)
