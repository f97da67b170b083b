"""What the faulting blocks promise."""

from typing import Final

from .report import Bar

BARS: Final = (
    Bar(name="select_only_ratio", target=0.98, at_least=True),
    Bar(name="tpcb_ratio", target=0.98, at_least=True),
    Bar(name="prefetched_pages_per_s", target=35_000, at_least=True),
    Bar(name="cold_seq_scan_mb_s", target=400, at_least=True),
    Bar(name="single_fault_p50_us", target=150, at_least=False),
    Bar(name="cold_start_1600_ms", target=150, at_least=False),
    Bar(name="cold_start_20000_ms", target=1500, at_least=False),
    Bar(name="writable_16mib_tail_s", target=1.0, at_least=False),
)
