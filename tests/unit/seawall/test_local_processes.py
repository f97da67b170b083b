"""Which processes run: real processes that hold locks, end, and leave their files behind.

In scope: seawall/local/processes.py, and starting nodes by forks of one launcher. Out of scope:
what the supervisor makes of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from fixtures.waiting import eventually

from seawall.local.layout import NodeLayout
from seawall.local.logs import follow, tail
from seawall.local.processes import find_running, has_said, is_locked, running_pid, take_lock
from sqlnode.processes import ends_within_blocking

if TYPE_CHECKING:
    from pathlib import Path

WAITS = """
import pathlib, sys
from seawall.local.processes import take_lock
lock = take_lock(pathlib.Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that has tried to take a lock, said whether it did, and waits."""
    return subprocess.Popen(
        [sys.executable, "-c", WAITS, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def ends(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_lock_names_its_holder_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert find_running(path) is None
    process = holder(path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        found = find_running(path)
        assert found is not None
        assert found.process.pid == process.pid == running_pid(path)
        found.send(signal.SIGKILL)
        assert ends_within_blocking(found.pidfd, 30)
        os.close(found.pidfd)
        assert running_pid(path) is None, "the file is still there, and names nobody"
        assert path.stat().st_size > 0
    finally:
        ends(process)


def test_only_one_process_has_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = holder(path)
    second = None
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        second = holder(path)
        assert second.stdout is not None
        assert second.stdout.readline() == "False\n"
        assert running_pid(path) == first.pid
    finally:
        ends(first)
        if second is not None:
            ends(second)


def test_looking_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    looking = os.open(path, os.O_RDONLY)
    try:
        assert not is_locked(looking)
        lock = take_lock(path)
        assert lock is not None
        assert is_locked(looking)
        os.close(lock)
        assert not is_locked(looking)
    finally:
        os.close(looking)


def test_a_pid_of_another_time_names_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = take_lock(path)
    assert lock is not None
    try:
        assert running_pid(path) == os.getpid()
        path.write_text(f'{{"pid":{os.getpid()},"started_ticks":1}}\n')
        assert running_pid(path) is None
        path.write_text("half")
        assert running_pid(path) is None
    finally:
        os.close(lock)


def test_a_node_is_ready_once_it_has_said_so(tmp_path: Path) -> None:
    said = tmp_path / "ready.json"
    assert not has_said(said, "node ready")
    said.write_bytes(b'{"event": "node ready"')
    assert not has_said(said, "node ready")
    said.write_bytes(b'noise\n[1]\n{"event": "node ready"}\n')
    assert has_said(said, "node ready")
    assert not has_said(said, "other ready")


def test_one_launcher_starts_many_and_each_only_once(tmp_path: Path) -> None:
    """Modules that log what they are told and wait: forked, in sessions of their own."""
    package = tmp_path / "waiting_node"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import os, sys, time\n"
        "def main():\n"
        '    print(\'{"event": "waits"}\', flush=True)\n'
        "    print(sys.argv, os.getsid(0) == os.getpid(), file=sys.stderr, flush=True)\n"
        "    time.sleep(300)\n"
    )
    nodes = [NodeLayout(tmp_path / name) for name in ("a", "b")]
    for node in nodes:
        node.top.mkdir()
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    order = json.dumps([(str(node.top), "waiting_node") for node in nodes]).encode() + b"\n"

    def answers(orders: bytes) -> bytes:
        command = [sys.executable, "-m", "seawall.local.node_main"]
        done = subprocess.run(
            command, check=True, env=environment, timeout=60, capture_output=True, input=orders
        )
        return done.stdout

    try:
        assert answers(order) == b"."
        pids = [running_pid(node.lock) for node in nodes]
        assert None not in pids
        assert len({*pids}) == 2
        for node in nodes:
            eventually(lambda n=node: has_said(n.said, "waits"), what="the line")  # type: ignore[misc]  # mypy does not infer a lambda with a default
            eventually(lambda n=node: tail(n.log, 1), what="its log")  # type: ignore[misc]  # as above
            assert f"'--config', '{node.config}'] True" in tail(node.log, 1)[0]
        assert answers(order + order) == b".."
        assert [running_pid(node.lock) for node in nodes] == pids, "a second start changes nothing"
    finally:
        for node in nodes:
            found = find_running(node.lock)
            if found is not None:
                found.send(signal.SIGKILL)
                os.close(found.pidfd)


def test_a_log_is_followed_from_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    path.write_text("old\n")
    lines = follow([("n", path)])
    path.write_text("a\nh")  # begun anew, and shorter
    assert next(lines) == ("n", "a")
    with path.open("a") as log:
        log.write("alf\n")
    assert next(lines) == ("n", "half")
    assert tail(path, 1) == ["half"]
