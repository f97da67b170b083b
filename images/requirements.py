"""Write what pyproject.toml asks for as files for pip: run.txt and build.txt. In the builder only.

    python requirements.py pyproject.toml

The package itself cannot be named to pip yet: its code must not be part of the layer that holds its
dependencies, or every change of a line would install all of them again.
"""

import sys
import tomllib
from pathlib import Path


def main() -> None:
    """Write both files into the current directory."""
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    write("run.txt", project["project"]["dependencies"])
    write("build.txt", project["build-system"]["requires"])


def write(name: str, requirements: list[str]) -> None:
    """One requirement a line."""
    Path(name).write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")


if __name__ == "__main__":
    main()
