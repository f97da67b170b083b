"""The arguments that commands about nodes share, and how to reach the nodes that they mean.

Where nodes are, whom they are for, and the files of TLS: in the arguments, in the configuration of
--config (`addresses`, `cluster`, `[tls]`), or in variables named after those with the prefix of the
command. Without TLS only nodes on loopback are asked. Secrets are in files, never in arguments.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from fabric.addresses import parse_address
from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.tls import ClientTls, TlsFiles, client_context

T = TypeVar("T")
A = TypeVar("A", bound="NodeAccess")


class UsageError(Exception):
    """The call is wrong: the sentence says what to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAccess:
    """How to reach nodes of one kind, as the configuration and the environment give it."""

    ROLE: ClassVar[Role]
    QUESTION: ClassVar[str]
    """What to say when no address is given."""

    addresses: str = ""
    """tcp://host:port, several separated by commas."""

    cluster: ClusterName | None = None
    """Whose nodes must answer; with TLS only."""

    tls: TlsFiles | None = None

    def address_list(self) -> list[str]:
        """Return the addresses, at least one."""
        found = [address(text) for text in self.addresses.split(",") if text.strip()]
        if not found:
            raise UsageError(self.QUESTION)
        return found

    def client_tls(self) -> ClientTls | None:
        """Return what a connection needs; None: loopback only."""
        if self.tls is None:
            return None
        if self.cluster is None:
            raise UsageError("with TLS give --cluster, too: nodes of others are not talked to")
        return ClientTls(client_context(self.tls), self.cluster, self.ROLE)


def add_access(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what tells how to reach nodes, but for their addresses."""
    parser.add_argument("--config", type=Path, help="TOML: addresses, cluster, [tls]")
    parser.add_argument("--cluster", type=CLUSTER, help="whose nodes must answer; with TLS only")
    parser.add_argument("--tls-ca", metavar="FILE", help="certificate of the authority")
    parser.add_argument("--tls-certificate", metavar="FILE", help="ours")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    return parser


def with_arguments(found: A, arguments: argparse.Namespace, addresses: Sequence[str] | None) -> A:
    """Return what the configuration says, but for what the arguments of `add_access` say."""
    files = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    if any(files) and not all(files):
        raise UsageError("--tls-ca, --tls-certificate and --tls-key go together: give all three")
    tls = found.tls
    if all(files):
        tls = TlsFiles(ca_file=files[0], certificate_file=files[1], key_file=files[2])
    return dataclasses.replace(
        found,
        addresses=",".join(addresses or [found.addresses]),
        cluster=arguments.cluster or found.cluster,
        tls=tls,
    )


def address(text: str) -> str:
    """Return an address that may have been given without its scheme."""
    text = text.strip()
    return str(parse_address(text if "://" in text else f"tcp://{text}"))


def parsed(make: Callable[[str], T]) -> Callable[[str], T]:
    """Return `make` such that argparse shows its own sentence when a value is wrong."""

    def parse(text: str) -> T:
        try:
            return make(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


ADDRESS: Final = parsed(address)
BRANCH: Final = parsed(BranchName)
CLUSTER: Final = parsed(ClusterName)
NODE: Final = parsed(NodeName)
