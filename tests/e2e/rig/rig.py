"""A Kubernetes of two nodes on this machine, for tests: up, down, and everything between.

    with Rig() as rig:
        rig.kubectl("apply", "-f", "-", given=manifest)
        rig.node("node-1").lose()

`up` begins with the end of whatever an earlier rig left behind. A machine has one rig at a time,
and a rig has one user at a time.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import TracebackType

from . import build, cleanup, network, system
from .api import Api
from .commands import direct_environment, run
from .control_plane import ControlPlane
from .errors import RigError
from .images import Image, busybox_image, compile_pause, pause_image
from .layout import CONTROL, NODES, Layout
from .machine import Machine
from .nodes import Node
from .pki import Authority
from .records import Process, Records
from .usage import used

NODES_TIMEOUT_S = 90.0  # 10 s on an idle machine
COMMAND_TIMEOUT_S = 180.0
LOCK = Path("/run/lock/seawall-e2e")  # its content is the directory of the rig that is up


class Rig:
    """The cluster as a test sees it; attributes are usable once it is up or attached."""

    def __init__(self, directory: Path | None = None) -> None:
        self.layout = Layout.at(directory)
        self._programs = Path()
        self._records = Records(self.layout.state / "state.json")
        self._nodes: dict[str, Node] = {}
        self._control: ControlPlane | None = None
        self._use = ExitStack()

    # --- life -------------------------------------------------------------------------------------

    @staticmethod
    def why_not() -> str | None:
        """Why the rig cannot run on this machine, in one sentence; None if it can."""
        return system.why_not()

    def __enter__(self) -> "Rig":
        with ExitStack() as use:
            use.enter_context(used())
            self.up(owner=Process.of(os.getpid()))
            self._use = use.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._use:
            self.down()

    def up(self, *, owner: Process | None = None) -> None:
        """Install, build and start whatever is missing; return when both nodes are ready.

        With an owner the rig counts as left behind as soon as that process is gone.
        """
        reason = self.why_not()
        if reason is not None:
            raise RigError(reason)
        system.install()
        self._programs = build.programs()
        with _lock() as holder:
            self._make_room(holder)
            _write(holder, str(self.layout.state))
            try:
                self._start(owner)
            except BaseException:
                # What was started is of no use to anybody, but its logs are.
                cleanup.clean(self.layout, keep_logs=True)
                raise

    def down(self) -> None:
        """End everything and remove every trace, however far `up` had come."""
        with _lock() as holder:
            cleanup.clean(self.layout)
            _write(holder, "")

    def attach(self) -> "Rig":
        """Use a rig that is up already, started by another process."""
        if not self.running():
            dead = ", ".join(Records.read(self.layout.state).dead())
            died = f" any more ({dead} died)" if dead else ""
            raise RigError(f"no rig is up in {self.layout.state}{died}: start one with `up`")
        self._programs = build.programs()
        self._records = Records.read(self.layout.state)
        self._assemble()
        return self

    def running(self) -> bool:
        """Whether this rig is up, by whomever it was started."""
        return _in_use(self.layout)

    def status(self) -> list[str]:
        """A line for each program: what it is, and whether it runs."""
        records = Records.read(self.layout.state)
        return [
            f"{name:36} {'runs' if process.alive() else 'is dead':8} pid {process.pid}"
            for name, process in records.processes.items()
        ]

    # --- use --------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use on this host."""
        return self.layout.kubeconfig

    @property
    def api(self) -> Api:
        """The API server as the administrator sees it, without kubectl."""
        return Api(self.kubeconfig)

    @property
    def control(self) -> ControlPlane:
        """The control plane, for `stop_api` and `start_api`."""
        if self._control is None:
            raise RigError("the rig is not up: call `up` or `attach` first")
        return self._control

    @property
    def nodes(self) -> list[Node]:
        """Both nodes."""
        return [self.node(name) for name in NODES]

    def node(self, name: str) -> Node:
        """A node by its name."""
        if name not in self._nodes:
            known = ", ".join(NODES)
            raise RigError(f"{name} is no node of a rig that is up: there are {known}")
        return self._nodes[name]

    def kubectl(
        self, *arguments: str, given: str = "", timeout_s: float = COMMAND_TIMEOUT_S
    ) -> str:
        """Run kubectl and return what it printed; RigError with its complaint if it failed."""
        return self._command("kubectl", arguments, given, timeout_s)

    def helm(self, *arguments: str, given: str = "", timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run helm and return what it printed; RigError with its complaint if it failed."""
        return self._command("helm", arguments, given, timeout_s)

    def command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        """The command line of kubectl or helm for this cluster."""
        return [str(self._programs / program), f"--kubeconfig={self.kubeconfig}", *arguments]

    def way_to(
        self, namespace: str, service: str, port: int
    ) -> Callable[[], AbstractContextManager[tuple[str, int]]]:
        """How this host reaches a Service: at its own address, which stays what it is."""
        words = ("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
        address = self.kubectl("-n", namespace, *words)
        return lambda: nullcontext((address, port))

    def image_import(self, archive: Path) -> None:
        """Load an image archive (docker's or OCI's) into both nodes."""
        if not archive.is_file():
            raise RigError(f"there is no image archive {archive}")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.import_archive(archive), self.nodes))

    def image_make(self, image: Image) -> None:
        """Load an image that is made of a few files."""
        archive = self.layout.data / "image.tar"
        try:
            self.image_import(image.archive(archive))
        finally:
            archive.unlink(missing_ok=True)

    def busybox(self) -> str:
        """Load the image of small tools, and return its name."""
        image = busybox_image()
        self.image_make(image)
        return image.name

    # --- the start --------------------------------------------------------------------------------

    def _make_room(self, holder: int) -> None:
        """End what is left of an earlier rig; refuse if it is in use."""
        earlier = _read(holder)
        layouts = [self.layout]
        if earlier and Path(earlier) != self.layout.state:
            usual = Layout.at(None)
            directory = Path(earlier)
            layouts.append(usual if directory == usual.state else Layout.at(directory))
        for layout in layouts:
            if _in_use(layout):
                raise RigError(f"a rig is up in {layout.state}: use it, or end it with `down`")
        for layout in layouts:
            if cleanup.remains(layout):
                _say(f"removing what an earlier rig left in {layout.state}")
                cleanup.clean(layout)

    def _start(self, owner: Process | None) -> None:
        started = time.monotonic()
        for directory in (self.layout.state, self.layout.data):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._records = Records.read(self.layout.state)
        self._records.owner = owner
        self._records.write()
        compile_pause(self.layout.data / "pause")
        self._assemble()
        network.create()
        authority = Authority()
        self.control.machine.prepare()
        self.control.write_files(authority)
        self.control.machine.boot()
        self.control.start()
        pause = pause_image(self.layout.data / "pause").archive(self.layout.data / "pause.tar")
        for node in self.nodes:  # while the API server starts
            node.write_files(authority)
            node.start_runtime()
            node.import_archive(pause)
        self.control.wait_for_api()
        self.control.start_services()
        for node in self.nodes:
            node.start_kubelet()
        self.control.wait_for_services()
        api = self.api
        for node in self.nodes:
            self.control.wait(
                f"{node.name} is not ready", partial(node.ready, api), NODES_TIMEOUT_S
            )
        self._records.ready = True
        self._records.write()
        _say(f"up in {time.monotonic() - started:.1f} s: {self.kubeconfig}")

    def _assemble(self) -> None:
        pause = self.layout.data / "pause"

        def machine(name: str) -> Machine:
            return Machine(name, self.layout, self._records, self._programs, pause)

        self._control = ControlPlane(machine(CONTROL))
        self._nodes = {name: Node(machine(name)) for name in NODES}

    def _command(
        self, program: str, arguments: tuple[str, ...], given: str, timeout_s: float
    ) -> str:
        if not network.is_there():  # the host's own routes lead these addresses to strangers
            raise RigError("the rig is gone, somebody has ended it: start one with `up`")
        done = run(
            self.command(program, arguments),
            given=given.encode(),
            timeout_s=timeout_s,
            more_environment=self._environment(),
        )
        return done.stdout.decode()

    def _environment(self) -> dict[str, str]:
        """What keeps kubectl and helm from leaving caches of a dead cluster in a home directory."""
        caches = {"KUBECACHEDIR": "kubectl", "HELM_CACHE_HOME": "helm", "HELM_DATA_HOME": "helm"}
        return {name: str(self.layout.state / "caches" / of) for name, of in caches.items()}

    def replace_process(self, program: str, arguments: tuple[str, ...]) -> None:
        """Become kubectl or helm, for a terminal; does not return."""
        words = self.command(program, arguments)
        environment = {**direct_environment(), **self._environment()}
        os.execve(words[0], words, environment)  # noqa: S606  # no shell is wanted


@contextmanager
def borrowed() -> Iterator[Rig]:
    """The rig that somebody has started by hand, or a new one for as long as the block lasts."""
    rig = Rig()
    if rig.running():
        with used():
            yield rig.attach()
    else:
        with rig:
            yield rig


def _in_use(layout: Layout) -> bool:
    """Whether a rig is up: it came to its end, and whoever wanted it is still there."""
    records = Records.read(layout.state)
    wanted = records.owner is None or records.owner.alive()
    return records.ready and wanted and bool(records.processes) and not records.dead()


@contextmanager
def _lock() -> Iterator[int]:
    """One process at a time starts or ends a rig on this machine."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode().strip()


def _write(descriptor: int, content: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content.encode(), 0)


def _say(text: str) -> None:
    print(f"rig: {text}", file=sys.stderr, flush=True)  # noqa: T201  # a start tells its progress
