"""KubePort over lightkube: its configuration and credentials, requests of our own.

lightkube reads kubeconfigs and service accounts, sets TLS up, reads a rotated token again when the
API answers 401, and gives an HTTP client that does all this. Its resource layer (1.0.1) is not
used, since it lacks what an operator depends on: delete takes no precondition and drops the answer;
watch cannot ask for bookmarks, waits for ever on a connection that is dead, repeats without a pause
when the server ends it at once, and splits its lines at U+0085 within a JSON string.

What comes from the API is made slim on arrival: managed fields are half of a typical object, and
nobody here reads them.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx2
import msgspec
from lightkube import ConfigError, KubeConfig, SingleConfig
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.models import User

from .kube_port import (
    FIELD_MANAGER,
    Conflict,
    Gone,
    Json,
    Key,
    Kind,
    KubeError,
    Listing,
    NotFound,
    Refused,
    Unavailable,
    WatchEvent,
    key_of,
)

CONNECT_S: Final = 5.0
CALL_S: Final = 15.0  # for a whole call; the API itself gives webhooks 10 s
PAGE_ITEMS: Final = 250  # of a list: about 2 MB of pods
PAGES_MAX: Final = 4_000  # of one list: a million objects, which no API server holds
# On a watch. The API sends a bookmark a minute, but none while nothing happens to a kind; so it
# means that nothing happens or that the connection is dead, and costs a new watch.
SILENCE_S: Final = 150.0
LINE_BYTES_MAX: Final = (
    16 * 1024 * 1024
)  # etcd takes 1.5 MiB, and JSON is longer than what it keeps
MESSAGE_CHARACTERS_MAX: Final = 1_000  # of what the API says: as long as a condition may be

# ConfigError: the token's file is not there at this moment.
_FAILURES: Final = (
    httpx2.HTTPError,
    httpx2.StreamError,
    msgspec.DecodeError,
    ConfigError,
    TimeoutError,
    OSError,
)

_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML, but for _NOT_IN_YAML
_MERGE: Final = "application/merge-patch+json"
_JSON: Final = "application/json"

# Within a string, YAML folds some of these to spaces and refuses the others.
_NOT_IN_YAML: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def load_config(kubeconfig: Path | None = None) -> SingleConfig:
    """Return what a kubeconfig says, or the service account of the pod that this runs in."""
    try:
        if kubeconfig is None:
            config = KubeConfig.from_service_account()
        else:
            config = KubeConfig.from_file(kubeconfig)
        single = config.get()
    except (ConfigError, KeyError, OSError, msgspec.ValidationError) as error:
        source = kubeconfig or "the service account of this pod"
        raise Refused(f"{source} does not say how to reach Kubernetes: {error!r}") from error
    if single is None:
        raise Refused(f"{kubeconfig} has no current context")
    return single


T = TypeVar("T")


class _Line(msgspec.Struct):
    """A line of a watch."""

    type: str
    object: Json


class _Page(msgspec.Struct):
    """A part of a list. Its items are parsed one by one: with all they say they are large."""

    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None


class LightkubePort:
    """Talks to one API server, on connections that it keeps. See KubePort for the methods."""

    def __init__(self, config: SingleConfig) -> None:
        if config.user is None:
            config = config._replace(user=User())  # nobody: as behind `kubectl proxy`
        timeout = httpx2.Timeout(CALL_S, connect=CONNECT_S)
        self._client = AsyncClient(config, ConnectionParams(timeout=timeout))

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.aclose()

    async def list(self, kind: Kind, *, namespace: str = "", selector: str = "") -> Listing:
        """Return all that match, page by page, as they were when the first page was made."""
        items: list[Json] = []
        params = {"limit": str(PAGE_ITEMS)}
        if selector:
            params["labelSelector"] = selector
        for _ in range(PAGES_MAX):
            page = await self._call("GET", kind.path(namespace), params=params, answer=_Page)
            # In a list, objects do not say themselves what they are.
            items.extend(
                slim(typed(kind, msgspec.json.decode(text, type=Json))) for text in page.items or ()
            )
            more = page.metadata.get("continue")
            if not more:
                return Listing(items, page.metadata["resourceVersion"])
            params["continue"] = more
        raise Refused(f"there are more than {PAGES_MAX * PAGE_ITEMS} {kind.plural}")

    async def watch(
        self, kind: Kind, *, since: str, lasts_s: int, namespace: str = "", selector: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happens after `since`; end when that is nothing for SILENCE_S."""
        params = {
            "watch": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(lasts_s),
            "allowWatchBookmarks": "true",
        }
        if selector:
            params["labelSelector"] = selector
        request = self._client.build_request(
            "GET",
            kind.path(namespace),
            params=params,
            timeout=httpx2.Timeout(CALL_S, connect=CONNECT_S, read=SILENCE_S),
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                if response.status_code >= httpx2.codes.BAD_REQUEST:
                    await response.aread()
                    raise _error(response)
                async with aclosing(_lines(response)) as lines:
                    async for line in lines:
                        yield _event(line)
            except httpx2.ReadTimeout:
                return
            finally:
                await response.aclose()
        except _FAILURES as error:
            raise Unavailable(f"the watch of {kind.plural} broke: {error!r}") from error

    async def get(self, kind: Kind, key: Key) -> Json:
        """Return one object."""
        return slim(await self._ask("GET", kind.path(*key)))

    async def create(self, kind: Kind, manifest: Json) -> Json:
        """Make an object; Conflict if there is one of this name."""
        path = kind.path(manifest["metadata"].get("namespace", ""))
        params = {"fieldManager": FIELD_MANAGER}
        return slim(await self._ask("POST", path, typed(kind, manifest), params=params))

    async def replace(self, kind: Kind, manifest: Json) -> Json:
        """Replace an object that still has the manifest's resourceVersion; else Conflict."""
        assert manifest["metadata"].get("resourceVersion"), "else it would overwrite blindly"
        params = {"fieldManager": FIELD_MANAGER}
        path = kind.path(*key_of(manifest))
        return slim(await self._ask("PUT", path, typed(kind, manifest), params=params))

    async def apply(self, kind: Kind, manifest: Json) -> Json:
        """Make it so."""
        return await self._apply(kind.path(*key_of(manifest)), typed(kind, manifest))

    async def apply_status(self, kind: Kind, manifest: Json) -> Json:
        """Apply the manifest's `status`."""
        path = kind.path(*key_of(manifest), "status")
        return await self._apply(path, typed(kind, manifest))

    async def _apply(self, path: str, manifest: Json) -> Json:
        # By force: a field that the operator writes is the operator's, whoever wrote it before.
        params = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return slim(await self._ask("PATCH", path, manifest, params=params, content_type=_APPLY))

    async def patch(
        self, kind: Kind, key: Key, changes: Json, *, resource_version: str = ""
    ) -> Json:
        """Merge changes into an object."""
        if resource_version:
            metadata = {**changes.get("metadata", {}), "resourceVersion": resource_version}
            changes = {**changes, "metadata": metadata}
        params = {"fieldManager": FIELD_MANAGER}
        path = kind.path(*key)
        return slim(await self._ask("PATCH", path, changes, params=params, content_type=_MERGE))

    async def delete(
        self,
        kind: Kind,
        key: Key,
        *,
        uid: str,
        grace_s: int | None = None,
        propagation: str = "Background",
    ) -> Json | None:
        """Delete the object of this uid; return it if it lingers."""
        options: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid},
        }
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        answer = await self._ask("DELETE", kind.path(*key), options)
        metadata = answer.get("metadata") or {}
        # What is gone at once is answered with a Status, or with how it was at last.
        if "deletionTimestamp" not in metadata:
            return None
        lingers = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds") != 0
        return slim(answer) if lingers else None

    async def _ask(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: dict[str, str] | None = None,
        content_type: str = _JSON,
    ) -> Json:
        return await self._call(
            method, path, body, answer=Json, params=params, content_type=content_type
        )

    async def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        answer: type[T],
        params: dict[str, str] | None = None,
        content_type: str = _JSON,
    ) -> T:
        request = self._client.build_request(
            method,
            path,
            params=params,
            content=None if body is None else encode(body),
            headers={"Accept": _JSON, "Content-Type": content_type},
        )
        try:
            # The client's own timeouts are for each piece that is read, not for all of them.
            async with asyncio.timeout(CALL_S):
                response = await self._client.send(request)
            if response.status_code >= httpx2.codes.BAD_REQUEST:
                raise _error(response)
            return msgspec.json.decode(response.content, type=answer)
        except _FAILURES as error:
            raise Unavailable(f"no answer to {method} {path}: {error!r}") from error


