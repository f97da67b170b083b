"""The rig, with the operator installed by helm, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from e2e.operator_world import build_images, install
from e2e.rig import Rig, borrowed

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def operator() -> Iterator[Rig]:
    """A rig in which the operator runs."""
    reason = Rig.why_not()
    if reason is not None:
        pytest.skip(reason)
    images = build_images()
    with borrowed() as rig:
        install(rig, images)
        yield rig
