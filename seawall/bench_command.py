"""`seawall bench`: the benchmark tool, which other commands load nothing of."""

import sys
from collections.abc import Sequence
from typing import Final

OURS: Final = ("bench", "fabric", "gateway", "sqlnode", "storage")  # would be a bug, not a wish


def run_bench(arguments: Sequence[str]) -> int:
    """Run it; the exit status."""
    try:
        from bench.tool.command import run  # noqa: PLC0415  # needs more than any other command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        print(
            f"seawall: `seawall bench` needs {error.name}, which is not installed:"
            " pip install 'seawall[bench]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments, program="seawall bench")
