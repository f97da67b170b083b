"""What an operator of 200 settled clusters promises."""

from typing import Final

from bench.pagefault.report import Bar

BARS: Final = (
    Bar(name="operator_200_memory_mb", target=300, at_least=False),
    Bar(name="operator_200_core_percent", target=5, at_least=False),
    Bar(name="operator_200_settled_writes", target=0, at_least=False),
)
