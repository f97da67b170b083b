"""Give a compute the tail: the WAL segments from a cut's redo pointer on, from a directory.

Until a log service streams it, a directory is where WAL comes from: a primary's pg_wal, or an
archive. Segments are copied, never linked: a recovering server writes into the last one.
"""

import os
import re
from pathlib import Path
from typing import Final

from fabric.lsn import Lsn, parse_wal_file_name

_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")
_COPY_BYTES: Final = 64 << 20


def segments_from(names: list[str], redo: Lsn, *, segment_bytes: int) -> list[str]:
    """Which of a directory's files a recovery from `redo` may need: later segments, histories."""
    start = redo.segment_start(segment_bytes)
    needed = []
    for name in sorted(names):
        if _SEGMENT.fullmatch(name):
            _, begin = parse_wal_file_name(name, segment_bytes)
            if begin >= start:
                needed.append(name)
        elif _HISTORY.fullmatch(name):
            needed.append(name)
    return needed


def copy_wal(source: Path, data_dir: Path, redo: Lsn, *, segment_bytes: int) -> int:
    """Copy what a recovery needs into `data_dir`/pg_wal; the number of files."""
    names = segments_from(os.listdir(source), redo, segment_bytes=segment_bytes)
    for name in names:
        _copy(source / name, data_dir / "pg_wal" / name)
    return len(names)


def _copy(source: Path, target: Path) -> None:
    """Within the kernel where it can be; the file is written once and read once, soon."""
    with source.open("rb") as origin, target.open("wb") as copy:
        target.chmod(0o600)
        while os.sendfile(copy.fileno(), origin.fileno(), None, _COPY_BYTES):
            continue
