"""What the benchmark's API server keeps, where an operator would notice that it is none of
Kubernetes': versions, histories, pages, server-side apply, preconditions.

Out of scope: HTTP, which test_api_server.py has.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.operator_scale.objects import (
    CONFLICT,
    GONE,
    HISTORY_MAX,
    NOT_FOUND,
    ApiFault,
    Objects,
    Target,
)

POD = Target("pods", "ns", "a")
MANAGER = "seawall-operator"


def pod(**spec: Any) -> dict[str, Any]:
    labels = {"seawall.dev/cluster": "pg"}
    metadata = {"namespace": "ns", "name": "a", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def refused(code: int) -> Any:
    return pytest.raises(ApiFault, check=lambda fault: fault.code == code)


def test_an_apply_that_changes_nothing_is_no_write() -> None:
    objects = Objects()
    made = objects.apply(POD, MANAGER, pod(nodeName="x"))
    version = objects.version
    assert objects.apply(POD, MANAGER, pod(nodeName="x")) == made
    assert objects.version == version
    assert len(objects.since("pods", 0)) == 1


def test_an_apply_takes_back_what_its_manager_says_no_more_and_nothing_else() -> None:
    objects = Objects()
    objects.apply(POD, MANAGER, pod(nodeName="x", restartPolicy="Always"))
    objects.change(POD, {"spec": {"priority": 7}}, is_whole=False)
    changed = objects.apply(POD, MANAGER, pod(restartPolicy="Always"))
    assert changed["spec"] == {"restartPolicy": "Always", "priority": 7}
    assert changed["metadata"]["generation"] == 3


def test_applied_objects_say_who_has_their_fields() -> None:
    (fields,) = Objects().apply(POD, MANAGER, pod(nodeName="x"))["metadata"]["managedFields"]
    assert fields["manager"] == MANAGER
    assert fields["fieldsV1"]["f:spec"] == {"f:nodeName": {}}


def test_status_is_changed_by_its_subresource_alone() -> None:
    objects = Objects()
    objects.apply(POD, MANAGER, {**pod(nodeName="x"), "status": {"phase": "Running"}})
    assert "status" not in objects.get(POD)
    said = {"metadata": {"name": "a"}, "spec": {"nodeName": "y"}, "status": {"phase": "Running"}}
    changed = objects.apply(POD._replace(subresource="status"), MANAGER, said)
    assert (changed["spec"], changed["status"]) == ({"nodeName": "x"}, {"phase": "Running"})


def test_a_history_tells_of_a_kind_from_a_version_on() -> None:
    objects = Objects()
    objects.put("pods", pod())
    version = objects.version
    objects.put("secrets", {"metadata": {"namespace": "ns", "name": "s"}})
    objects.set_status("pods", "ns", "a", {"phase": "Running"})
    objects.delete(POD, None)
    assert [change.type for change in objects.since("pods", version)] == ["MODIFIED", "DELETED"]


def test_a_history_that_was_forgotten_is_gone() -> None:
    objects = Objects()
    version = objects.version
    for _ in range(HISTORY_MAX + 1):
        objects.put("pods", pod())
    with refused(GONE):
        objects.since("pods", version)


def test_a_list_comes_in_pages_of_what_is_selected() -> None:
    objects = Objects()
    for number in range(5):
        labels = {"seawall.dev/cluster": "pg"} if number else {}
        metadata = {"namespace": "ns", "name": f"p{number}", "labels": labels}
        objects.put("pods", {"metadata": metadata})
    asked = {"labelSelector": "seawall.dev/cluster", "limit": "3"}
    every = Target("pods", "", "")
    first = objects.list(every, asked)
    assert [one["metadata"]["name"] for one in first["items"]] == ["p1", "p2", "p3"]
    rest = objects.list(every, {**asked, "continue": first["metadata"]["continue"]})
    assert [one["metadata"]["name"] for one in rest["items"]] == ["p4"]
    assert "continue" not in rest["metadata"]


def test_preconditions_are_looked_at() -> None:
    objects = Objects()
    with refused(NOT_FOUND):
        objects.get(POD)
    objects.create(POD, pod())
    with refused(CONFLICT):
        objects.create(POD, pod())
    with refused(CONFLICT):
        objects.delete(POD, "another uid")
    with refused(CONFLICT):
        objects.change(POD, {"metadata": {"resourceVersion": "1"}}, is_whole=False)
    assert objects.get(POD)
