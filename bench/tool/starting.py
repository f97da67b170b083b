"""How a part starts a target by its name: the catalogue's, and the server that `--dsn` names."""

import contextlib
from typing import Protocol

from bench.pagefault.workspace import Workspace
from bench.targets import catalog
from bench.targets.dsn import dsn_target
from bench.targets.target import Target, TargetSettings

DSN = "dsn"


class Start(Protocol):
    """Starts a target."""

    def __call__(
        self, name: str, place: Workspace, settings: TargetSettings
    ) -> contextlib.AbstractContextManager[Target]:
        """A context in which it is up; TargetError, at once or on entering, when it cannot be."""


def starting(dsn: str | None) -> Start:
    """What knows all names."""

    def start(
        name: str, place: Workspace, settings: TargetSettings
    ) -> contextlib.AbstractContextManager[Target]:
        if name == DSN and dsn is not None:
            return dsn_target(dsn)
        return catalog.start(name, place, settings)

    return start
