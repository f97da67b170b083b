"""A URL opens the store that it names, or says what is wrong without telling what is in it.

Out of scope: what needs a server (tests/integration/test_object_store_s3.py).
"""

from pathlib import Path

import pytest
from unit.fabric.rpc_world import in_loop

from object_store.cloud import FILE_BYTES_MAX, Cloud, ObjectStoreOptions, open_cloud
from object_store.directory import DirectoryStore
from object_store.interface import ObjectExistsError, ObjectStore, StoreBusyError, StoreError
from object_store.memory import MemoryStore
from object_store.open import open_object_store, open_when_it_answers
from object_store.remote import PROBE_FOLDER, RemoteStore, probe_create_only

HIDDEN = "do-not-tell-anybody"


def test_a_directory_is_opened_by_its_url(tmp_path: Path) -> None:
    store = open_object_store(f"file://{tmp_path}/with%20space/objects")
    assert isinstance(store, DirectoryStore)
    store.put_new("a", b"x")
    assert (tmp_path / "with space" / "objects" / "a").read_bytes() == b"x"


def test_memory_is_empty_each_time() -> None:
    store = open_object_store("memory:")
    assert isinstance(store, MemoryStore)
    store.put_new("a", b"x")
    assert open_object_store("memory:").list("") == []


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "begins with file, memory, s3, gs or az"),
        ("/data", "begins with"),
        ("http://host/bucket", "begins with"),
        ("file:relative", "file:///absolute/path"),
        ("file://host/path", "file:///absolute/path"),
        ("file:///a%00b", "file:///absolute/path"),
        ("s3:///prefix", "name a bucket"),
        ("s3://..", "name a bucket"),
        ("gs://", "name a bucket"),
        (f"s3://user:{HIDDEN}@bucket", "no credentials"),
        (f"s3://bucket?secret_key={HIDDEN}", "no credentials"),
        (f"az://container/#{HIDDEN}", "no credentials"),
        (f"s3://bucket/../{HIDDEN}", "prefix"),
        (f"s3://bucket/{HIDDEN}%20", "prefix"),
        (f"s3://[bucket/{HIDDEN}", "malformed"),
    ],
)
def test_a_bad_url_is_explained_and_not_repeated(url: str, sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence) as caught:
        open_object_store(url)
    assert HIDDEN not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "endpoint",
    ["host:9000", "ftp://host", "https://", f"https://user:{HIDDEN}@host", "http://host:9000"],
)
def test_a_bad_or_unprotected_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"looks like https|without TLS") as caught:
        ObjectStoreOptions(endpoint=endpoint)
    assert HIDDEN not in str(caught.value)


def test_plain_http_is_for_loopback_or_on_demand() -> None:
    ObjectStoreOptions(endpoint="http://127.0.0.1:9000")
    ObjectStoreOptions(endpoint="http://[::1]:9000")
    ObjectStoreOptions(endpoint="https://host")
    ObjectStoreOptions(endpoint="http://host", is_plain_http_allowed=True)


def test_files_of_the_options_are_read_within_limits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (FILE_BYTES_MAX + 1))
    for options in (
        ObjectStoreOptions(root_certificate_file=path),
        ObjectStoreOptions(credentials_file=path),
    ):
        with pytest.raises(StoreError, match="exceeds"):
            open_cloud(Cloud.S3, "bucket", None, options)
    path.write_bytes(b"\xff")
    with pytest.raises(StoreError, match="is not text"):
        open_cloud(Cloud.S3, "bucket", None, ObjectStoreOptions(credentials_file=path))
    path.write_text(HIDDEN)
    with pytest.raises(StoreError, match=r"options or the environment .* of s3://bucket") as caught:
        open_cloud(Cloud.S3, "bucket", None, ObjectStoreOptions(root_certificate_file=path))
    assert HIDDEN not in str(caught.value)


def test_each_cloud_has_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    options = ObjectStoreOptions(endpoint="http://127.0.0.1:1")
    for cloud in Cloud:
        assert isinstance(open_cloud(cloud, "bucket", "prefix/of-it", options), RemoteStore)


def test_azure_takes_no_credentials_file(tmp_path: Path) -> None:
    options = ObjectStoreOptions(credentials_file=tmp_path / "key")
    with pytest.raises(StoreError, match="AZURE_"):
        open_cloud(Cloud.AZURE, "container", None, options)


def test_the_probe_leaves_nothing_behind_unless_deleting_is_forbidden() -> None:
    store = MemoryStore()
    probe_create_only(store)
    assert store.list("") == []

    class Undeletable(MemoryStore):
        def delete(self, name: str) -> None:
            raise StoreError(f"you may not delete {name}")

    kept: ObjectStore = Undeletable()
    probe_create_only(kept)
    (info,) = kept.list("")
    assert info.name.startswith(PROBE_FOLDER)
    with pytest.raises(ObjectExistsError):
        kept.put_new(info.name, b"")


@in_loop
async def test_a_node_waits_for_a_store_that_does_not_answer_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is the only thing here that is not real: none could be made to come at a call."""
    busy = StoreBusyError("not yet")
    answers: list[StoreBusyError | MemoryStore] = [busy, busy, MemoryStore()]

    def answer(url: str, *, options: ObjectStoreOptions) -> ObjectStore:
        del url, options
        found = answers.pop(0)
        if isinstance(found, StoreBusyError):
            raise found
        return found

    monkeypatch.setattr("object_store.open.open_object_store", answer)
    assert isinstance(await open_when_it_answers("memory:", retry_s=0), MemoryStore)
    assert answers == []


@in_loop
async def test_a_node_without_a_store_has_none_and_a_wrong_url_is_not_tried_again() -> None:
    assert await open_when_it_answers(None) is None
    with pytest.raises(StoreError, match="begins with"):
        await open_when_it_answers("ftp://nowhere", retry_s=0)
