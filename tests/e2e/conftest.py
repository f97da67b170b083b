"""The rig, with the operator installed by helm, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.rig import Rig, borrowed

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
BUILD_S = 1800
SYSTEM = "seawall-system"


@pytest.fixture(scope="session")
def images() -> list[Path]:
    """Archives of our images; a second build of the same sources takes a moment."""
    command = [str(ROOT / "images" / "build"), "--offline-base", "--output", str(IMAGES)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=BUILD_S, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return sorted(IMAGES.glob("*.tar"))


@pytest.fixture(scope="module")
def operator(images: list[Path]) -> Iterator[Rig]:
    """A rig in which the operator runs, installed as a user would."""
    reason = Rig.why_not()
    if reason is not None:
        pytest.skip(reason)
    with borrowed() as rig:
        for archive in images:
            rig.image_import(archive)
        arguments = ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"]
        rig.helm("upgrade", "--install", "seawall", str(ROOT / "charts" / "seawall"), *arguments)
        rig.kubectl("-n", SYSTEM, "rollout", "restart", "deployment/seawall-operator")
        rig.kubectl("-n", SYSTEM, "rollout", "status", "deployment/seawall-operator")
        yield rig
