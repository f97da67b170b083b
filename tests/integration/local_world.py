"""Local clusters for a test: the command line as a process, in directories that do not stay.

    with local_cluster(identity, server) as cluster:
        cluster.seawall("up", "--detach")
        cluster.sql("select 1")
        cluster.status()["primary"]

Whatever the cluster has left running is killed at the end, also when the test failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from fixtures.servers import new_run_root

from bench.node_process import free_ports
from seawall.local.cluster_file import ClusterError, load
from seawall.local.layout import Layout
from seawall.local.processes import find_running, running_pid
from sqlnode.orphans import end_orphans
from sqlnode.processes import ends_within_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlnode.privileges import Identity
    from sqlnode.servers import ServerBinaries

COMMAND = (sys.executable, "-P", "-m", "seawall")
DEADLINE_S = 150.0  # ends a test that has failed already


class LocalCluster:
    """One directory, and the commands for it."""

    def __init__(self, top: Path, server: ServerBinaries, home: Path) -> None:
        self.layout = Layout(top)
        self.server = server
        (self.port,) = free_ports(1, random.Random(os.urandom(8)))
        self._home = home

    # Commands.

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command for this directory, whatever its exit status."""
        return subprocess.run(
            self.argv(command, *arguments),
            capture_output=True, check=False, env=self.environment(), text=True,
            stdin=subprocess.DEVNULL, timeout=DEADLINE_S,
        )  # fmt: skip

    def argv(self, command: str, *arguments: str) -> list[str]:
        """The command line."""
        return [*COMMAND, command, "--dir", str(self.layout.top), *arguments]

    def environment(self) -> dict[str, str]:
        """Of the command: nobody's settings of libpq."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**kept, "PGCONNECT_TIMEOUT": "30"}

    def seawall(self, command: str, *arguments: str) -> str:
        """Run a command that must succeed; what it printed."""
        done = self.run(command, *arguments)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.words()}"
        return done.stdout

    def refused(self, command: str, *arguments: str) -> str:
        """Run a command that must fail; its one sentence."""
        done = self.run(command, *arguments)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) <= 5, done.stderr
        return done.stderr

    def up(self, *arguments: str) -> str:
        """Start it in the background, with the server under test."""
        port = () if self.layout.cluster_file.exists() else ("--port", str(self.port))
        pg_bin = ("--pg-bin", str(self.server.bin_dir))
        return self.seawall("up", "--detach", *pg_bin, *port, *arguments)

    def status(self) -> Any:
        """What `status --json` says, also of a cluster without a primary."""
        return json.loads(self.run("status", "--json").stdout)

    def sql(self, text: str) -> str:
        """Run SQL on the primary with psql."""
        return self.seawall("psql", "-X", "-A", "-t", "-q", "-c", text).strip()

    # Processes.

    @property
    def names(self) -> list[str]:
        """All nodes that have a directory."""
        return sorted(path.name for path in self.layout.nodes.glob("*"))

    def pids(self) -> dict[str, int | None]:
        """Who runs."""
        return {name: running_pid(self.layout.node(name).lock) for name in self.names}

    def kill_supervisor(self) -> None:
        """SIGKILL, as a crash."""
        self._kill(self.layout.lock)

    def kill(self, name: str) -> None:
        """SIGKILL to a node."""
        self._kill(self.layout.node(name).lock)

    def _kill(self, lock: Path) -> None:
        found = find_running(lock)
        assert found is not None, f"nobody holds {lock}"
        found.send(signal.SIGKILL)
        assert ends_within_blocking(found.pidfd, DEADLINE_S)
        os.close(found.pidfd)

    def words(self) -> str:
        """The ends of all logs, for a failure."""
        logs = [self.layout.supervisor_log, *(self.layout.node(n).log for n in self.names)]
        texts = [
            f"{path.parent.name}: {path.read_text()[-1500:]}" for path in logs if path.exists()
        ]
        return "\n" + "\n".join(texts)

    def end(self) -> None:
        """Kill whatever there is, and delete it."""
        for lock in (self.layout.lock, *(self.layout.node(name).lock for name in self.names)):
            with contextlib.suppress(AssertionError):
                self._kill(lock)
        runs = [self.layout.node(name).run for name in self.names]
        if self.layout.cluster_file.exists() and (root := self._run_root()) is not None:
            runs += [root / name for name in self.names]
        for run in runs:
            end_orphans([*run.glob("data"), *run.glob("*/data")])
            shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(self.layout.top, ignore_errors=True)

    def _run_root(self) -> Path | None:
        try:
            found = load(self.layout).run_root
        except ClusterError:  # a test has written another one
            return None
        return None if found is None else type(self.layout.top)(found)


@contextlib.contextmanager
def local_cluster(
    identity: Identity, server: ServerBinaries, name: str = "c"
) -> Iterator[LocalCluster]:
    """A directory without a cluster; nothing is left of what the test makes in it."""
    root = new_run_root(identity)
    root.chmod(0o711)  # as of /var/lib: the user of the nodes passes through
    cluster = LocalCluster(root / name, server, root)
    try:
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(root)
