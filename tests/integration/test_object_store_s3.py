"""Objects over HTTP: the contract on a server that speaks S3, and on servers that misbehave.

In scope: prefixes, credentials from a file, races across clients, a store that overwrites silently,
one that does not answer, one that loses its answers. Out of scope: the clouds themselves. A real
store can be tried in place of the server: set SEAWALL_TEST_S3_URL, for instance `s3://bucket/tests`,
and what AWS_* variables it needs.
"""

import http.server
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.s3_server import s3_server
from unit.object_store.contract import CLAIMS

from object_store.cloud import Cloud, ObjectStoreOptions, open_cloud
from object_store.interface import (
    ObjectExistsError,
    ObjectInfo,
    ObjectMissingError,
    ObjectStore,
    StoreBusyError,
    StoreError,
)
from object_store.open import open_object_store

HIDDEN = "do-not-tell-anybody"
URL = os.environ.get("SEAWALL_TEST_S3_URL")
PREFIXES = itertools.count()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str | None]:
    """The address of a server with an empty bucket called `bucket`."""
    if URL is not None:
        yield None
        return
    with s3_server() as address:
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    if URL is None:
        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", HIDDEN)


def open_prefix(endpoint: str | None, prefix: str) -> ObjectStore:
    url = f"{URL or 's3://bucket'}/{prefix}"
    return open_object_store(url, options=ObjectStoreOptions(endpoint=endpoint))


@pytest.fixture
def store(endpoint: str | None) -> ObjectStore:
    return open_prefix(endpoint, f"{os.getpid()}-{next(PREFIXES)}")


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_contract_is_kept(claim: Callable[[ObjectStore], None], store: ObjectStore) -> None:
    claim(store)


def test_prefixes_keep_stores_apart(endpoint: str | None) -> None:
    outer, inner = open_prefix(endpoint, "apart"), open_prefix(endpoint, "apart/inner")
    beside = open_prefix(endpoint, "apart-too")
    for store in (inner, beside):
        store.put_new("a", b"content")
    assert inner.list("") == beside.list("") == [ObjectInfo("a", 7)]
    assert outer.list("") == [ObjectInfo("inner/a", 7)]
    assert outer.get("inner/a") == b"content"
    with pytest.raises(ObjectMissingError):
        outer.get("a")


def test_two_clients_see_one_bucket(endpoint: str | None) -> None:
    one, other = open_prefix(endpoint, "shared"), open_prefix(endpoint, "shared")
    one.put_new("a", b"one")
    with pytest.raises(ObjectExistsError):
        other.put_new("a", b"other")
    assert other.get("a") == b"one"


