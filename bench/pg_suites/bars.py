"""What is promised: PostgreSQL's own suites find no difference that is not published."""

from typing import Final

from bench.pagefault.report import Bar

BARS: Final = (
    Bar(name="primary_regression_failed", target=0, at_least=False),
    Bar(name="primary_isolation_failed", target=0, at_least=False),
    Bar(name="failover_regression_failed", target=0, at_least=False),
    Bar(name="failover_isolation_failed", target=0, at_least=False),
    Bar(name="page_differences", target=0, at_least=False),
)
