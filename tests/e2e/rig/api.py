"""The little of Kubernetes' API that the rig itself speaks: JSON over HTTPS, as a given user.

The rig starts before there is a kubectl to lean on, and the provisioner is a program that must
run on the standard library alone, in whatever Python started the rig.
"""

import base64
import http.client
import json
import os
import ssl
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]  # what Kubernetes sends: its own schema says what is in it
TIMEOUT_S = 10.0
NOT_FOUND = 404
CONFLICT = 409
REFUSED = 400  # and everything above it


class ApiError(Exception):
    """The API server answered that it will not; `status` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """A client by the kubeconfig that the rig wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        content = json.loads(kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        address = urllib.parse.urlsplit(cluster["server"])
        assert address.hostname is not None  # the rig's own file
        self._host, self._port = address.hostname, address.port
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._context = ssl.create_default_context(cadata=authority)
        identity = [user[f"client-{part}-data"] for part in ("certificate", "key")]
        with tempfile.TemporaryDirectory() as folder:  # load_cert_chain takes nothing but files
            file = Path(folder, "identity")
            file.touch(mode=0o600)
            file.write_bytes(b"\n".join(base64.b64decode(part) for part in identity))
            self._context.load_cert_chain(file)

    def request(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        content_type: str = "application/json",
    ) -> JsonObject:
        """One request and its answer; ApiError if it was refused, OSError if nobody answered."""
        connection = self._connection(TIMEOUT_S)
        try:
            response = _send(connection, method, path, body, content_type)
            content = response.read()
        finally:
            connection.close()
        return json.loads(content) if content.startswith(b"{") else {"text": content.decode()}

    def watch(self, path: str, *, idle_timeout_s: float) -> Iterator[JsonObject]:
        """What happens to a list of objects, until the server ends it or nothing happens long."""
        connection = self._connection(idle_timeout_s)
        try:
            response = _send(connection, "GET", path, None, "application/json")
            for line in response:
                yield json.loads(line)
        except TimeoutError:
            return
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether the API server says that it can serve."""
        try:
            self.request("GET", "/readyz")
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    def _connection(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout_s, context=self._context
        )


def _send(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    body: JsonObject | None,
    content_type: str,
) -> http.client.HTTPResponse:
    content = None if body is None else json.dumps(body)
    headers = {"Accept": "application/json", "User-Agent": f"seawall-e2e/{os.getpid()}"}
    if content is not None:
        headers["Content-Type"] = content_type
    connection.request(method, path, content, headers)
    response = connection.getresponse()
    if response.status >= REFUSED:
        raise ApiError(response.status, response.read().decode(errors="replace"))
    return response
