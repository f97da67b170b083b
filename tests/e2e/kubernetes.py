"""Which Kubernetes the tests run on: the rig, or the one that KUBECONFIG names.

    variable                    meaning
    KUBECONFIG                  a cluster that is there; not set, or the rig's own: the rig
    SEAWALL_E2E_IMAGE_REGISTRY  where that cluster pulls our images; empty: it has them already
    SEAWALL_E2E_PG              the PostgreSQL major of those images (15, as the rig's)
    SEAWALL_E2E_IMAGES          archives of our images for the rig, which are then not built
    SEAWALL_E2E_REQUIRED        1: where there is no Kubernetes, fail; otherwise skip

What takes a node away, or the API server, needs the rig and is skipped elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import pytest
from e2e.rig import Rig, RigError, build
from e2e.rig.commands import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Way = Callable[[], AbstractContextManager[tuple[str, int]]]

KUBECONFIG = "KUBECONFIG"
REGISTRY = "SEAWALL_E2E_IMAGE_REGISTRY"
REQUIRED = "SEAWALL_E2E_REQUIRED"
COMMAND_S = 180.0
FORWARD_LINES_MAX = 10  # a port-forward says its port in the first or second one


class Kubernetes(Protocol):
    """What the rig and any other Kubernetes have in common."""

    @property
    def kubeconfig(self) -> Path:
        """How its administrator reaches it."""

    def command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        """Return the command line of kubectl or helm for it."""

    def kubectl(self, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> str:
        """Return what kubectl prints; RigError with its complaint."""

    def helm(self, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> str:
        """Return what helm prints; RigError with its complaint."""

    def way_to(self, namespace: str, service: str, port: int) -> Way:
        """Return what gives the host and port at which this process reaches a Service."""


@dataclass(frozen=True)
class Given:
    """A Kubernetes that was there before us."""

    kubeconfig: Path

    def command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        """Return the command line of kubectl or helm for it."""
        return [_program(program), f"--kubeconfig={self.kubeconfig}", *arguments]

    def kubectl(self, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> str:
        """Return what kubectl prints; RigError with its complaint."""
        return _output(self.command("kubectl", arguments), given, timeout_s)

    def helm(self, *arguments: str, given: str = "", timeout_s: float = COMMAND_S) -> str:
        """Return what helm prints; RigError with its complaint."""
        return _output(self.command("helm", arguments), given, timeout_s)

    def way_to(self, namespace: str, service: str, port: int) -> Way:
        """Return what forwards a port to a Service, anew each time: nothing else leads inside."""
        words = ("-n", namespace, "port-forward", f"service/{service}", f":{port}")
        return lambda: forwarded(self.command("kubectl", words))


def chosen() -> Given | None:
    """Return the Kubernetes that the environment names; None: the rig."""
    named = os.environ.get(KUBECONFIG, "")
    if not named or Path(named) == Rig().kubeconfig:
        return None
    return Given(Path(named))


def why_not(given: Given | None) -> str | None:
    """Return why there is no Kubernetes to run on, in one sentence; None if there is one."""
    if given is None:
        return Rig.why_not()
    if not given.kubeconfig.is_file():
        return f"{KUBECONFIG} names {given.kubeconfig}, which is no file: name one, or unset it"
    # It alone is not enough: many people's KUBECONFIG names a cluster that is no place for tests.
    if REGISTRY not in os.environ:
        return (
            f"{KUBECONFIG} names a cluster: set {REGISTRY} to where it pulls the images from, or "
            "to nothing if it has them, and the tests are run there; or unset both for the rig"
        )
    return None


def unavailable(reason: str) -> NoReturn:
    """Skip, because there is no Kubernetes here; or fail, where there has to be one."""
    if os.environ.get(REQUIRED, "") not in {"", "0"}:
        pytest.fail(f"{reason} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(reason)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None and build.built():
        found = str(build.programs() / name)
    if found is None:
        raise RigError(f"there is no {name} on the search path: install it")
    return found


def _output(words: list[str], given: str, timeout_s: float) -> str:
    # Its environment is the user's own: clusters are behind proxies, and kubectl calls helpers.
    done = run(words, given=given.encode(), timeout_s=timeout_s, more_environment=dict(os.environ))
    return done.stdout.decode()


@contextmanager
def forwarded(words: list[str]) -> Iterator[tuple[str, int]]:
    """Have a port of this host lead to a Service's pod, until the block ends."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield "127.0.0.1", _port(process)
        finally:
            process.terminate()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    said = []
    for _ in range(FORWARD_LINES_MAX):
        said.append(process.stdout.readline())
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) ", said[-1])
        if found is not None:
            return int(found[1])
        if not said[-1]:
            break
    raise RigError(f"no port is forwarded: {''.join(said).strip()}")