def encode(body: Json) -> bytes:
    """Return JSON that is the same as YAML: what is applied, the API reads as YAML."""
    text = msgspec.json.encode(body).decode()
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def slim(thing: Json) -> Json:
    """Take out of an object what is large and not read by anybody here, in place."""
    metadata = thing.get("metadata")
    if metadata is not None:
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if annotations:
            annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    if thing.get("kind") == "Node" and "status" in thing:
        thing["status"].pop("images", None)  # up to 50 names of each image on the node
    return thing


def typed(kind: Kind, manifest: Json) -> Json:
    """Return a manifest that says what it is one of."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **manifest}


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield what stands between newlines: not `aiter_lines`, which splits at much else."""
    rest = b""
    async for piece in response.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > LINE_BYTES_MAX:
            raise Unavailable(f"a line of a watch is longer than {LINE_BYTES_MAX} bytes")


def _event(line: bytes) -> WatchEvent:
    event = msgspec.json.decode(line, type=_Line)
    if event.type == "ERROR":
        raise _error_of_status(event.object, code=event.object.get("code", 0), retry_after_s=0.0)
    return WatchEvent(event.type, slim(event.object))


def _error(response: httpx2.Response) -> KubeError:
    try:
        status = msgspec.json.decode(response.content, type=Json)
    except msgspec.DecodeError:  # a proxy's answer
        status = {"message": response.text}
    header = response.headers.get("Retry-After", "")
    retry_after_s = float(header) if header.isdecimal() else 0.0
    return _error_of_status(status, code=response.status_code, retry_after_s=retry_after_s)


def _error_of_status(status: dict[str, Any], *, code: int, retry_after_s: float) -> KubeError:
    said = str(status.get("message") or status.get("reason") or "no reason given")
    message = f"{said[:MESSAGE_CHARACTERS_MAX]} ({code})"
    match code:
        case httpx2.codes.NOT_FOUND:
            return NotFound(message)
        case httpx2.codes.CONFLICT:
            return Conflict(message)
        case httpx2.codes.GONE:
            return Gone(message)
        # A token that is refused can be in order a moment later: it is rotated, or so are the keys.
        case (
            httpx2.codes.UNAUTHORIZED
            | httpx2.codes.REQUEST_TIMEOUT
            | httpx2.codes.TOO_MANY_REQUESTS
        ):
            return Unavailable(message, retry_after_s=retry_after_s)
        case _ if httpx2.codes.BAD_REQUEST <= code < httpx2.codes.INTERNAL_SERVER_ERROR:
            return Refused(message)
        case _:
            return Unavailable(message, retry_after_s=retry_after_s)
