"""The supervisor: keeps the processes of a local cluster running, and stops them in their order.

A thin shell around `plan.py`. What it knows it can learn again: who runs, by the locks of the
nodes; what is wanted, from cluster.json. So it may be killed at any time: the nodes go on without
it, and the next one adopts them.

    SIGTERM, SIGINT   stop everything, then leave
    SIGHUP            read cluster.json again
"""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
from msgspec.structs import replace

from fabric.rpc_errors import RpcError
from sqlnode.privileges import Identity

from . import bring_up
from .calls import Nodes
from .cluster_file import ClusterError, load, save
from .events import Begun, Event, Ready, State, Stopping
from .launcher import Launcher
from .layout import Layout
from .node_files import all_names, kind_of, names_of, prepare_node, write_pgpass
from .plan import Actions, Rank, Seen, given_up, has_ended, plan_running, plan_stopping
from .processes import Running, find_running, has_said

LOOK_S: Final = 0.02  # while a node is starting
ASK_PRIMARY_MS: Final = 500
ASK_MS: Final = 1_000
WATCH_S: Final = 2.0
BRING_UP_S: Final = 120.0
COMPLETE_S: Final = 15.0  # how long the replicas get once there is a primary
LOG_BYTES_QUOTED: Final = 8192

log = structlog.get_logger()


