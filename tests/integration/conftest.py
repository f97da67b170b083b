"""Log nodes that several modules use in the same way: four processes a module, a branch a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from integration.log_node_world import FOURTH, THREE, Nodes, nodes_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fabric.ids import BranchName


@pytest.fixture(scope="module")
def shared_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Four log nodes; a test that stops one need not start it again."""
    with nodes_world(tmp_path_factory.mktemp("nodes"), (*THREE, FOURTH)) as nodes:
        yield nodes


@pytest.fixture
def nodes(shared_nodes: Nodes) -> Nodes:
    """All of them run."""
    shared_nodes.start_all()
    return shared_nodes


@pytest.fixture
def branch(nodes: Nodes) -> BranchName:
    """A new branch on the first three."""
    return nodes.new_branch(*THREE)
