"""The API server: `objects.py` over HTTPS, with a token, watches and bookmarks.

    async with ApiServer(objects, directory) as api:
        api.kubeconfig          # a file that says how to come here
        api.requests            # how often what was asked for: ("patch", "pods")

Requests are counted when they arrive, watches when they begin. One connection answers one request
after the other; a watch takes its connection for itself, as with HTTP/1.1 everywhere.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec

from fabric.certificates import issue, make_authority
from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity

from .objects import CONFLICT, ApiFault, Change, Json, Objects, Target, selects
from .server_tls import plain_server_context

HOST: Final = "127.0.0.1"
BOOKMARK_S: Final = 60.0  # as Kubernetes
HEAD_BYTES_MAX: Final = 64 * 1024
DAYS: Final = 2
DONE: Final = 200
UNAUTHORIZED: Final = 401
WRITES: Final = frozenset({"post", "put", "patch", "delete"})


class Asked(NamedTuple):
    """A kind of request."""

    verb: str
    plural: str

    @property
    def is_write(self) -> bool:
        """Whether it asks for a change."""
        return self.verb in WRITES


class Request(NamedTuple):
    """A request, taken apart."""

    method: str
    target: Target
    api_version: str
    params: dict[str, str]
    headers: dict[str, str]
    body: Json


class ApiServer:
    """Serves while it is a context."""

    def __init__(self, objects: Objects, directory: Path) -> None:
        self._objects = objects
        self._directory = directory
        self._token = secrets.token_urlsafe()
        self._watches: dict[str, set[asyncio.Event]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.requests: Counter[Asked] = Counter()
        self.kubeconfig = directory / "kubeconfig"
        objects.on_change.append(self._wake)

    async def __aenter__(self) -> Self:
        authority = make_authority("kubernetes", days=DAYS)
        identity = Identity(ClusterName("kubernetes"), Role.LOG, NodeName("apiserver"))
        pem = issue(authority, identity, days=DAYS, hosts=(HOST,))
        self._server = await asyncio.start_server(
            self._connected, HOST, 0, ssl=plain_server_context(pem), limit=HEAD_BYTES_MAX
        )
        ca = self._directory / "ca.crt"
        ca.write_bytes(authority.certificate)
        port = self._server.sockets[0].getsockname()[1]
        self.kubeconfig.write_bytes(_kubeconfig(f"https://{HOST}:{port}", ca, self._token))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _wake(self, plural: str, _change: Change) -> None:
        for changed in self._watches.get(plural, ()):
            changed.set()

    # --- HTTP ---------------------------------------------------------------------------------

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = (OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*gone):  # RuntimeError: uvloop's word for a closed connection
            while await self._one(await _read(reader), writer):
                await writer.drain()
        writer.transport.abort()

    async def _one(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether there may be another one on this connection."""
        is_watch = request.params.get("watch") == "true"
        verb = "watch" if is_watch else request.method.lower()
        self.requests[Asked(verb, request.target.plural)] += 1
        try:
            self._admit(request)
            if is_watch:
                await self._watch(request, writer)
                return False
            code, answer = DONE, self._answer(request)
        except ApiFault as fault:
            code = fault.code
            answer = {"kind": "Status", "code": code, "message": fault.message}
        content = msgspec.json.encode(answer)
        head = f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return True

    def _admit(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self._token}":
            raise ApiFault(UNAUTHORIZED, "Unauthorized")

    def _answer(self, request: Request) -> Json:
        objects, target, body = self._objects, request.target, request.body
        match request.method:
            case "GET":
                return objects.get(target) if target.name else objects.list(target, request.params)
            case "POST":
                return objects.create(target, body)
            case "PUT":
                return objects.change(target, body, is_whole=True)
            case "DELETE":
                return objects.delete(target, body.get("preconditions", {}).get("uid"))
            case _ if request.headers.get("content-type") == "application/apply-patch+yaml":
                return objects.apply(target, request.params["fieldManager"], body)
            case _:
                return objects.change(target, body, is_whole=False)

    async def _watch(self, request: Request, writer: asyncio.StreamWriter) -> None:
        plural, version = request.target.plural, int(request.params["resourceVersion"])
        if version > self._objects.version:
            raise ApiFault(CONFLICT, f"resource version {version} is yet to come")
        self._objects.since(plural, version)  # or it is too old
        writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
        changed = asyncio.Event()
        self._watches.setdefault(plural, set()).add(changed)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(int(request.params["timeoutSeconds"])):
                    await self._stream(request, version, changed, writer)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._watches[plural].discard(changed)

    async def _stream(
        self, request: Request, version: int, changed: asyncio.Event, writer: asyncio.StreamWriter
    ) -> None:
        now_s = asyncio.get_running_loop().time
        bookmark_s = now_s() + BOOKMARK_S
        selector, namespace = request.params.get("labelSelector", ""), request.target.namespace
        while not writer.is_closing():
            changed.clear()
            for change in self._objects.since(request.target.plural, version):
                there = change.thing["metadata"].get("namespace", "")
                if namespace in ("", there) and selects(selector, change.thing):
                    thing = {"apiVersion": request.api_version, **change.thing}
                    writer.write(_chunk(change.type, thing))
                version = change.version
            await writer.drain()
            try:
                async with asyncio.timeout_at(bookmark_s):
                    await changed.wait()
            except TimeoutError:
                bookmark_s = now_s() + BOOKMARK_S
                metadata = {"resourceVersion": str(self._objects.version)}
                writer.write(_chunk("BOOKMARK", {"metadata": metadata}))


def writes_of(requests: Counter[Asked], *, leases: bool) -> int:
    """Return how many requests asked for a change: of the election's Lease, or of all else."""
    return sum(
        count
        for asked, count in requests.items()
        if asked.is_write and (asked.plural == "leases") == leases
    )


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:])}
    text = await reader.readexactly(int(headers.get("content-length", 0)))
    body = msgspec.json.decode(text, type=Json) if text else {}
    method, path, _ = head[0].split(" ")
    return Request(method, *parse_target(path), headers, body)


def parse_target(path: str) -> tuple[Target, str, dict[str, str]]:
    """Take a path apart: what it is about, of which version of the API, and the parameters."""
    url = urlsplit(path)
    parts = url.path.strip("/").split("/")
    depth = 2 if parts[0] == "api" else 3
    api_version, rest = "/".join(parts[1:depth]), parts[depth:]
    namespace = ""
    if rest[0] == "namespaces" and rest[2:]:
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "")[:3]
    target = Target(plural, namespace, name, subresource)
    return target, api_version, dict(parse_qsl(url.query))


def _chunk(event: str, thing: Json) -> bytes:
    line = msgspec.json.encode({"type": event, "object": thing}) + b"\n"
    return f"{len(line):x}\r\n".encode() + line + b"\r\n"


def _kubeconfig(url: str, ca: Path, token: str) -> bytes:
    def named(kind: str, content: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"name": "bench", kind: content}]

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": named("cluster", {"server": url, "certificate-authority": str(ca)}),
        "users": named("user", {"token": token}),
        "contexts": named("context", {"cluster": "bench", "user": "bench"}),
    }
    return msgspec.json.encode(config)  # JSON is YAML
