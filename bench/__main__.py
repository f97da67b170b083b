"""Measure Seawall beside other systems: `python -P -m bench` is `seawall bench`."""

import sys

from bench.tool.command import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], program="python -P -m bench"))
