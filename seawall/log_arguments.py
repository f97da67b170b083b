"""The arguments of `seawall log`; what they share with others is in `node_arguments`.

Nodes are named with --node; one is enough, it knows the others. Variables begin with SEAWALL_LOG:
SEAWALL_LOG_ADDRESSES, SEAWALL_LOG_CLUSTER, SEAWALL_LOG_TLS_CA_FILE, ...
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from fabric.ids import BranchName, NodeName, Role
from fabric.settings import load
from log_service.client import NodeAddress

from .node_arguments import (
    ADDRESS,
    BRANCH,
    NODE,
    NodeAccess,
    add_access,
    address,
    parsed,
    with_arguments,
)

PREFIX: Final = "SEAWALL_LOG"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAccess(NodeAccess):
    """How to reach log nodes."""

    ROLE: ClassVar[Role] = Role.LOG
    QUESTION: ClassVar[str] = f"which log? Give --node ADDRESS, --config or {PREFIX}_ADDRESSES"


def add_log_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `log` to the commands of a parser."""
    log = commands.add_parser("log", help="look at the log, change its members, check a directory")
    kinds = log.add_subparsers(required=True, metavar="COMMAND", dest="log_command")
    status = _with_access(kinds.add_parser("status", help="every replica of every branch"))
    status.add_argument("--branch", type=BRANCH, help="only this one")
    status.add_argument("--json", action="store_true", help="for programs")
    _add_members(kinds.add_parser("members", help="who keeps a branch"))
    transfer = _with_access(kinds.add_parser("transfer", help="hand the lead of a branch over"))
    _add_branch(transfer)
    transfer.add_argument("--to", type=NODE, metavar="NODE", help="default: the most current")
    check = kinds.add_parser("verify", help="check the log in a directory that no node uses")
    check.add_argument("directory", type=Path, help="of a branch, or a node's data directory")


def log_access(arguments: argparse.Namespace, environ: Mapping[str, str]) -> LogAccess:
    """Return what the configuration says, but for what the arguments say."""
    found = load(LogAccess, arguments.config, environ, prefix=PREFIX)
    return with_arguments(found, arguments, arguments.node)


def _with_access(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--node", type=ADDRESS, action="append", metavar="ADDRESS",
        help="host:port of a log node; may be given several times",
    )  # fmt: skip
    return add_access(parser)


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
            kind.add_argument("old", type=NODE, metavar="NODE", help="name of a log node")
        if name in {"add", "replace"}:
            kind.add_argument(
                "new", type=parsed(_new_node), metavar="NODE=RPC[,PG]", help="and where it is"
            )


def _add_branch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--branch", type=BRANCH, default=BranchName("main"), help="default: main")


def _new_node(text: str) -> NodeAddress:
    name, is_given, addresses = text.partition("=")
    rpc, _, pg = addresses.partition(",")
    if not is_given:
        raise ValueError(f"{text!r} must look like log-4=host:7001,host:7101")
    return NodeAddress(NodeName(name), address(rpc), address(pg) if pg else "")
