"""What the tests of the operator do with a cluster: apply, wait, ask, write, and lose nothing.

A writer is a client that goes on whatever happens: it counts only what was acknowledged, and at the
end all of that has to be there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from e2e.kubernetes import REGISTRY
from e2e.rig import Rig, RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.kubernetes import Kubernetes, Way

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
BUILD_S = 1800
SYSTEM = "seawall-system"
PATIENCE_S = 600.0  # of what takes seconds: a machine that others use may be ten times slower
PAUSE_S = 0.02
LOOK_S = 0.2
CONNECT_S = 2
PORT = 5432
VERSION = int(os.environ.get("SEAWALL_E2E_PG") or 15)  # of Debian's servers, and so of the images
TAG = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

Json = dict[str, Any]


def build_images(directory: Path = IMAGES) -> list[Path]:
    """Return archives of our images; a second build of the same sources takes a moment."""
    given = os.environ.get("SEAWALL_E2E_IMAGES")
    if given is not None:
        directory = Path(given)
    else:
        command = [str(ROOT / "images" / "build"), "--offline-base", "--output", str(directory)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=BUILD_S)
        if done.returncode:
            raise RigError(f"the images cannot be built: {done.stderr[-4000:]}")
    found = sorted(directory.glob("*.tar"))
    if not found:
        raise RigError(f"there are no archives of images in {directory}: build them into it")
    return found


def image(role: str) -> str:
    """Return the name of an image: of log, gateway, operator, compute or storage."""
    registry = os.environ.get(REGISTRY, "")
    tag = f"{TAG}-pg{VERSION}" if role in {"compute", "storage"} else TAG
    return f"{registry}/seawall/{role}:{tag}".lstrip("/")


def install(kubernetes: Kubernetes, images: list[Path]) -> None:
    """Install the operator as a user would; one that is there becomes this one."""
    if isinstance(kubernetes, Rig):
        for archive in images:
            kubernetes.image_import(archive)
    # Helm installs the CRD once, and never changes it.
    crds = str(ROOT / "charts" / "seawall" / "crds")
    kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", crds)
    arguments = ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"]
    arguments += ["--set", f"imageRegistry={os.environ.get(REGISTRY, '')}"]
    kubernetes.helm("upgrade", "--install", "seawall", str(ROOT / "charts" / "seawall"), *arguments)
    deployment = "deployment/seawall-operator"
    kubernetes.kubectl("-n", SYSTEM, "rollout", "restart", deployment)
    kubernetes.kubectl("-n", SYSTEM, "rollout", "status", deployment, "--timeout=170s")


def is_installed(kubernetes: Kubernetes) -> bool:
    """Whether somebody has installed the operator."""
    return bool(kubernetes.helm("list", "--namespace", SYSTEM, "--short").strip())


@contextlib.contextmanager
def new_space(kubernetes: Kubernetes, name: str) -> Iterator[str]:
    """Have a namespace, in which only restricted pods may run, until the block ends."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
    kubernetes.kubectl("apply", "-f", "-", given=json.dumps(space))
    try:
        yield name
    finally:
        kubernetes.kubectl("delete", "namespace", name, "--timeout=500s", timeout_s=520)


