"""Clients of the clouds: addresses, limits in time, and where credentials come from.

Each cloud's client reads the environment as that cloud's own tools do. A credentials file serves
where secrets are mounted as files: for S3 it is read again every few minutes, so that it can be
rotated; for Google it is the account's JSON key. For Azure there is the environment alone.
"""

import configparser
import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from fabric.addresses import host_is_loopback

from .interface import StoreError
from .remote import Client, RemoteStore

if TYPE_CHECKING:
    from collections.abc import Callable

    # Not importable at run time.
    from obstore.store import (
        AzureConfig,
        ClientConfig,
        GCSConfig,
        RetryConfig,
        S3Config,
        S3Credential,
    )

FILE_BYTES_MAX: Final = 1024 * 1024  # of credentials and certificates; a whole bundle is 250 kB
CREDENTIALS_FRESH_FOR: Final = timedelta(minutes=5)

_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_REQUEST_TIMEOUT: Final = timedelta(seconds=60)  # a segment of 16 MiB at 280 kB/s
_IDLE_TIMEOUT: Final = timedelta(seconds=15)  # below what servers and balancers grant
_RETRIES_MAX: Final = 4  # pauses of 0.1, 0.2, 0.4, 0.8 s; callers go on at their own pace
_RETRY_TIMEOUT: Final = timedelta(seconds=90)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreOptions:
    """What a user may tune; nothing of it is secret."""

    endpoint: str | None = None
    """Where the store is, for what is not the cloud itself, for instance `https://minio:9000`."""

    region: str | None = None
    """The region of an S3 bucket; AWS_REGION if not given."""

    credentials_file: Path | None = None
    """S3: a file like ~/.aws/credentials, its section [default]. Google: a JSON key."""

    root_certificate_file: Path | None = None
    """PEM certificates to trust besides the system's, of a store with an authority of its own."""

    is_plain_http_allowed: bool = False
    """Whether an endpoint beyond loopback may be http://; objects then travel unprotected."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            _check_endpoint(self.endpoint, is_plain_http_allowed=self.is_plain_http_allowed)


class Cloud(enum.Enum):
    """Whose protocol a store speaks; the value is the scheme of its URLs."""

    S3 = "s3"
    GOOGLE = "gs"
    AZURE = "az"


def open_cloud(
    cloud: Cloud, bucket: str, prefix: str | None, options: ObjectStoreOptions
) -> RemoteStore:
    """Make the clients of a bucket; nothing is sent yet."""
    retried: RetryConfig = {"max_retries": _RETRIES_MAX, "retry_timeout": _RETRY_TIMEOUT}
    try:
        return RemoteStore(
            reader=_client(cloud, bucket, prefix, options, retried),
            writer=_client(cloud, bucket, prefix, options, {"max_retries": 0}),
        )
    except (BaseError, ValueError) as error:
        # Not the library's text: it may quote a setting that is a secret.
        raise StoreError(
            f"the options or the environment variables of {cloud.value}://{bucket} are wrong "
            f"({type(error).__name__})"
        ) from None


def read_s3_credentials(path: Path) -> "S3Credential":
    """Read the section [default] of a file like ~/.aws/credentials."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(_read_text(path))
        section = parser["default"]
        return {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
            "token": section.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + CREDENTIALS_FRESH_FOR,
        }
    except (configparser.Error, KeyError):
        # Not the parser's text: it quotes the line.
        raise StoreError(
            f"{path} must have a section [default] with aws_access_key_id and aws_secret_access_key"
        ) from None


def _client(
    cloud: Cloud,
    bucket: str,
    prefix: str | None,
    options: ObjectStoreOptions,
    retry: "RetryConfig",
) -> Client:
    client_options = _client_options(options)
    match cloud:
        case Cloud.S3:
            return S3Store(
                bucket,
                prefix=prefix,
                config=_s3_config(options),
                client_options=client_options,
                retry_config=retry,
                credential_provider=_s3_credential_provider(options.credentials_file),
            )
        case Cloud.GOOGLE:
            return GCSStore(
                bucket,
                prefix=prefix,
                config=_google_config(options),
                client_options=client_options,
                retry_config=retry,
            )
        case Cloud.AZURE:
            return AzureStore(
                bucket,
                prefix=prefix,
                config=_azure_config(options),
                client_options=client_options,
                retry_config=retry,
            )
        case _:
            assert_never(cloud)


def _client_options(options: ObjectStoreOptions) -> "ClientConfig":
    client_options: ClientConfig = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": _REQUEST_TIMEOUT,
        "pool_idle_timeout": _IDLE_TIMEOUT,
        # Beyond loopback the options have been asked.
        "allow_http": urlsplit(options.endpoint or "").scheme == "http",
    }
    if options.root_certificate_file is not None:
        client_options["root_certificate"] = _read_text(options.root_certificate_file)
    return client_options


def _s3_config(options: ObjectStoreOptions) -> "S3Config":
    # Imitations of S3 do not all offer the deletion of many objects at once.
    config: S3Config = {"disable_bulk_delete": True}
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    if options.region is not None:
        config["region"] = options.region
    return config


def _s3_credential_provider(path: Path | None) -> "Callable[[], S3Credential] | None":
    if path is None:
        return None
    read_s3_credentials(path)  # what is wrong with it is said now, not at the first request
    return partial(read_s3_credentials, path)


def _google_config(options: ObjectStoreOptions) -> "GCSConfig":
    config: GCSConfig = {}
    if options.endpoint is not None:
        config["base_url"] = options.endpoint
    if options.credentials_file is not None:
        config["application_credentials"] = str(options.credentials_file)
    return config


def _azure_config(options: ObjectStoreOptions) -> "AzureConfig":
    if options.credentials_file is not None:
        raise StoreError("Azure takes its credentials from the AZURE_* variables, not from a file")
    return {} if options.endpoint is None else {"endpoint": options.endpoint}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise StoreError(f"{path} exceeds {FILE_BYTES_MAX} bytes")
        return content.decode()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise StoreError(f"{path} is not text") from None


def _check_endpoint(endpoint: str, *, is_plain_http_allowed: bool) -> None:
    # Never quoted: people put passwords into addresses.
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError("the endpoint of an object store looks like https://host:port")
    is_protected = parts.scheme == "https" or host_is_loopback(parts.hostname)
    if not (is_protected or is_plain_http_allowed):
        raise ValueError(
            f"the object store at {parts.hostname} would be reached without TLS: "
            "use https, or set is_plain_http_allowed"
        )
