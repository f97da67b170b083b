"""Open the object store that a URL names.

    file:///absolute/directory     durable files of one machine, or of one mounted file system
    memory:                        this process alone
    s3://bucket/prefix             S3 and what imitates it; AWS_* variables
    gs://bucket/prefix             Google Cloud Storage; GOOGLE_* variables
    az://container/prefix          Azure; AZURE_* variables, with AZURE_STORAGE_ACCOUNT_NAME

Credentials come from the environment, as each cloud's own tools read it, or from a file; never from
the URL, which ends up in logs and process lists. A cloud is asked at once whether it really creates
without overwriting, so opening one waits for the network and fails as any call does.
"""

import asyncio
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import structlog

from .cloud import Cloud, ObjectStoreOptions, open_cloud
from .directory import DirectoryStore
from .interface import ObjectStore, StoreBusyError, StoreError, checked_name
from .memory import MemoryStore
from .remote import probe_create_only

log = structlog.get_logger()

RETRY_S: Final = 2.0

_CLOUDS: Final = {cloud.value: cloud for cloud in Cloud}
_DEFAULTS: Final = ObjectStoreOptions()


def open_object_store(url: str, *, options: ObjectStoreOptions = _DEFAULTS) -> ObjectStore:
    """Return the store, ready for use. StoreError says what is wrong with the URL or the store.

    StoreBusyError: a cloud, or its network, does not answer; open it again later.
    """
    # No message quotes the URL: people put passwords into URLs.
    parts = _split(url)
    match parts.scheme:
        case "memory":
            return MemoryStore()
        case "file":
            return DirectoryStore(_directory(parts))
        case scheme if scheme in _CLOUDS:
            store = open_cloud(_CLOUDS[scheme], _bucket(parts), _prefix(parts), options)
            probe_create_only(store)
            return store
        case _:
            raise StoreError("the URL of an object store begins with file, memory, s3, gs or az")


async def open_when_it_answers(
    url: str | None, *, options: ObjectStoreOptions = _DEFAULTS, retry_s: float = RETRY_S
) -> ObjectStore | None:
    """Open the store of a node that starts, however long it does not answer; None: it has none."""
    while url is not None:
        try:
            return await asyncio.to_thread(open_object_store, url, options=options)
        except StoreBusyError as error:
            log.warning("object store does not answer", reason=str(error))
            await asyncio.sleep(retry_s)
    return None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreError("the URL of an object store is malformed") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise StoreError(
            "the URL of an object store holds no credentials and no options: "
            "put them into the environment or the settings"
        )
    return parts


def _directory(parts: SplitResult) -> Path:
    if parts.netloc or not parts.path.startswith("/") or "\0" in unquote(parts.path):
        raise StoreError("a directory of objects is given as file:///absolute/path")
    return Path(unquote(parts.path))


def _bucket(parts: SplitResult) -> str:
    try:
        return checked_name(parts.netloc)
    except ValueError:
        raise StoreError(f"name a bucket: {parts.scheme}://bucket/prefix") from None


def _prefix(parts: SplitResult) -> str | None:
    prefix = parts.path.strip("/")
    try:
        return checked_name(prefix) if prefix else None
    except ValueError:
        raise StoreError(
            "the prefix in the URL of an object store is like the name of an object: letters, "
            "digits, '.', '_', '-' and slashes between"
        ) from None
