"""Starts nodes of a local cluster: one process that loads our code once and forks for each node.

    python -P -m seawall.local.node_main
    < [["DIRECTORY", "MODULE"], ..]
    > .

Loading takes half a second of CPU and most of a node's memory; forked nodes share both. An order is
answered, by a byte, once each of its nodes has said that it holds its lock, or could not. Between
orders the process does nothing, and at the end of its input it ends.

A node takes the lock of its directory and writes its process id into the locked file. So whoever
wants to know whether a node runs asks for the lock, at any time, whoever started the node and
whatever died meanwhile; and a node that is started twice runs once.

Log nodes and gateways give up root's rights here: they have no need to know about users.
"""

import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import ctypes
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

from sqlnode.privileges import choose_identity, drop

from .layout import NodeLayout
from .processes import take_lock

DROPS_FOR: Final = frozenset({"gateway", "log_service"})  # the others do it by themselves
LOG_BYTES_MAX: Final = 16 * 1024 * 1024  # a longer one is put aside when its node starts
UMASK: Final = 0o077
PR_SET_NAME: Final = 15  # from linux/prctl.h


def main() -> int:
    """Carry out orders until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nodes that end are nothing to us
    for order in sys.stdin.buffer:
        _launch(json.loads(order))
        os.write(sys.stdout.fileno(), b".")
    return 0


def _launch(nodes: Sequence[Sequence[str]]) -> None:
    """Fork a process for each node; wait until each of them has begun."""
    begun, begin = os.pipe()
    for directory, name in nodes:
        module = importlib.import_module(f"{name}.__main__")
        gc.freeze()  # what is shared stays shared: no collection writes to it
        if os.fork() == 0:
            os.close(begun)
            _become(NodeLayout(Path(directory)), name, module, begin)
    os.close(begin)
    os.read(begun, 1)  # its end: every node has closed it
    os.close(begun)


def _become(node: NodeLayout, name: str, module: ModuleType, begin: int) -> NoReturn:
    """Be a node until it ends."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.umask(UMASK)
        # Before the process id is there: nobody takes the last life's words for ours.
        lock = take_lock(node.lock, before=lambda: node.said.write_bytes(b""))
        if lock is not None:
            _redirect(node)
            _set_name(node.top.name)
            os.close(begin)
            if name in DROPS_FOR:
                drop(choose_identity())
            sys.argv = [name, "--config", str(node.config)]
            status = module.main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001  # the process ends; its log has the reason
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # we are a copy: what the original wants done at its end is not ours


def _set_name(name: str) -> None:
    """Have ps and top show which node it is: the arguments are those of the launcher."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def _redirect(node: NodeLayout) -> None:
    """Give the node its log, and a file for the line in which it says that it is ready."""
    if node.log.exists() and node.log.stat().st_size > LOG_BYTES_MAX:
        node.log.rename(node.log.with_suffix(".log.1"))
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for path, number in ((node.said, 1), (node.log, 2)):
        descriptor = os.open(path, appending, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
