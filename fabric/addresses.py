"""Where a peer is: `tcp://host:port`, `tcp://[::1]:port` or `unix:///path/to/socket`.

Plain TCP is allowed on loopback only. That is decided here, twice: by the host in the address,
before anything is opened, and by the addresses of the socket afterwards, because a name may resolve
to anything.
"""

import ipaddress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

PORT_MAX: Final = 65535
UNIX_PATH_BYTES_MAX: Final = 107  # sun_path of Linux, less the terminating zero
HOST_CHARACTERS_MAX: Final = 253  # a full domain name


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, by name or number, and a port; port 0 lets a server choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The absolute path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read an address as settings and command lines give it."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"address {text!r} is wrong: {error}") from error
    if parts.scheme == "unix" and not parts.netloc:
        return _unix_address(text, parts.path)
    if parts.scheme == "tcp" and host and port is not None and parts.path in {"", "/"}:
        return _tcp_address(text, host, port)
    raise ValueError(f"address {text!r} must look like tcp://host:port or unix:///path")


def host_is_loopback(host: str) -> bool:
    """Whether a host, given by number or as `localhost`, is this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def socket_is_loopback(name: Any) -> bool:
    """Whether `getsockname` or `getpeername` returned a loopback address."""
    return isinstance(name, tuple) and bool(name) and host_is_loopback(str(name[0]))


def _unix_address(text: str, path: str) -> UnixAddress:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"address {text!r} must name an absolute path: unix:///path")
    if len(path.encode()) > UNIX_PATH_BYTES_MAX:
        raise ValueError(
            f"the path of {text!r} exceeds {UNIX_PATH_BYTES_MAX} bytes: choose a shorter directory"
        )
    return UnixAddress(path)


def _tcp_address(text: str, host: str, port: int) -> TcpAddress:
    if len(host) > HOST_CHARACTERS_MAX:
        raise ValueError(f"the host of {text[:80]!r} exceeds {HOST_CHARACTERS_MAX} characters")
    assert 0 <= port <= PORT_MAX
    return TcpAddress(host, port)
