"""`cluster.json`: what a local cluster is, and what its owner wants of it.

The one thing that commands and the supervisor share: a command writes what is wanted and signals
the supervisor, which reads the file again. It is replaced as a whole, so nobody ever sees half of
it, and nothing has to be undone when either dies in between.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from fabric.codec import decode_hook, encode_hook
from fabric.ids import BranchName, ClusterName

from .layout import CLUSTER_FILE, Layout

FORMAT: Final = 1
COMPUTES_MAX: Final = 8
GATEWAYS_MAX: Final = 1
FILE_BYTES_MAX: Final = 1024 * 1024

_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Computes = Annotated[int, msgspec.Meta(ge=1, le=COMPUTES_MAX)]
_Gateways = Annotated[int, msgspec.Meta(ge=0, le=GATEWAYS_MAX)]


class ClusterError(Exception):
    """The cluster is not as a command needs it: the sentence says what to do."""


class LogPorts(msgspec.Struct, frozen=True):
    """Where a log node listens: for calls, and for standbys."""

    rpc: _Port
    pg: _Port


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """All that has to be remembered of a cluster."""

    format: int = FORMAT
    cluster: ClusterName
    branch: BranchName = BranchName("main")
    pg_bin: str
    pg_major: int
    log: dict[str, LogPorts]
    storage: dict[str, _Port]
    computes: dict[str, _Port]
    """Every compute that there ever was, so that a port stays with its name."""
    computes_wanted: _Computes
    gateways: dict[str, _Port] = {}
    """Every gateway that there ever was; none in what an older version has written."""
    gateways_wanted: _Gateways = 0
    run_root: str | None = None
    """Where run directories are, if not with the nodes."""
    is_founded: bool = False
    """Whether the database exists: log and storage know the branch, the password is set."""

    def compute_names(self) -> tuple[str, ...]:
        """Return the computes that are wanted, the first ones of all."""
        return tuple(self.computes)[: self.computes_wanted]

    def gateway_names(self) -> tuple[str, ...]:
        """Return the gateways that are wanted, the first ones of all."""
        return tuple(self.gateways)[: self.gateways_wanted]


def require_owner(layout: Layout) -> None:
    """Refuse a directory that belongs to somebody else."""
    try:
        owner = layout.top.stat().st_uid
    except FileNotFoundError:
        return
    except PermissionError:
        raise ClusterError(
            f"{layout.top} may not be entered by you: run the command as its owner"
        ) from None
    if owner != os.geteuid():
        raise ClusterError(
            f"{layout.top} belongs to user {owner}, and you are {os.geteuid()}: run the command as "
            "its owner, or name another directory with --dir"
        )


def load(layout: Layout) -> ClusterFile:
    """Read the file; ClusterError if the directory is none of a cluster, or of a newer version."""
    path = layout.cluster_file
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        raise ClusterError(
            f"{layout.top} has no cluster: make one with `seawall up`, or name another with --dir"
        ) from None
    except PermissionError:
        raise ClusterError(
            f"{path} may not be read by you: run the command as the owner of {layout.top}"
        ) from None
    return decode(content, path)


def decode(content: bytes, path: Path) -> ClusterFile:
    """Return what the content of the file says."""
    try:
        version = msgspec.json.decode(content, type=_Version).format
        if version > FORMAT:
            raise ClusterError(
                f"{path} has format {version} and this Seawall knows {FORMAT}: use the newer "
                "Seawall that has written it"
            )
        return msgspec.json.decode(content, type=ClusterFile, dec_hook=decode_hook)
    except msgspec.DecodeError as error:
        raise ClusterError(f"{path} is damaged: {error}") from error


class _Version(msgspec.Struct):
    format: int


def encode(cluster: ClusterFile) -> bytes:
    """Return the content of the file, for people's eyes, too."""
    return msgspec.json.format(msgspec.json.encode(cluster, enc_hook=encode_hook), indent=2) + b"\n"


def save(layout: Layout, cluster: ClusterFile) -> None:
    """Replace the file; it is on the disk when this returns."""
    replace_file(layout.cluster_file, encode(cluster), mode=0o600)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file aside, sync it, and give it its name."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_cluster(top: Path) -> bool:
    """Whether a directory is that of a cluster."""
    return os.path.isfile(top / CLUSTER_FILE)


def cluster_name_of(top: Path) -> ClusterName:
    """Return a name for the cluster in a directory: the directory's, as far as it makes one."""
    words = re.sub(r"[^a-z0-9]+", "-", top.name.lower())[:40].strip("-")
    return ClusterName(words or "local")
