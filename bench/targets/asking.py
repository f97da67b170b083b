"""Questions to the HTTP interfaces of Patroni and of etcd, on loopback and bounded in time."""

import http.client
import json
from typing import Any, Final

from .even import HOST

TIMEOUT_SECONDS: Final = 1.0
ANSWER_BYTES_MAX: Final = 1 << 20


def status_of(port: int, path: str, *, seconds: float = TIMEOUT_SECONDS) -> int | None:
    """Return the status of the answer to a GET; None: nobody answers in time."""
    found = _request(port, "GET", path, None, seconds)
    return None if found is None else found[0]


def answer_of(
    port: int, path: str, body: object = None, *, seconds: float = TIMEOUT_SECONDS
) -> dict[str, Any] | None:
    """Return the object that is answered to a GET, or to a POST of a body; None: there is none."""
    content = None if body is None else json.dumps(body).encode()
    found = _request(port, "GET" if body is None else "POST", path, content, seconds)
    if found is None:
        return None
    try:
        value = json.loads(found[1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _request(
    port: int, method: str, path: str, body: bytes | None, seconds: float
) -> tuple[int, bytes] | None:
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
