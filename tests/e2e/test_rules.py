"""What the CRD's rules accept and refuse, asked of a real API server: nobody else evaluates CEL.

In scope: every case of the unit tests (`rule_cases.py`), as a dry run on the server, and what the
schema alone refuses. Clusters that have to be there before a change are paused, so that the
operator makes nothing of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from e2e.operator_world import VERSION, new_space
from e2e.rig import RigError
from unit.operator.rule_cases import CASES, Case, object_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kubernetes import Kubernetes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

DRY = "--dry-run=server"


class Space:
    """A namespace in which one cluster at a time is."""

    def __init__(self, kubernetes: Kubernetes, name: str) -> None:
        self.kubernetes, self.name = kubernetes, name

    def write(self, verb: str, manifest: dict[str, Any], *options: str) -> None:
        """Create or replace an object; RigError with what the API server says."""
        manifest = json.loads(json.dumps(manifest))
        manifest["metadata"]["namespace"] = self.name
        self.kubernetes.kubectl(verb, *options, "-f", "-", given=json.dumps(manifest))

    def delete(self, name: str) -> None:
        """Delete the cluster, and wait until it is gone."""
        self.kubernetes.kubectl("-n", self.name, "delete", "swpg", name, "--timeout=100s")

    def clusters(self) -> list[str]:
        """Return the names of the clusters that are there."""
        found = self.kubernetes.kubectl("-n", self.name, "get", "swpg", "-o", "name")
        return found.split()


@pytest.fixture(scope="module")
def space(operator: Kubernetes) -> Iterator[Space]:
    with new_space(operator, "rules") as name:
        yield Space(operator, name)


def ask(space: Space, case: Case) -> None:
    """Make the change of a case, without its being made; RigError if it is refused."""
    if case.old is None:
        space.write("create", object_of(case, case.new), DRY)
        return
    space.write("create", object_of(case, {**case.old, "paused": True}))
    try:
        space.write("replace", object_of(case, {**case.new, "paused": True}), DRY)
    finally:
        space.delete(case.name)


@pytest.mark.parametrize("case", [one for one in CASES if not one.says], ids=lambda one: one.title)
def test_what_is_allowed_is_accepted(space: Space, case: Case) -> None:
    ask(space, case)
    assert space.clusters() == [], "a dry run leaves nothing"


@pytest.mark.parametrize("case", [one for one in CASES if one.says], ids=lambda one: one.title)
def test_what_a_rule_forbids_is_refused_in_its_words(space: Space, case: Case) -> None:
    assert case.says.startswith(("spec.", "metadata.")), "it names the field"
    with pytest.raises(RigError) as refused:
        ask(space, case)
    assert case.says in str(refused.value)
    assert space.clusters() == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"version": 9}, "spec.version"),
        ({"computes": 0}, "spec.computes"),
        ({"computes": "two"}, "spec.computes"),
        ({"compute": {"sharedBuffers": "lots"}}, "spec.compute.sharedBuffers"),
        ({"gateway": {"read": "anywhere"}}, "spec.gateway.read"),
        ({"objectStore": {"url": "ftp://x"}}, "spec.objectStore.url"),
        ({"storageNodes": {"count": -1}}, "spec.storageNodes.count"),
        ({"retention": {"window": "soon"}}, "spec.retention.window"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
def test_what_the_schema_forbids_is_refused_with_the_field(
    space: Space, spec: dict[str, Any], field: str
) -> None:
    case = Case("", {"version": VERSION, **spec}, field)
    with pytest.raises(RigError) as refused:
        ask(space, case)
    assert f"{field}: " in str(refused.value)


def test_field_that_there_is_not_is_refused(space: Space) -> None:
    case = Case("", {"version": VERSION, "replicas": 2}, "")
    with pytest.raises(RigError, match=r'unknown field "spec\.replicas"'):
        ask(space, case)


def test_dry_run_tells_what_is_accepted_from_what_is_not(space: Space) -> None:
    """The judge itself: the same object, right and wrong, and nothing is there afterwards."""
    right = Case("", {"version": VERSION}, "")
    ask(space, right)
    with pytest.raises(RigError, match=r"spec\.version cannot"):
        ask(space, right._replace(new={"version": VERSION + 1}, old={"version": VERSION}))
    assert space.clusters() == []
