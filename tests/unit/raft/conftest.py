"""The option that writes the transcripts anew."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rewrite."""
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what happens now into the transcripts of tests/scenarios/raft; review the diff",
    )