@pytest.mark.skipif(URL is not None, reason="the credentials of a real store are in no file")
def test_credentials_come_from_a_file_that_may_be_rotated(
    endpoint: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    path = tmp_path / "credentials"
    options = ObjectStoreOptions(endpoint=endpoint, credentials_file=path)
    with pytest.raises(StoreError, match=r"cannot read .*credentials"):
        open_object_store("s3://bucket/file", options=options)
    path.write_text(f"[default]\naws_access_key_id\nsecret = {HIDDEN}\n")
    with pytest.raises(StoreError, match="must have a section") as caught:
        open_object_store("s3://bucket/file", options=options)
    assert HIDDEN not in str(caught.value)
    path.write_text(f"[default]\naws_access_key_id=a\naws_secret_access_key={HIDDEN}%\n")
    store = open_object_store("s3://bucket/file", options=options)
    store.put_new("a", b"x")
    assert store.get("a") == b"x"


@pytest.mark.skipif(URL is not None, reason="a real store has other buckets")
def test_a_missing_bucket_is_named_at_once(endpoint: str | None) -> None:
    with pytest.raises(StoreError, match="no such bucket"):
        open_object_store("s3://nothing", options=ObjectStoreOptions(endpoint=endpoint))


class Misbehaving(http.server.BaseHTTPRequestHandler):
    """Stores what it is sent, and answers as the test wants it to."""

    protocol_version = "HTTP/1.1"
    put_status = 200
    is_conditional = True
    loses_answers = False
    gets_refused = 0
    objects: dict[str, bytes]
    requests: list[str]

    def do_PUT(self) -> None:
        """Store, if the condition holds."""
        content = self.rfile.read(int(self.headers["content-length"]))
        self.requests.append("PUT")
        if self.is_conditional and self.path in self.objects and self.headers["if-none-match"]:
            self.answer(412)
            return
        if self.put_status == 200:
            self.objects[self.path] = content
        if self.loses_answers:
            self.close_connection = True
            return
        self.answer(self.put_status)

    def do_GET(self) -> None:
        """Return what is stored."""
        self.requests.append("GET")
        if self.requests.count("GET") <= self.gets_refused:
            self.answer(503)
            return
        content = self.objects.get(self.path)
        self.answer(404 if content is None else 200, content or b"")

    def do_DELETE(self) -> None:
        """Forget."""
        self.objects.pop(self.path, None)
        self.answer(204)

    def answer(self, status: int, content: bytes = b"") -> None:
        """Send what a client needs to be content."""
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("etag", '"1"')
        self.send_header("last-modified", "Fri, 07 Aug 2026 00:00:00 GMT")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def misbehaving(**behaviour: object) -> Iterator[tuple[str, type[Misbehaving]]]:
    handler = type("Handler", (Misbehaving,), {"objects": {}, "requests": [], **behaviour})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("prefix", ["", "/prefix"])
def test_a_store_that_overwrites_silently_is_refused(prefix: str) -> None:
    with misbehaving(is_conditional=False) as (address, handler):
        with pytest.raises(StoreError, match="overwrites objects silently"):
            open_object_store(f"s3://bucket{prefix}", options=ObjectStoreOptions(endpoint=address))
        assert handler.objects == {}


def test_a_store_that_creates_only_is_taken_and_the_probe_removed() -> None:
    with misbehaving() as (address, handler):
        open_object_store("s3://bucket", options=ObjectStoreOptions(endpoint=address))
        assert handler.requests == ["PUT", "PUT"]
        assert handler.objects == {}


@pytest.mark.parametrize(
    ("status", "kind", "sentence"),
    [
        (403, StoreError, "check the credentials"),
        (401, StoreError, "check the credentials"),
        (404, StoreError, "no such bucket"),
        (500, StoreBusyError, "now"),
        (503, StoreBusyError, "now"),
    ],
)
def test_refused_puts_say_what_to_do_and_are_not_repeated(
    status: int, kind: type[Exception], sentence: str
) -> None:
    with misbehaving() as (address, handler):
        store = open_object_store("s3://bucket", options=ObjectStoreOptions(endpoint=address))
        handler.put_status = status
        handler.requests.clear()
        with pytest.raises(kind, match=f"cannot store a.*{sentence}") as caught:
            store.put_new("a", b"x")
        assert handler.requests == ["PUT"]
        assert HIDDEN not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_put_whose_answer_is_lost_is_busy_and_not_somebody_elses() -> None:
    with misbehaving() as (address, handler):
        store = open_object_store("s3://bucket", options=ObjectStoreOptions(endpoint=address))
        handler.loses_answers = True
        with pytest.raises(StoreBusyError):
            store.put_new("a", b"ours")
        handler.loses_answers = False
        with pytest.raises(ObjectExistsError):
            store.put_new("a", b"ours")
        assert store.get("a") == b"ours"


def test_reads_are_repeated() -> None:
    with misbehaving(gets_refused=2) as (address, handler):
        store = open_object_store("s3://bucket", options=ObjectStoreOptions(endpoint=address))
        store.put_new("a", b"x")
        assert store.get("a") == b"x"
        assert handler.requests.count("GET") == 3


def test_a_store_that_does_not_answer_is_busy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    options = ObjectStoreOptions(endpoint=f"http://127.0.0.1:{port}")
    store = open_cloud(Cloud.S3, "bucket", None, options)
    for call in (
        lambda: store.put_new("a", b"x"),
        lambda: store.get("a"),
        lambda: open_object_store("s3://bucket", options=options),
    ):
        with pytest.raises(StoreBusyError, match=r"cannot .* now"):
            call()
