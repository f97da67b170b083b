"""The arguments of `seawall storage`; what they share with others is in `node_arguments`.

Nodes are named one by one: they do not know each other. Variables begin with SEAWALL_STORAGE:
SEAWALL_STORAGE_ADDRESSES, SEAWALL_STORAGE_CLUSTER, SEAWALL_STORAGE_TLS_CA_FILE, ... Where snapshots
are is said by `object_store` and `[store]`, as in the configuration of a node.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from fabric.ids import ClusterName, Role
from fabric.settings import load
from object_store.cloud import ObjectStoreOptions

from .node_arguments import (
    ADDRESS,
    BRANCH,
    CLUSTER,
    NODE,
    NodeAccess,
    UsageError,
    add_access,
    with_arguments,
)

PREFIX: Final = "SEAWALL_STORAGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageAccess(NodeAccess):
    """How to reach storage nodes, and their snapshots."""

    ROLE: ClassVar[Role] = Role.STORAGE
    QUESTION: ClassVar[str] = f"which storage nodes? Give ADDRESS, --config or {PREFIX}_ADDRESSES"

    object_store: str | None = None
    """file:///directory, s3://bucket/prefix, gs://, az://."""

    store: ObjectStoreOptions = field(default_factory=ObjectStoreOptions)
    """How to reach it, and with which credentials."""

    def snapshots(self) -> tuple[str, ClusterName]:
        """Return where the snapshots are, and of which cluster."""
        if self.object_store is None:
            raise UsageError(
                f"which object store? Give --object-store, --config or {PREFIX}_OBJECT_STORE"
            )
        if self.cluster is None:
            raise UsageError(f"which cluster? Give --cluster, --config or {PREFIX}_CLUSTER")
        return self.object_store, self.cluster


def add_storage_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `storage` to the commands of a parser."""
    storage = commands.add_parser(
        "storage", help="look at storage nodes, check what one has, rebuild one from snapshots"
    )
    kinds = storage.add_subparsers(required=True, metavar="COMMAND", dest="storage_command")
    status = add_access(kinds.add_parser("status", help="every branch of every node"))
    status.add_argument("addresses", type=ADDRESS, nargs="*", metavar="ADDRESS", help="host:port")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    cuts = add_access(kinds.add_parser("cuts", help="the cuts of a branch that one node keeps"))
    cuts.add_argument("address", type=ADDRESS, metavar="ADDRESS", help="host:port of a node")
    cuts.add_argument("branch", type=BRANCH, metavar="BRANCH")
    cuts.add_argument("--json", action="store_true", help="for programs")
    check = kinds.add_parser("verify", help="read every page of a node that is not running")
    check.add_argument("directory", type=Path, metavar="DATA_DIR", help="the node's data directory")
    check.add_argument("--branch", type=BRANCH, help="only this one")
    check.add_argument("--newest", action="store_true", help="only the newest cut of a branch")
    _add_restore(kinds.add_parser("restore", help="make a node's data directory of a snapshot"))


def storage_access(arguments: argparse.Namespace, environ: Mapping[str, str]) -> StorageAccess:
    """Return what the configuration says, but for what the arguments say."""
    found = load(StorageAccess, arguments.config, environ, prefix=PREFIX)
    if arguments.storage_command == "restore":
        return dataclasses.replace(
            found,
            cluster=arguments.cluster or found.cluster,
            object_store=arguments.object_store or found.object_store,
        )
    one = getattr(arguments, "address", None)
    return with_arguments(found, arguments, [one] if one is not None else arguments.addresses)


def _add_restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("branch", type=BRANCH, metavar="BRANCH")
    parser.add_argument(
        "directory", type=Path, nargs="?", metavar="DATA_DIR",
        help="the node's data directory: empty, or not there yet",
    )  # fmt: skip
    parser.add_argument("--object-store", metavar="URL", help="where the snapshots are")
    parser.add_argument("--cluster", type=CLUSTER, help="whose snapshots")
    parser.add_argument("--config", type=Path, help="TOML: object_store, [store], cluster")
    parser.add_argument("--manifest", type=int, metavar="N", help="this one; default: the newest")
    parser.add_argument("--node", type=NODE, help="only those that this node made")
    parser.add_argument("--list", action="store_true", help="say which there are, and end")
    parser.add_argument("--json", action="store_true", help="with --list: for programs")
