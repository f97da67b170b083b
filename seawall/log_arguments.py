"""The arguments of `seawall log`, and how to reach the log that they mean.

Where nodes are: --node, the configuration of --config (`addresses`, `cluster`, `[tls]`), or the
variables SEAWALL_LOG_ADDRESSES, SEAWALL_LOG_CLUSTER, SEAWALL_LOG_TLS_CA_FILE, ... Without TLS only
nodes on loopback are asked. Secrets are in files, never in arguments.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fabric.addresses import parse_address
from fabric.ids import BranchName, ClusterName, NodeName, Role
from fabric.settings import load
from fabric.tls import ClientTls, TlsFiles, client_context
from log_service.client import NodeAddress

PREFIX: Final = "SEAWALL_LOG"

T = TypeVar("T")


class LogUsageError(Exception):
    """The call is wrong: the sentence says what to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAccess:
    """How to reach log nodes, as the configuration and the environment give it."""

    addresses: str = ""
    """tcp://host:port, several separated by commas."""

    cluster: ClusterName | None = None
    """Whose nodes must answer; with TLS only."""

    tls: TlsFiles | None = None

    def address_list(self) -> list[str]:
        """Return the addresses, at least one."""
        found = [_address(text) for text in self.addresses.split(",") if text.strip()]
        if not found:
            raise LogUsageError(f"which log? Give --node ADDRESS, --config or {PREFIX}_ADDRESSES")
        return found

    def client_tls(self) -> ClientTls | None:
        """Return what a connection needs; None: loopback only."""
        if self.tls is None:
            return None
        if self.cluster is None:
            raise LogUsageError("with TLS give --cluster, too: nodes of others are not talked to")
        return ClientTls(client_context(self.tls), self.cluster, Role.LOG)


def add_log_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `log` to the commands of a parser."""
    log = commands.add_parser("log", help="look at the log, change its members, check a directory")
    kinds = log.add_subparsers(required=True, metavar="COMMAND", dest="log_command")
    status = _with_access(kinds.add_parser("status", help="every replica of every branch"))
    status.add_argument("--branch", type=_BRANCH, help="only this one")
    status.add_argument("--json", action="store_true", help="for programs")
    _add_members(kinds.add_parser("members", help="who keeps a branch"))
    transfer = _with_access(kinds.add_parser("transfer", help="hand the lead of a branch over"))
    _add_branch(transfer)
    transfer.add_argument("--to", type=_NODE, metavar="NODE", help="default: the most current")
    check = kinds.add_parser("verify", help="check the log in a directory that no node uses")
    check.add_argument("directory", type=Path, help="of a branch, or a node's data directory")


def log_access(arguments: argparse.Namespace, environ: Mapping[str, str]) -> LogAccess:
    """Return what the configuration says, but for what the arguments say."""
    found = load(LogAccess, arguments.config, environ, prefix=PREFIX)
    files = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    if any(files) and not all(files):
        raise LogUsageError("--tls-ca, --tls-certificate and --tls-key go together: give all three")
    tls = found.tls
    if all(files):
        tls = TlsFiles(ca_file=files[0], certificate_file=files[1], key_file=files[2])
    return LogAccess(
        addresses=",".join(arguments.node or [found.addresses]),
        cluster=arguments.cluster or found.cluster,
        tls=tls,
    )


def _with_access(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--node", type=_parsed(_address), action="append", metavar="ADDRESS",
        help="host:port of a log node; may be given several times",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="TOML: addresses, cluster, [tls]")
    parser.add_argument(
        "--cluster", type=_parsed(ClusterName), help="whose nodes must answer; with TLS only"
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="certificate of the authority")
    parser.add_argument("--tls-certificate", metavar="FILE", help="ours")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    return parser


def _add_members(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="COMMAND", dest="members_command")
    helps = {
        "list": "who they are, and how far behind",
        "add": "give a branch one more replica",
        "remove": "take a replica away",
        "replace": "put a new replica in the place of an old one",
    }
    for name, text in helps.items():
        kind = _with_access(kinds.add_parser(name, help=text))
        _add_branch(kind)
        if name in {"remove", "replace"}:
            kind.add_argument("old", type=_NODE, metavar="NODE", help="name of a log node")
        if name in {"add", "replace"}:
            kind.add_argument(
                "new", type=_parsed(_new_node), metavar="NODE=RPC[,PG]", help="and where it is"
            )


def _add_branch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--branch", type=_BRANCH, default=BranchName("main"), help="default: main")


def _address(text: str) -> str:
    """Return an address that may have been given without its scheme."""
    text = text.strip()
    return str(parse_address(text if "://" in text else f"tcp://{text}"))


def _new_node(text: str) -> NodeAddress:
    name, is_given, addresses = text.partition("=")
    rpc, _, pg = addresses.partition(",")
    if not is_given:
        raise ValueError(f"{text!r} must look like log-4=host:7001,host:7101")
    return NodeAddress(NodeName(name), _address(rpc), _address(pg) if pg else "")


def _parsed(make: Callable[[str], T]) -> Callable[[str], T]:
    """Return `make` such that argparse shows its own sentence when a value is wrong."""

    def parse(text: str) -> T:
        try:
            return make(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


_BRANCH: Final = _parsed(BranchName)
_NODE: Final = _parsed(NodeName)