class Supervisor:
    """Runs one cluster, until it is told to stop. The lock is held by who makes it."""

    def __init__(
        self,
        layout: Layout,
        *,
        identity: Identity,
        report: Callable[[Event], None],
        launcher: Launcher,
        template: int = -1,
        watches: bool = False,
    ) -> None:
        self._layout = layout
        self._identity = identity
        self._template = template  # the pidfd of whoever makes the template, or -1
        self._report = report
        self._launcher = launcher  # which was begun while our own code was loaded
        self._watches = watches
        self._cluster = load(layout)
        self._seen: dict[str, Seen] = {}
        self._running: dict[str, Running] = {}
        self._changed = asyncio.Event()
        self._node_ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._failure: str | None = None
        self._is_up = False
        self._watching: asyncio.Task[None] | None = None
        self._ranks: dict[str, Rank] | None = None  # known once we are stopping

    # --- Life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until stopped; ClusterError if the cluster did not come up.

        The caller is a subreaper (`adopt_orphans`): nodes are children of whoever watches them.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGCHLD, _reap)
        self._adopt()
        for name in itertools.chain.from_iterable(self._launcher.orders):
            self._seen.setdefault(name, Seen()).is_launching = name not in self._running
        self._watch_launcher()
        coming_up = asyncio.create_task(self._come_up())
        coming_up.add_done_callback(self._has_come_up)
        try:
            while not await self._step():
                pass
        finally:
            tasks = [task for task in (coming_up, self._watching) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._launcher.close()
        log.info("supervisor stopped", reason=self._failure)
        if self._failure is not None:
            raise ClusterError(self._failure)

    async def _step(self) -> bool:
        """Look, do what there is to do, wait for what comes next; whether all is over."""
        self._changed.clear()
        self._look()
        now_ms = _now_ms()
        if self._stop.is_set():
            if self._ranks is None:
                self._ranks = await self._stop_ranks()
            launching = any(node.is_launching for node in self._seen.values())
            actions = plan_stopping(self._seen, ranks=self._ranks, now_ms=now_ms)
            if not launching and not self._running:
                return True
        else:
            # Computes begin with the others: they wait for their branch by themselves.
            wanted = names_of(self._cluster)
            actions = plan_running(self._seen, wanted=wanted, now_ms=now_ms)
        self._carry_out(actions)
        await self._wait(actions.look_again_ms)
        return False

    async def _wait(self, wait_ms: float | None) -> None:
        timeout_s = None if wait_ms is None else wait_ms / 1000
        if any(node.is_alive and not node.is_ready for node in self._seen.values()):
            timeout_s = LOOK_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _ask_to_stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if not self._stop.is_set():
            log.info("supervisor is stopping the cluster")
            self._report(Stopping())
        self._stop.set()
        self._changed.set()

    def _reload(self) -> None:
        """Take over what is wanted now; a file that cannot be read changes nothing."""
        try:
            self._cluster = load(self._layout)
            for name in self._cluster.compute_names():
                prepare_node(self._layout, self._cluster, name, identity=self._identity)
            write_pgpass(self._layout, self._cluster)
        except (ClusterError, OSError) as error:
            log.warning("cluster.json was not taken over", reason=str(error))
        self._changed.set()

    # --- Coming up ----------------------------------------------------------------------------

    async def _come_up(self) -> None:
        nodes = Nodes(self._layout, self._cluster)
        cluster = self._cluster
        async with asyncio.timeout(BRING_UP_S):
            await self._until_ready(cluster.log, "log")
            await self._until_ready(cluster.storage, "storage")
            if not cluster.is_founded:
                self._report(Begun("database"))
                await self._until_template()
                await bring_up.found(nodes, cluster)
            self._report(Begun("primary"))
            await self._until_primary(nodes)
            if cluster.gateways_wanted:
                await self._until_ready(cluster.gateway_names(), "gateway")

    async def _watch(self) -> None:
        """Say how the cluster is, now and then, to somebody who looks at a terminal."""
        async with Nodes(self._layout, self._cluster).log() as client:
            while True:
                computes = None
                with contextlib.suppress(RpcError):
                    computes = await client.computes(self._cluster.branch, timeout_ms=ASK_MS)
                self._report(State(bring_up.state_line(computes)))
                await asyncio.sleep(WATCH_S)

    async def _until_ready(self, names: Iterable[str], what: str) -> None:
        self._report(Begun(what))
        while not all((node := self._seen.get(name)) and node.is_ready for name in names):
            self._node_ready.clear()
            await self._node_ready.wait()

    async def _until_template(self) -> None:
        if self._template >= 0:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(self._template, ended.set)
            await ended.wait()
            loop.remove_reader(self._template)

    async def _until_primary(self, nodes: Nodes) -> None:
        complete_by: float | None = None
        async with nodes.log() as client:
            while True:
                progress = await bring_up.next_progress(client, self._cluster)
                if progress is None or progress.primary is None or not progress.is_streaming:
                    continue
                if complete_by is None:
                    if not self._cluster.is_founded:
                        await bring_up.set_password(self._layout, progress.primary)
                        self._remember_founding()
                    if self._cluster.gateways_wanted:
                        await bring_up.make_gateway_role(self._layout, progress.primary)
                    self._report(Begun("replicas"))
                    complete_by = time.monotonic() + COMPLETE_S
                wanted = len(self._cluster.compute_names())
                if progress.is_complete(wanted) or time.monotonic() > complete_by:
                    return

    def _remember_founding(self) -> None:
        cluster = load(self._layout)  # somebody may have changed what is wanted meanwhile
        self._cluster = replace(cluster, is_founded=True)
        save(self._layout, self._cluster)

    def _has_come_up(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._is_up = True
            log.info("cluster is up")
            self._report(Ready())
            if self._watches:
                self._watching = asyncio.create_task(self._watch())
        elif isinstance(error, TimeoutError):
            self._give_up(
                f"the cluster was not up within {BRING_UP_S:g} s: look at the logs in "
                f"{self._layout.nodes}"
            )
        elif isinstance(error, (ClusterError, OSError, RpcError)):
            self._give_up(str(error))
        else:
            log.error("coming up failed", exc_info=error)
            self._give_up(f"the cluster did not come up: {type(error).__name__}: {error}")
        self._changed.set()

    def _give_up(self, sentence: str) -> None:
        """Stop everything; `up` fails with this sentence."""
        if not self._stop.is_set():
            self._failure = sentence
            self._ask_to_stop()

    # --- Processes ----------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Find who runs already: from an earlier supervisor, whatever became of that."""
        for name in sorted(all_names(self._cluster)):
            if self._take(name):
                log.info("node adopted", node=name, pid=self._running[name].process.pid)

    def _take(self, name: str) -> bool:
        """Watch the process of a node, if there is one."""
        found = find_running(self._layout.node(name).lock)
        if found is None:
            return False
        self._running[name] = found
        seen = self._seen.setdefault(name, Seen())
        seen.is_alive, seen.is_launching, seen.started_ms = True, False, _now_ms()
        asyncio.get_running_loop().add_reader(found.pidfd, self._node_ended, name)
        return True

    def _node_ended(self, name: str) -> None:
        running = self._running.pop(name)
        asyncio.get_running_loop().remove_reader(running.pidfd)
        os.close(running.pidfd)
        was_asked = self._seen[name].stop_asked_ms is not None
        has_ended(self._seen[name], _now_ms())
        if not was_asked:
            words = last_words(self._layout.node(name).log)
            log.warning("node ended", node=name, failures=self._seen[name].failures, words=words)
            self._judge_failures()
        self._changed.set()

    def _judge_failures(self) -> None:
        """While somebody waits for the cluster to come up: say why it does not."""
        name = None if self._is_up else given_up(self._seen)
        if name is not None:
            words = last_words(self._layout.node(name).log)
            self._give_up(f"{name} does not start: {words}")

    def _look(self) -> None:
        for name, seen in self._seen.items():
            if seen.is_alive and not seen.is_ready:
                said = self._layout.node(name).said
                seen.is_ready = has_said(said, kind_of(name).ready_event)
                if seen.is_ready:
                    self._node_ready.set()

    def _carry_out(self, actions: Actions) -> None:
        if actions.start:
            self._launch(actions.start)
        for name in actions.stop:
            self._seen[name].stop_asked_ms = _now_ms()
            self._running[name].send(signal.SIGTERM)
        for name in actions.kill:
            log.warning("node killed: it did not stop in time", node=name)
            self._seen[name].is_killed = True
            self._running[name].send(signal.SIGKILL)

    def _launch(self, names: tuple[str, ...]) -> None:
        """Have processes made for nodes; who they are is known when that has been done."""
        for name in names:
            self._seen.setdefault(name, Seen()).is_launching = True
        try:
            self._launcher.launch(names)
        except OSError as error:
            log.warning("no process can be started", reason=str(error))
            self._launched(names)
        self._watch_launcher()

    def _watch_launcher(self) -> None:
        if self._launcher.is_open:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._launcher.answers, self._launcher_answered)

    def _launcher_answered(self) -> None:
        done = self._launcher.answered()
        if self._launcher.has_ended:
            asyncio.get_running_loop().remove_reader(self._launcher.answers)
            self._launcher.close()
        for names in done:
            self._launched(names)

    def _launched(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self._running and not self._take(name):
                has_ended(self._seen[name], _now_ms())
        self._judge_failures()
        self._changed.set()

    # --- Stopping -----------------------------------------------------------------------------

    async def _stop_ranks(self) -> dict[str, Rank]:
        """Return who stops when; the log knows who is the primary."""
        primary = None
        if any(name in self._cluster.computes for name in self._running):
            primary = await self._primary()
        ranks: dict[str, Rank] = {}
        for name in self._seen:
            if name in self._cluster.log:
                ranks[name] = Rank.LOG
            elif name in self._cluster.storage:
                ranks[name] = Rank.STORAGE
            elif name in self._cluster.gateways:
                ranks[name] = Rank.GATEWAY
            else:
                ranks[name] = Rank.PRIMARY if name == primary else Rank.REPLICA
        return ranks

    async def _primary(self) -> str | None:
        try:
            async with Nodes(self._layout, self._cluster).log() as client:
                topology = await client.topology(self._cluster.branch, timeout_ms=ASK_PRIMARY_MS)
        except (OSError, RpcError):
            return None
        return None if topology.holder is None else topology.holder.name


def last_words(path: Path) -> str:
    """Return the last line of a log, as far as a sentence can quote it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_BYTES_QUOTED))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:500]


def _reap() -> None:
    """Nodes are our children by adoption, and so is what they leave behind."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _now_ms() -> float:
    return time.monotonic() * 1000
