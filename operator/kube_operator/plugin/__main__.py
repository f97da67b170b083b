"""The program `kubectl-seawall`, which kubectl finds by its name.

kubectl seawall status [NAME] [-n NAMESPACE]
"""

import os
import sys

from .cli import run


def main() -> int:
    """Run the command that the arguments name; the exit status."""
    return run(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
