"""Whose socket it is at the other end of a connection on this machine, by the kernel's tables.

    owner = SocketOwner({"log-1": Path(".../process")})
    await owner.of(port=40122, to=17003)    # "log-1", or OUTSIDE

Nodes say nothing of themselves when they connect, and their numbers of processes change. So the
kernel is asked: which inode has the connection, which process has that open, and below which node's
process that one is. That takes some milliseconds, and everybody connects at once when something
broke, so one look serves all who have asked before it began. `below`: not the node itself connects,
but a process below it, such as a walreceiver of postgres.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

OUTSIDE: Final = "outside"  # clients, and whoever runs a command
TABLE: Final = Path("/proc/net/tcp")
LOCAL, REMOTE, INODE = 1, 2, 9  # its columns

Ports = tuple[int, int]  # from which, to which


def connections(table: Iterable[str]) -> dict[int, Ports]:
    """The ports of each connection, by inode. Pure."""
    found = {}
    for line in table:
        fields = line.split()
        if len(fields) > INODE and fields[0] != "sl":
            found[int(fields[INODE])] = (_port(fields[LOCAL]), _port(fields[REMOTE]))
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


class Outsiders:
    """Where no node connects."""

    async def of(self, *, port: int, to: int) -> str:  # as SocketOwner has it
        """OUTSIDE."""
        return OUTSIDE


class SocketOwner:
    """Knows the nodes by the files that their processes lock and write their ids to."""

    def __init__(self, process_files: Mapping[str, Path], *, below: bool = False) -> None:
        self._files = dict(process_files)
        self._below = below
        self._look: asyncio.Task[dict[Ports, str]] | None = None

    async def of(self, *, port: int, to: int) -> str:
        """The node that connected; OUTSIDE if none did, or it has died meanwhile."""
        earlier = self._look
        if earlier is not None:
            owners = await asyncio.shield(earlier)
            if (port, to) in owners:
                return owners[port, to]
        if self._look is None or self._look is earlier:
            self._look = asyncio.create_task(asyncio.to_thread(self._owners))
        # Begun after we were asked, whoever began it.
        return (await asyncio.shield(self._look)).get((port, to), OUTSIDE)

    def _owners(self) -> dict[Ports, str]:
        """All connections of nodes."""
        with TABLE.open(encoding="ascii") as table:
            known = connections(table)
        found = {}
        for name, file in self._files.items():
            root = _pid_in(file)
            pids = [] if root is None else _tree(root) if self._below else [root]
            for pid in pids:
                for inode in _inodes(pid):
                    if inode in known:
                        found[known[inode]] = name
        return found


def _pid_in(file: Path) -> int | None:
    try:
        return int(json.loads(file.read_bytes())["pid"])
    except (OSError, ValueError, KeyError):
        return None  # it has not been started yet, or is being written


def _tree(root: int) -> Iterator[int]:
    """A process and all below it: asked for one by one, the whole machine has many more."""
    ahead = [root]
    while ahead:
        pid = ahead.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                ahead += map(int, (task / "children").read_text(encoding="ascii").split())


def _inodes(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                kind, _, inode = os.readlink(entry.path).partition(":")
                if kind == "socket":
                    yield int(inode.strip("[]"))
