"""A minor upgrade of PostgreSQL, there and back, under a client that writes all the time.

In scope: that every node of the cluster runs the other minor in the end, that a cluster of the one
serves what the other has written, and that nothing is lost. That an image is rolled out pod by pod
at all is in test_operator.py. Where there is one minor only, it is upgraded to itself under another
name, and the printed line says so.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from e2e.minor_image import Minor, minors
from e2e.operator_world import VERSION, Cluster, image, new_space
from e2e.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

PAUSE_S = 1.0  # what is promised, and printed; a test asserts nothing about speed


@pytest.fixture(scope="module")
def two(
    operator: Kubernetes, images: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Minor, Minor]:
    """Two images of one major: an older minor, and a newer one."""
    found = None
    archives = [archive for archive in images if archive.name == "compute.tar"]
    if isinstance(operator, Rig) and archives and shutil.which("apt-get") is not None:
        work = tmp_path_factory.mktemp("minor")
        found = minors(archives[0], work)
        if found is not None:
            operator.image_import(found[2])
        shutil.rmtree(work)
    if found is None:  # the same contents under two names
        return Minor(str(VERSION), image("compute")), Minor(str(VERSION), image("storage"))
    return found[0], found[1]


@pytest.fixture(scope="module")
def cluster(operator: Kubernetes, two: tuple[Minor, Minor]) -> Iterator[Cluster]:
    with new_space(operator, "upgrade") as space:
        cluster = Cluster(operator, space, "pg")
        cluster.apply(images={"compute": two[0].image})
        cluster.settle()
        yield cluster


def version(cluster: Cluster, suffix: str = "") -> tuple[int, ...]:
    """Return what a server says that it is."""
    number = int(cluster.ask("show server_version_num", suffix))
    return number // 10_000, number % 10_000


def images_of(cluster: Cluster) -> set[str]:
    """Return the images that run a PostgreSQL."""
    pods = [*cluster.pods("compute").values(), *cluster.pods("storage").values()]
    return {pod["spec"]["containers"][0]["image"] for pod in pods}


@pytest.mark.parametrize("way", ["up", "back"])
def test_another_minor_is_rolled_out_and_loses_nothing(
    cluster: Cluster, two: tuple[Minor, Minor], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = two if way == "up" else two[::-1]
    if images_of(cluster) != {before.image}:  # this one alone was asked for
        cluster.apply(images={"compute": before.image})
        cluster.settle()
    is_real = before.number != after.number
    assert not is_real or version(cluster) == before.number
    with cluster.writing() as writer:
        cluster.apply(images={"compute": after.image})
        cluster.settle()
    assert images_of(cluster) == {after.image}
    assert not is_real or version(cluster) == version(cluster, "-replicas") == after.number
    assert writer.connections == 1, "its connection to the gateway stayed"
    kept = "kept" if writer.gap_s <= PAUSE_S else "MISSED"
    with capsys.disabled():
        print(  # noqa: T201  # a measure
            f"\nminor upgrade {before.version} to {after.version}: at most {writer.gap_s:.2f} s "
            f"between two writes (promised {PAUSE_S:g} s: {kept}), {len(writer.errors)} errors"
        )
