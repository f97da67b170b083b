"""The builds, made once for all tests of the library."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from native.harness import PAGEFAULT_DIR, SANITIZE, Build, Place, compile_driver, compile_library


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Build]:
    """`preloaded`: as in production; `sanitized`: linked, with the sanitisers."""
    place = tmp_path_factory.mktemp("builds")
    plain = compile_driver(place / "driver")
    library = compile_library(place / "libpagefault.so")
    sources = sorted(PAGEFAULT_DIR.glob("*.c"))
    checked = compile_driver(place / "driver_sanitized", sources, [*SANITIZE, f"-I{PAGEFAULT_DIR}"])
    return {
        "preloaded": Build("preloaded", plain, library),
        "sanitized": Build("sanitized", checked, None),
    }


@pytest.fixture(params=["preloaded", "sanitized"])
def build(request: pytest.FixtureRequest, builds: dict[str, Build]) -> Build:
    """Each test runs with both."""
    chosen: Build = builds[request.param]
    return chosen


@pytest.fixture
def place(build: Build, tmp_path: Path) -> Place:
    """Somewhere for the test's directories."""
    return Place(build, tmp_path)


@pytest.fixture
def preloaded(builds: dict[str, Build], tmp_path: Path) -> Place:
    """For what is about the agent or about preloading: one build will do."""
    return Place(builds["preloaded"], tmp_path)


@pytest.fixture(autouse=True)
def agent_log() -> Iterator[list[EventDict]]:
    """What brokers of this process logged; the loggers of modules are not cached."""
    structlog.reset_defaults()
    with capture_logs() as events:
        yield events
