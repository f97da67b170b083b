"""The port over HTTP: what is sent, what comes back, and which error a failure is.

In scope: every method and error of kube_port.py, against a server over real sockets; credentials.
Out of scope: what Kubernetes itself does, see tests/e2e.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from fixtures.kube_api import KubeApi, Write
from hypothesis import given
from hypothesis import strategies as st
from lightkube.config.models import User
from unit.fabric.rpc_world import in_loop

from kube_operator import lightkube_port
from kube_operator.kube_port import (
    CLUSTER,
    CONFIG_MAP,
    LEASE,
    NODE,
    POD,
    Conflict,
    Gone,
    Key,
    KubeError,
    NotFound,
    Refused,
    Unavailable,
)
from kube_operator.lightkube_port import LightkubePort, load_config

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

A = Key("ns", "a")


def manifest(**fields: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "ns", "name": "a"}, **fields}


@asynccontextmanager
async def world(user: User | None = None) -> AsyncIterator[tuple[KubeApi, LightkubePort]]:
    async with KubeApi() as api:
        port = LightkubePort(api.config(user))
        try:
            yield api, port
        finally:
            await port.close()


def test_paths_are_those_of_the_api() -> None:
    assert POD.path("ns", "a") == "/api/v1/namespaces/ns/pods/a"
    assert CLUSTER.path() == "/apis/seawall.dev/v1alpha1/postgresclusters"
    assert NODE.path("", "n") == "/api/v1/nodes/n"
    assert LEASE.path("ns", "a", "status").endswith("/v1/namespaces/ns/leases/a/status")


@in_loop
async def test_apply_makes_changes_and_takes_back_what_is_no_longer_said() -> None:
    async with world() as (api, port):
        made = await port.apply(CONFIG_MAP, manifest(data={"x": "1", "y": "2"}))
        assert made["kind"] == "ConfigMap"
        api.kube.put("configmaps", {**made, "data": {**made["data"], "theirs": "3"}})
        changed = await port.apply(CONFIG_MAP, manifest(data={"x": "9"}))
        assert changed["data"] == {"x": "9", "theirs": "3"}
        same = await port.apply(CONFIG_MAP, manifest(data={"x": "9"}))
        assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
        assert api.writes == [Write("apply", "configmaps", "ns/a")] * 3


@given(st.text())
def test_text_is_the_same_whether_it_is_read_as_json_or_as_yaml(text: str) -> None:
    body = lightkube_port.encode({"text": text})
    assert msgspec.json.decode(body) == {"text": text}
    assert yaml.safe_load(body) == {"text": text}


@in_loop
async def test_status_and_the_rest_are_applied_apart() -> None:
    async with world() as (_, port):
        made = await port.apply(CLUSTER, manifest(spec={"version": 18}, status={"phase": "no"}))
        assert "status" not in made
        said = await port.apply_status(
            CLUSTER, manifest(spec={"version": 1}, status={"phase": "x"})
        )
        assert (said["spec"], said["status"]) == ({"version": 18}, {"phase": "x"})
        assert said["metadata"]["generation"] == 1


@in_loop
async def test_compare_and_swap_succeeds_once() -> None:
    async with world() as (_, port):
        lease = await port.create(LEASE, manifest(spec={"holderIdentity": "x"}))
        with pytest.raises(Conflict):
            await port.create(LEASE, manifest())
        await port.replace(LEASE, {**lease, "spec": {"holderIdentity": "y"}})
        with pytest.raises(Conflict):
            await port.replace(LEASE, {**lease, "spec": {"holderIdentity": "z"}})
        assert (await port.get(LEASE, A))["spec"] == {"holderIdentity": "y"}


@in_loop
async def test_patch_merges_and_has_a_precondition() -> None:
    async with world() as (_, port):
        made = await port.apply(CLUSTER, manifest(spec={}))
        version = made["metadata"]["resourceVersion"]
        finalizers = {"metadata": {"finalizers": ["seawall.dev/x"]}}
        patched = await port.patch(CLUSTER, A, finalizers, resource_version=version)
        assert patched["metadata"]["finalizers"] == ["seawall.dev/x"]
        with pytest.raises(Conflict):
            await port.patch(CLUSTER, A, {"metadata": {"labels": {}}}, resource_version=version)


@in_loop
async def test_delete_is_for_one_uid_and_tells_whether_the_object_lingers() -> None:
    async with world() as (api, port):
        made = await port.apply(POD, manifest())
        uid = made["metadata"]["uid"]
        with pytest.raises(Conflict):
            await port.delete(POD, A, uid="another")
        api.kube.pods_end_slowly = True
        left = await port.delete(POD, A, uid=uid)
        assert left is not None
        assert left["metadata"]["deletionTimestamp"]
        assert await port.delete(POD, A, uid=uid, grace_s=0) is None
        with pytest.raises(NotFound):
            await port.delete(POD, A, uid=uid)


@in_loop
async def test_finalizer_keeps_an_object_until_it_is_taken_away() -> None:
    async with world() as (api, port):
        made = await port.apply(CLUSTER, manifest())
        await port.patch(CLUSTER, A, {"metadata": {"finalizers": ["x"]}})
        assert await port.delete(CLUSTER, A, uid=made["metadata"]["uid"]) is not None
        await port.patch(CLUSTER, A, {"metadata": {"finalizers": None}})
        assert not api.kube.objects


@in_loop
async def test_managed_fields_and_images_of_nodes_do_not_get_in() -> None:
    async with world() as (api, port):
        noise = {"managedFields": [{"manager": "x"}]}
        node = {"metadata": {"name": "n", **noise}, "status": {"images": [1], "capacity": {}}}
        api.kube.put("nodes", node)
        (item,) = (await port.list(NODE)).items
        assert item["status"] == {"capacity": {}}
        assert "managedFields" not in item["metadata"]
        assert "managedFields" not in (await port.get(NODE, Key("", "n")))["metadata"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, Refused),
        (401, Unavailable),
        (403, Refused),
        (404, NotFound),
        (408, Unavailable),
        (409, Conflict),
        (410, Gone),
        (413, Refused),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
@in_loop
async def test_status_code_says_what_the_caller_must_do(code: int, error: type[KubeError]) -> None:
    async with world() as (api, port):
        api.fail(code)
        with pytest.raises(error, match=f"injected {code}"):
            await port.get(POD, A)


@in_loop
async def test_api_says_after_which_pause_it_can_be_asked_again() -> None:
    async with world() as (api, port):
        api.fail(429, retry_after_s=7)
        with pytest.raises(Unavailable) as caught:
            await port.apply(POD, manifest())
        assert caught.value.retry_after_s == 7


@in_loop
async def test_connection_that_is_lost_may_have_done_it_or_not() -> None:
    async with world() as (api, port):
        api.cut(matching="PATCH")
        with pytest.raises(Unavailable):
            await port.apply(POD, manifest())
        assert not api.kube.objects
        api.cut(matching="PATCH", after=True)
        with pytest.raises(Unavailable):
            await port.apply(POD, manifest())
        assert api.kube.objects
        await port.apply(POD, manifest())  # the next one uses no dead connection


@in_loop
async def test_api_that_is_not_there_is_unavailable() -> None:
    async with KubeApi() as api:
        port = LightkubePort(api.config())
    with pytest.raises(Unavailable):
        await port.get(POD, A)
    with pytest.raises(Unavailable):
        async for _ in port.watch(POD, since="1", lasts_s=1):
            pass
    await port.close()


@in_loop
async def test_answer_that_takes_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightkube_port, "CALL_S", 0.05)
    async with world() as (api, port):
        api.slow_s = 30.0
        with pytest.raises(Unavailable):
            await port.get(POD, A)


@in_loop
async def test_silence_on_a_watch_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fixtures.kube_api.BOOKMARK_S", 30.0)
    monkeypatch.setattr(lightkube_port, "SILENCE_S", 0.05)
    async with world() as (_, port):
        assert [event async for event in port.watch(POD, since="1000", lasts_s=60)] == []


@in_loop
async def test_watch_yields_events_and_bookmarks_and_ends_when_it_was_to() -> None:
    async with world() as (api, port):
        api.kube.put("pods", manifest())
        events = [event async for event in port.watch(POD, since="1000", lasts_s=1)]
        assert [event.type for event in events][:2] == ["ADDED", "BOOKMARK"]


@in_loop
async def test_error_within_a_watch_is_the_same_kind_of_error() -> None:
    async with world() as (api, port):
        api.fail(410, matching="watch")
        with pytest.raises(Gone):
            async for _ in port.watch(POD, since="1", lasts_s=1):
                pass
    line = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}'
    with pytest.raises(Gone, match="too old"):
        lightkube_port._event(line)


@in_loop
async def test_token_that_was_rotated_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    async with world(User(token_file=str(token))) as (api, port):
        api.token = "first"  # noqa: S105  # no secret
        await port.apply(POD, manifest())
        api.token = "second"  # noqa: S105  # no secret
        with pytest.raises(Unavailable):
            await port.apply(POD, manifest())
        token.write_text("second")
        await port.apply(POD, manifest())


@in_loop
async def test_calls_can_be_cancelled_and_others_go_on() -> None:
    async with world() as (api, port):
        api.slow_s = 0.05
        calls = [asyncio.create_task(port.apply(POD, manifest())) for _ in range(4)]
        await asyncio.sleep(0)
        calls[0].cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert all(isinstance(answer, dict) for answer in done[1:])


def test_kubeconfig_is_read_and_a_bad_one_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    with pytest.raises(Refused, match="kubeconfig"):
        load_config(path)
    path.write_text("clusters: []\ncontexts: []\nusers: []\n")
    with pytest.raises(Refused, match="kubeconfig"):
        load_config(path)
    path.write_text(
        "current-context: c\n"
        "clusters: [{name: k, cluster: {server: 'https://k:6443'}}]\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
        "users: [{name: u, user: {token: t}}]\n"
    )
    assert load_config(path).cluster.server == "https://k:6443"


def test_outside_of_a_pod_the_service_account_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Refused, match="service account"):
        load_config()
