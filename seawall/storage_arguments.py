"""The arguments of `seawall storage`, and how to reach the nodes that they mean.

Nodes are named one by one: they do not know each other. Who they are for, and the files of TLS, are
in the configuration of --config (`addresses`, `cluster`, `[tls]`) or in SEAWALL_STORAGE_ADDRESSES,
SEAWALL_STORAGE_CLUSTER, SEAWALL_STORAGE_TLS_CA_FILE, ... Without TLS only nodes on loopback are
asked. Secrets are in files, never in arguments.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fabric.addresses import parse_address
from fabric.ids import BranchName, ClusterName, Role
from fabric.settings import load
from fabric.tls import ClientTls, TlsFiles, client_context

PREFIX: Final = "SEAWALL_STORAGE"

T = TypeVar("T")


class StorageUsageError(Exception):
    """The call is wrong: the sentence says what to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageAccess:
    """How to reach storage nodes, as the configuration and the environment give it."""

    addresses: str = ""
    """tcp://host:port, several separated by commas."""

    cluster: ClusterName | None = None
    """Whose nodes must answer; with TLS only."""

    tls: TlsFiles | None = None

    def address_list(self) -> list[str]:
        """Return the addresses, at least one."""
        found = [_address(text) for text in self.addresses.split(",") if text.strip()]
        if not found:
            raise StorageUsageError(
                f"which storage nodes? Give ADDRESS, --config or {PREFIX}_ADDRESSES"
            )
        return found

    def client_tls(self) -> ClientTls | None:
        """Return what a connection needs; None: loopback only."""
        if self.tls is None:
            return None
        if self.cluster is None:
            raise StorageUsageError(
                "with TLS give --cluster, too: nodes of others are not talked to"
            )
        return ClientTls(client_context(self.tls), self.cluster, Role.STORAGE)


def add_storage_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `storage` to the commands of a parser."""
    storage = commands.add_parser("storage", help="look at storage nodes, check what one has")
    kinds = storage.add_subparsers(required=True, metavar="COMMAND", dest="storage_command")
    status = _with_access(kinds.add_parser("status", help="every branch of every node"))
    status.add_argument("addresses", type=_ADDRESS, nargs="*", metavar="ADDRESS", help="host:port")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--watch", action="store_true", help="again and again, until interrupted")
    cuts = _with_access(kinds.add_parser("cuts", help="the cuts of a branch that one node keeps"))
    cuts.add_argument("address", type=_ADDRESS, metavar="ADDRESS", help="host:port of a node")
    cuts.add_argument("branch", type=_BRANCH, metavar="BRANCH")
    cuts.add_argument("--json", action="store_true", help="for programs")
    check = kinds.add_parser("verify", help="read every page of a node that is not running")
    check.add_argument("directory", type=Path, metavar="DATA_DIR", help="the node's data directory")
    check.add_argument("--branch", type=_BRANCH, help="only this one")
    check.add_argument("--newest", action="store_true", help="only the newest cut of a branch")


def storage_access(arguments: argparse.Namespace, environ: Mapping[str, str]) -> StorageAccess:
    """Return what the configuration says, but for what the arguments say."""
    found = load(StorageAccess, arguments.config, environ, prefix=PREFIX)
    files = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    if any(files) and not all(files):
        raise StorageUsageError(
            "--tls-ca, --tls-certificate and --tls-key go together: give all three"
        )
    tls = found.tls
    if all(files):
        tls = TlsFiles(ca_file=files[0], certificate_file=files[1], key_file=files[2])
    one = getattr(arguments, "address", None)
    addresses = [one] if one is not None else arguments.addresses
    return StorageAccess(
        addresses=",".join(addresses or [found.addresses]),
        cluster=arguments.cluster or found.cluster,
        tls=tls,
    )


def _with_access(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--config", type=Path, help="TOML: addresses, cluster, [tls]")
    parser.add_argument(
        "--cluster", type=_parsed(ClusterName), help="whose nodes must answer; with TLS only"
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="certificate of the authority")
    parser.add_argument("--tls-certificate", metavar="FILE", help="ours")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    return parser


def _address(text: str) -> str:
    """Return an address that may have been given without its scheme."""
    text = text.strip()
    return str(parse_address(text if "://" in text else f"tcp://{text}"))


def _parsed(make: Callable[[str], T]) -> Callable[[str], T]:
    """Return `make` such that argparse shows its own sentence when a value is wrong."""

    def parse(text: str) -> T:
        try:
            return make(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


_ADDRESS: Final = _parsed(_address)
_BRANCH: Final = _parsed(BranchName)
