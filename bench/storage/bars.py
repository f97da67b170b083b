"""What storage nodes promise."""

from typing import Final

from bench.pagefault.report import Bar

BARS: Final = (
    Bar(name="materialise_wal_mb_per_core_s", target=60, at_least=True),
    Bar(name="copy_2gb_ratio", target=1.5, at_least=False),
    Bar(name="getpage_p50_ms", target=0.4, at_least=False),
    Bar(name="getpage_p99_ms", target=2, at_least=False),
    Bar(name="range_mb_per_s", target=400, at_least=True),
    Bar(name="getpage_during_cut_p99_ms", target=5, at_least=False),
    Bar(name="store_ratio_one_cut", target=0.6, at_least=False),
    Bar(name="store_ratio_ten_cuts", target=2, at_least=False),
    Bar(name="idle_engines", target=0, at_least=False),
    Bar(name="idle_core_percent", target=0.1, at_least=False),
    Bar(name="cut_10000_pages_ms", target=500, at_least=False),
)
