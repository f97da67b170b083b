"""Have processes made for nodes, by `node_main.py`. Light, to be the first that is done.

    launcher = Launcher(layout)
    launcher.launch(("log-1", "log-2"))     # begins it, if it does not run
    ... launcher.answers is readable ...
    launcher.answered()                     # orders that are done: each node runs, or does not

It waits for more orders: then a node is there at once, without any loading. It ends with whoever
has the other end of its input, however that ends.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from typing import Final

from .layout import Layout
from .node_files import kind_of

# What a node inherits. Neither PYTHONPATH nor PG*: they would change what runs.
INHERITED: Final = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")
ANSWERS_MAX: Final = 4096  # bytes, of one each


class Launcher:
    """A launcher, and the orders that it has not answered yet."""

    def __init__(self, layout: Layout) -> None:
        self.has_ended = False
        self._layout = layout
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: deque[tuple[str, ...]] = deque()

    @property
    def answers(self) -> int:
        """A descriptor that is readable when something was answered, or never will be."""
        assert self._process is not None, "it was begun"
        assert self._process.stdout is not None, "it is a pipe"
        return self._process.stdout.fileno()

    @property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """The names of the nodes that are being started, by order."""
        return tuple(self._orders)

    def launch(self, names: tuple[str, ...]) -> None:
        """Begin to start nodes; OSError if not even that can be begun."""
        if self._process is None:
            self._process = self._begun()
        nodes = [(str(self._layout.node(name).top), kind_of(name).module) for name in names]
        assert self._process.stdin is not None, "it is a pipe"
        order = json.dumps(nodes).encode() + b"\n"  # far less than a pipe takes at once
        os.write(self._process.stdin.fileno(), order)
        self._orders.append(names)

    def answered(self) -> list[tuple[str, ...]]:
        """Return the orders that are done since; all of them if it has ended: then close it."""
        count = len(os.read(self.answers, ANSWERS_MAX))
        self.has_ended = not count
        done = count or len(self._orders)
        return [self._orders.popleft() for _ in range(done)]

    @property
    def is_open(self) -> bool:
        """Whether there are `answers` to wait for."""
        return self._process is not None

    def close(self) -> None:
        """Let it end once the nodes that it starts have begun; an order begins another one."""
        self.has_ended = False
        process, self._process = self._process, None
        if process is not None:
            for stream in (process.stdin, process.stdout):
                assert stream is not None, "both are pipes"
                stream.close()
            process.poll()

    def _begun(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "seawall.local.node_main"],
            cwd="/", env=node_environment(os.environ), start_new_session=True, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip


def node_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """All of a node's environment."""
    return {name: inherited[name] for name in INHERITED if name in inherited}
