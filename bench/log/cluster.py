"""Log nodes with one group on them, as somebody outside sees them.

    cluster = Cluster(nodes, control)
    cluster.wait_for_leader()           # its name, once it serves
    cluster.nodes["log-2"].kill()
    cluster.wait_for_catch_up("log-2")  # after it was started again

Whoever waits looks every few milliseconds and gives up after a deadline with a sentence.
"""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from .control import ClusterError, LogControl
from .nodes import LogNode

APPLICATION_NAME: Final = "seawall_log"  # as what the log's leader connects to a primary
# ANY 1: a leader that hangs, its connection still open, must not stand before the next one.
SYNCHRONOUS: Final = f"ANY 1 ({APPLICATION_NAME})"
LOOK_S: Final = 0.005
DEADLINE_S: Final = 30.0

T = TypeVar("T")


class Cluster:
    """The nodes of one group."""

    def __init__(self, nodes: Mapping[str, LogNode], control: LogControl) -> None:
        self.nodes = dict(nodes)
        self.control = control

    def followers(self) -> list[str]:
        """Everybody else that runs."""
        leader = self.wait_for_leader()
        return [name for name, node in self.nodes.items() if node.running and name != leader]

    def wait_for_leader(self, *, other_than: str = "") -> str:
        """Until somebody leads and serves; its name."""

        def look() -> str | None:
            found = self.control.leader()
            return None if found == other_than else found

        return wait_for(look, "have a leader that serves")

    def wait_for_catch_up(self, name: str) -> None:
        """Until a node knows committed all that was committed when this was called."""
        leader = self.control.status(self.wait_for_leader())
        wanted = leader.commit_index if leader else 0

        def look() -> bool:
            status = self.control.status(name)
            return status is not None and status.commit_index >= wanted

        wait_for(look, f"bring {name} to index {wanted}")

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            node.kill()


def wait_for(look: Callable[[], T | None], what: str, *, deadline_s: float = DEADLINE_S) -> T:
    """Look until the answer is true, and return it."""
    end_s = time.monotonic() + deadline_s
    while not (found := look()):
        if time.monotonic() > end_s:
            raise ClusterError(f"the log did not {what} within {deadline_s:g} s")
        time.sleep(LOOK_S)
    return found
