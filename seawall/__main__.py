"""The command line, `seawall`: a local cluster, and tools for whoever runs nodes by hand.

A local cluster's commands are in `cli.py`. The tools, `seawall log | storage | demo`, have parsers
of their own, and are loaded only when they are asked for.
"""

import os
import sys

TOOLS = frozenset({"demo", "log", "storage"})


def main() -> int:
    """Run the command that the arguments name; the exit status."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in TOOLS:
        from .tools import run_tool  # noqa: PLC0415  # see above

        return run_tool(arguments, os.environ)
    from .cli import run  # noqa: PLC0415  # see above

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
