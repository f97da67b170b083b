"""What the handlers of all methods have in common: who may call, which group is meant, and how a
failure is told to the caller. A node that does not lead a branch answers RetryError to what needs
the leader, and names the leader for a human; clients look for themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from fabric.addresses import parse_address
from fabric.ids import BranchName, Role
from fabric.rpc_errors import BadRequestError, RetryError
from raft.errors import BusyError, ConfigRefusedError, NotLeaderError

from .branch import FenceError
from .group import Group
from .group_host import GroupHost
from .node import LogNode

MANAGERS: Final = frozenset({Role.ADMIN, Role.OPERATOR, Role.LOG})
READERS: Final = MANAGERS | {Role.COMPUTE, Role.STORAGE, Role.GATEWAY}
WAL_READERS: Final = MANAGERS | {Role.COMPUTE, Role.STORAGE}
REPORTERS: Final = MANAGERS | {Role.COMPUTE}

T = TypeVar("T")


def host_of(node: LogNode, branch: BranchName) -> GroupHost:
    """Return the replica of a branch on this node."""
    host = node.hosts.get(branch)
    if host is None:
        raise RetryError(f"branch {branch} has no replica on {node.settings.name}")
    return host


def leading(node: LogNode, branch: BranchName) -> Group:
    """Return the group of a branch that this node leads."""
    group = host_of(node, branch).group
    if not group.is_leading:
        leader = group.leader_info
        known = "nobody known" if leader is None else leader.node
        raise RetryError(f"{node.settings.name} does not lead {branch}, but {known}")
    return group


async def proposed(proposal: Awaitable[T]) -> T:
    """Wait until a proposal is committed; say in the caller's terms why it is not."""
    try:
        return await proposal
    except (NotLeaderError, BusyError) as error:
        raise RetryError(str(error)) from error
    except (FenceError, ConfigRefusedError) as error:
        raise BadRequestError(str(error)) from error


def refused(call: Callable[[], None]) -> None:
    """Do what may be refused; say so in the caller's terms."""
    try:
        call()
    except (NotLeaderError, BusyError) as error:
        raise RetryError(str(error)) from error
    except ConfigRefusedError as error:
        raise BadRequestError(str(error)) from error


async def until(
    condition: Callable[[], bool],
    subscribe: Callable[[Callable[[], None]], Callable[[], None]],
    wait_ms: int,
) -> None:
    """Wait until a condition holds, looking whenever something changes, but not for ever."""
    changed = asyncio.Event()
    unsubscribe = subscribe(changed.set)
    try:
        async with asyncio.timeout(wait_ms / 1000):
            while not condition():
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pass
    finally:
        unsubscribe()


def verify_address(text: str) -> None:
    """Refuse what is no address."""
    try:
        parse_address(text)
    except ValueError as error:
        raise BadRequestError(str(error)) from error