@dataclass(frozen=True)
class Cluster:
    """One PostgresCluster."""

    kubernetes: Kubernetes
    namespace: str
    name: str

    # --- The object --------------------------------------------------------------------------

    def apply(self, **spec: Any) -> None:
        """Make it so; what is not said has its default."""
        manifest = {
            "apiVersion": "seawall.dev/v1alpha1",
            "kind": "PostgresCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {"version": VERSION, **spec},
        }
        self.kubernetes.kubectl("apply", "-f", "-", given=json.dumps(manifest))

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Return what kubectl prints, in the cluster's namespace."""
        return self.kubernetes.kubectl("-n", self.namespace, *arguments, given=given)

    def get(self) -> Json:
        """Return the object."""
        found: Json = json.loads(self.kubectl("get", "swpg", self.name, "-o", "json"))
        return found

    def status(self) -> Json:
        """Return what the operator says of it."""
        found: Json = self.get().get("status", {})
        return found

    def pods(self, component: str = "") -> dict[str, Json]:
        """Return the pods, by name."""
        selector = f"seawall.dev/cluster={self.name}"
        selector += f",seawall.dev/component={component}" if component else ""
        items = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return {pod["metadata"]["name"]: pod for pod in items}

    def versions(self) -> dict[str, str]:
        """Return the version of each object: another one when anybody has written to it."""
        kinds = "swpg,pods,pvc,services,secrets,configmaps,deployments,pdb,networkpolicies"
        items = json.loads(self.kubectl("get", kinds, "-o", "json"))["items"]
        return {
            f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
            for one in items
        }

    def is_settled(self) -> bool:
        """Whether all that was asked for is there, and nothing is being changed."""
        cluster = self.get()
        status = cluster.get("status", {})
        generation = cluster["metadata"]["generation"]
        conditions = {one["type"]: one for one in status.get("conditions", ())}
        return (
            status.get("phase") == "Running"
            and all(one["observedGeneration"] == generation for one in conditions.values())
            and conditions["Progressing"]["status"] == "False"
            and status.get("readyComputes") == cluster["spec"]["computes"]
            and len(self.pods("compute")) == cluster["spec"]["computes"]
        )

    def settle(self) -> None:
        """Wait until it is; an error shows how far it came."""
        try:
            until(self.is_settled, "the cluster to settle")
        except RigError as error:
            said = self.kubectl("get", "swpg,pods,events", "-o", "wide")
            raise RigError(f"{error}\n{self.status()}\n{said[-6000:]}") from error

    def primary(self) -> str:
        """Return the compute that takes writes; empty: none does."""
        return str(self.status().get("primary", ""))

    # --- SQL ---------------------------------------------------------------------------------

    def password(self) -> str:
        """Return the superuser's."""
        text = self.kubectl("get", "secret", f"{self.name}-superuser", "-o", "json")
        return base64.b64decode(json.loads(text)["data"]["password"]).decode()

    def way(self, suffix: str = "") -> Way:
        """Return how to reach a Service: of the gateways, or with -primary, -replicas."""
        return self.kubernetes.way_to(self.namespace, f"{self.name}{suffix}", PORT)

    @contextlib.contextmanager
    def connect(self, suffix: str = "") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Connect to a Service, until the block ends."""
        with connection(self.way(suffix), self.password()) as open_connection:
            yield open_connection

    def ask(self, sql: str, suffix: str = "") -> Any:
        """Return the first value of an answer; who comes while there is none to give asks again."""
        found: list[Any] = []

        def asked() -> bool:
            with self.connect(suffix) as open_connection:
                done = open_connection.execute(sql)
                row = done.fetchone() if done.description is not None else None
                found.append(None if row is None else row[0])
            return True

        until(asked, f"an answer of {self.name}{suffix}")
        return found[-1]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Write all the time, through the gateways; afterwards every acknowledged row is there."""
        writer = Writer(self.way(), self.password(), self._last_written() + 1)
        writer.thread.start()
        try:
            writer.wait_for_more()
            yield writer
            writer.wait_for_more()
        finally:
            writer.stop.set()
            writer.thread.join()
        missing = set(writer.acknowledged) - self._written()
        assert not missing, f"{len(missing)} acknowledged rows are lost"

    def _last_written(self) -> int:
        """Return the largest number that was written; there is a table afterwards."""
        self.ask("create table if not exists written (n bigint primary key)")
        return int(self.ask("select coalesce(max(n), 0) from written"))

    def _written(self) -> set[int]:
        """Return all rows that are there; whoever comes to a gateway that has gone tries again."""
        found: set[int] = set()

        def read() -> bool:
            with self.connect() as open_connection:
                rows = open_connection.execute("select n from written").fetchall()
            found.update(row[0] for row in rows)
            return True

        until(read, "what was written")
        return found


@dataclass
class Writer:
    """A client that inserts one row after the other."""

    way: Way
    password: str = field(repr=False)
    number: int
    acknowledged: list[int] = field(default_factory=list)
    connections: int = 0
    errors: list[str] = field(default_factory=list)
    gap_s: float = 0.0
    """The longest time between two acknowledged rows."""

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        self.last_s = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def wait_for_more(self) -> None:
        """Wait until it has written again, and a few rows more."""
        wanted = len(self.acknowledged) + 10
        until(lambda: len(self.acknowledged) >= wanted, "writes")

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                with connection(self.way, self.password) as open_connection:
                    self.connections += 1
                    while not self.stop.is_set() and not open_connection.closed:
                        self._write(open_connection)
            except (psycopg.Error, RigError) as error:
                self.errors.append(str(error))
            self.stop.wait(PAUSE_S)

    def _write(self, open_connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Write a row. A number is used once: whether there is a row that nobody acknowledged does
        not matter.
        """
        self.number += 1
        try:
            open_connection.execute("insert into written values (%s)", [self.number])
        except psycopg.Error as error:
            self.errors.append(str(error))
        else:
            self.acknowledged.append(self.number)
            now_s = time.monotonic()
            self.gap_s, self.last_s = max(self.gap_s, now_s - self.last_s), now_s
        self.stop.wait(PAUSE_S)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something; whoever cannot be asked at the moment is asked again."""
    reason = ""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        try:
            if condition():
                return
        except (RigError, psycopg.Error) as error:
            reason = f" ({error})"
        time.sleep(LOOK_S)
    raise RigError(f"waited {PATIENCE_S:g} s for {what}, in vain{reason}")


@contextlib.contextmanager
def connection(way: Way, password: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect as applications do that want to know soon when a peer has gone."""
    with (
        way() as (host, port),
        psycopg.connect(
            host=host, port=port, user="postgres", password=password, dbname="postgres",
            autocommit=True, sslmode="require", connect_timeout=CONNECT_S,
            tcp_user_timeout=CONNECT_S * 1000,
            keepalives_idle=1, keepalives_interval=1, keepalives_count=2,
        ) as open_connection,
    ):  # fmt: skip
        yield open_connection
