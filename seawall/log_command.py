"""`seawall log`: look at log nodes, change who keeps a branch, and check a log at rest.

    status    every replica of every branch          members   list, add, remove, replace
    transfer  hand the lead over                     verify    a directory, without any node

One node is enough to be told of, it knows the others. What goes wrong is one sentence on standard
error, of the log (exit status 1) or of the call (2); a branch that nobody leads is such, too.
"""

import argparse
import asyncio
import random
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fabric.ids import BranchName, NodeName
from fabric.logs import LogSettings, configure
from fabric.rpc_errors import RpcError
from fabric.settings import SettingsError
from fabric.tls import IdentityError
from log_service.client import LogClient, NodeAddress
from log_service.methods import GroupStatus, NodeStatus
from log_service.record_bodies import MemberInfo
from log_service.verify import VerifyReport, verify

from .log_arguments import log_access
from .log_report import json_text, leaderless, rows_of, status_table, table
from .node_arguments import UsageError

STATUS_TIMEOUT_MS: Final = 2_000  # takes a millisecond; a node that hangs must not hide the others
NODES_MAX: Final = 256  # asked for their status, whatever they say about further ones
GROUPS_DIRECTORY: Final = "groups"  # in the data directory of a node


class LogCommandError(Exception):
    """The log is not as the command needs it: the sentence says why."""


def run_log(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Do what the arguments ask for; the exit status."""
    # What goes wrong is said once, in a sentence, not by the layers below as well.
    configure(LogSettings(level="error"), component="seawall", stream=sys.stderr)
    try:
        if arguments.log_command == "verify":
            return _verify(arguments.directory)
        return asyncio.run(_ask(arguments, environ))
    except (LogCommandError, RpcError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 1
    except (UsageError, SettingsError, IdentityError, ValueError) as error:
        print(f"seawall: {error}", file=sys.stderr)
        return 2


async def _ask(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    access = log_access(arguments, environ)
    addresses = access.address_list()
    rng = random.Random(secrets.randbits(64))  # noqa: S311  # spreads reconnections, no secret
    async with LogClient(addresses, rng=rng, tls=access.client_tls()) as client:
        match arguments.log_command:
            case "status":
                return await _status(client, addresses, arguments)
            case "transfer":
                return await _transfer(client, arguments)
            case _:
                return await _members(client, arguments)


async def _status(
    client: LogClient, addresses: Sequence[str], arguments: argparse.Namespace
) -> int:
    survey = await _survey(client, addresses)
    rows = rows_of(survey, arguments.branch)
    print(json_text(rows) if arguments.json else status_table(rows))
    if all(isinstance(said, str) for said in survey.values()):
        raise LogCommandError("no log node answers")
    if arguments.branch is not None and arguments.branch not in {row.branch for row in rows}:
        raise LogCommandError(f"no node that answers has branch {arguments.branch}")
    if without := leaderless(rows):
        raise LogCommandError(f"nobody leads {', '.join(without)}")
    return 0


async def _survey(client: LogClient, addresses: Sequence[str]) -> dict[str, NodeStatus | str]:
    """Ask these nodes, those that they know, and so on."""
    survey: dict[str, NodeStatus | str] = {}
    wanted = list(dict.fromkeys(addresses))
    while wanted:
        said = await asyncio.gather(*(_node_status(client, address) for address in wanted))
        survey.update(zip(wanted, said, strict=True))
        groups = [group for node in said if isinstance(node, NodeStatus) for group in node.groups]
        known = {member.info.rpc for group in groups for member in group.members}
        wanted = sorted(known - survey.keys())[: NODES_MAX - len(survey)]
    return survey


async def _node_status(client: LogClient, address: str) -> NodeStatus | str:
    try:
        return await client.node_status(address, timeout_ms=STATUS_TIMEOUT_MS)
    except (RpcError, ValueError) as error:  # ValueError: an address that a node gave out
        return str(error)


async def _transfer(client: LogClient, arguments: argparse.Namespace) -> int:
    await client.transfer(arguments.branch, arguments.to)
    leader = (await client.topology(arguments.branch)).leader
    print(f"{leader.node if leader else 'nobody'} leads {arguments.branch}")
    return 0


async def _members(client: LogClient, arguments: argparse.Namespace) -> int:
    branch: BranchName = arguments.branch
    match arguments.members_command:
        case "list":
            await _list_members(client, branch)
        case "add":
            await _add(client, branch, arguments.new)
        case "remove":
            await _remove(client, branch, await _member(client, branch, arguments.old))
        case _:
            old = await _member(client, branch, arguments.old)
            if old.node == arguments.new.node:  # its disk was lost: nothing is left to copy to
                await _remove(client, branch, old)
                await _add(client, branch, arguments.new)
            else:
                await _add(client, branch, arguments.new)
                await _remove(client, branch, old)
    return 0


async def _list_members(client: LogClient, branch: BranchName) -> None:
    topology = await client.topology(branch)
    assert topology.leader is not None, "who leads knows it"
    status = await client.node_status(topology.leader.rpc)
    group = next((group for group in status.groups if group.branch == branch), None)
    if group is None:
        raise LogCommandError(f"{topology.leader.rpc} has no replica of {branch}")
    headings = ("NODE", "ROLE", "ACTIVE", "BEHIND", "MEMBER", "RPC", "PG")
    print(table(headings, _member_lines(group)))


def _member_lines(group: GroupStatus) -> list[list[object]]:
    lines: list[list[object]] = []
    for status in sorted(group.members, key=lambda status: status.info.node):
        info, match = status.info, status.match_index
        role = "voter" if info.is_voter else "learner"
        role = "leader" if info.member == group.member else role
        active = {True: "yes", False: "no", None: None}[status.is_active]
        behind = None if match is None else group.last_index - match
        lines.append([info.node, role, active, behind, info.member, info.rpc, info.pg])
    return lines


async def _add(client: LogClient, branch: BranchName, node: NodeAddress) -> None:
    await client.add_member(branch, node)
    print(f"{node.node} keeps {branch} and votes")


async def _remove(client: LogClient, branch: BranchName, info: MemberInfo) -> None:
    await client.remove_member(branch, info.member)
    print(f"{info.node} keeps {branch} no longer")
    try:
        await client.drop_replica(info.rpc, branch, info.member)
    except RpcError as error:  # often the node is gone, and that is why it was removed
        print(f"seawall: what {info.node} has of {branch} is still there: {error}", file=sys.stderr)


async def _member(client: LogClient, branch: BranchName, node: NodeName) -> MemberInfo:
    members = (await client.topology(branch)).members
    for info in members:
        if info.node == node:
            return info
    nodes = ", ".join(sorted(info.node for info in members))
    raise LogCommandError(f"{node} keeps no replica of {branch}: {nodes} do")


def _verify(directory: Path) -> int:
    groups = directory / GROUPS_DIRECTORY
    directories = sorted(groups.iterdir()) if groups.is_dir() else [directory]
    are_sound = True
    for group in directories:
        report = verify(group)
        are_sound = are_sound and report.is_sound
        print(f"{group}: {_summary(report)}")
        for text in report.findings:
            print(f"  DAMAGE: {text}")
        for text in report.notes:
            print(f"  note: {text}")
    return 0 if are_sound else 1


def _summary(report: VerifyReport) -> str:
    verdict = "sound" if report.is_sound else "DAMAGED"
    return (
        f"{verdict}, {report.records} records in {report.segments} segments, "
        f"entries {report.first_index} to {report.last_index}"
    )
