"""How a log node lays its logs out on disk."""

from dataclasses import dataclass
from typing import Final

from .segment import HEADER_BYTES

# The largest record, its footer and the header must fit, with room for some small drains.
SEGMENT_BYTES_MIN: Final = 256 * 1024
SEGMENT_BYTES_MAX: Final = 1024 * 1024 * 1024  # an offset has 32 bits
SPARES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """Sizes and counts of one group's files."""

    # Written in a second or two under full load, so that new segments are rare; scanned at start.
    segment_bytes: int = 64 * 1024 * 1024
    # Empty segments at hand: one in use soon, one that a trim has just given back.
    spares_max: int = 2
    # Descriptors of full segments kept open for readers; the one being written comes on top.
    open_segments_max: int = 8

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(
                f"segment_bytes must be {SEGMENT_BYTES_MIN} .. {SEGMENT_BYTES_MAX}, "
                f"not {self.segment_bytes}"
            )
        if self.segment_bytes % HEADER_BYTES:
            raise ValueError(f"segment_bytes must be a multiple of {HEADER_BYTES}")
        if not 1 <= self.spares_max <= SPARES_MAX:
            raise ValueError(f"spares_max must be 1 .. {SPARES_MAX}, not {self.spares_max}")
        if self.open_segments_max < 1:
            raise ValueError("open_segments_max must be at least 1")
