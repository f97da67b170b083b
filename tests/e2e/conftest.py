"""The Kubernetes, with the operator installed by helm, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.kubernetes import chosen, unavailable, why_not
from e2e.operator_world import SYSTEM, build_images, install, is_installed
from e2e.rig import Rig, borrowed
from e2e.rig.layout import namespaces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

SYSCTLS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward")


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[Kubernetes]:
    """The rig or the Kubernetes of KUBECONFIG. A rig leaves the host as it was, or stays."""
    given = chosen()
    reason = why_not(given)
    if reason is not None:
        unavailable(reason)
    if given is not None:
        yield given
        return
    by_hand = Rig().running()
    before = host()
    with borrowed() as rig:
        yield rig
    assert by_hand or host() == before


@pytest.fixture(scope="session")
def rig(kubernetes: Kubernetes) -> Rig:
    """The rig, for tests that take away what one cannot take from a Kubernetes of others."""
    if not isinstance(kubernetes, Rig):
        pytest.skip("it takes nodes or the API server away, and only the rig can give them back")
    return kubernetes


@pytest.fixture(scope="session")
def images(kubernetes: Kubernetes) -> list[Path]:
    """Archives of our images, for the rig; another Kubernetes has them, or pulls them."""
    return build_images() if isinstance(kubernetes, Rig) else []


@pytest.fixture(scope="session")
def operator(kubernetes: Kubernetes, images: list[Path]) -> Iterator[Kubernetes]:
    """A Kubernetes in which the operator runs. One that was there before stays."""
    was_there = isinstance(kubernetes, Rig) or is_installed(kubernetes)
    install(kubernetes, images)
    yield kubernetes
    if not was_there:
        kubernetes.helm("uninstall", "seawall", "--namespace", SYSTEM, "--wait")


def host() -> dict[str, object]:
    """What the rig might leave on the host, and must not."""
    return {
        "sysctls": [Path("/proc/sys", name).read_text() for name in SYSCTLS],
        "links": sorted(
            link.name
            for link in Path("/sys/class/net").iterdir()
            if link.name.startswith("seawall")
        ),
        "namespaces": [name for name in namespaces() if Path("/run/netns", name).exists()],
        "mounts": [
            line.split()[4]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if "seawall-e2e" in line
        ],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob("*/seawall-e2e")],
        "files": [
            path for path in ("/run/seawall-e2e", "/var/lib/seawall-e2e") if Path(path).exists()
        ],
    }
