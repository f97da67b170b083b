"""Have processes made for nodes: starts `node_main.py`. Light, to be the first that is done."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .layout import Layout
from .node_files import kind_of

# What a node inherits. Neither PYTHONPATH nor PG*: they would change what runs.
INHERITED: Final = ("LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")


@dataclass(frozen=True, slots=True)
class Launch:
    """A launcher at work: when it has ended, each of its nodes runs or does not."""

    names: tuple[str, ...]
    process: subprocess.Popen[bytes]
    pidfd: int


def launch(layout: Layout, names: tuple[str, ...]) -> Launch:
    """Begin to start nodes; OSError if not even that can be begun."""
    arguments = [f"{layout.node(name).top}={kind_of(name).module}" for name in names]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "seawall.local.node_main", *arguments],
        cwd="/", env=node_environment(os.environ), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return Launch(names, process, os.pidfd_open(process.pid))


def node_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """All of a node's environment."""
    return {name: inherited[name] for name in INHERITED if name in inherited}
