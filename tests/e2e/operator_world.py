"""What the tests of the operator do with a cluster: apply, wait, ask, write, and lose nothing.

A writer is a client that goes on whatever happens: it counts only what was acknowledged, and at the
end all of that has to be there.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from e2e.rig import RigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.rig import Rig

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
BUILD_S = 1800
SYSTEM = "seawall-system"
PATIENCE_S = 240.0
PAUSE_S = 0.02
LOOK_S = 0.2
CONNECT_S = 2
VERSION = 15  # of the servers that Debian has, and so of the images

Json = dict[str, Any]


def build_images(directory: Path = IMAGES) -> list[Path]:
    """Return archives of our images; a second build of the same sources takes a moment."""
    command = [str(ROOT / "images" / "build"), "--offline-base", "--output", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=BUILD_S)
    if done.returncode:
        raise RigError(f"the images cannot be built: {done.stderr[-4000:]}")
    return sorted(directory.glob("*.tar"))


def install(rig: Rig, images: list[Path]) -> None:
    """Install the operator as a user would; one that is there becomes this one."""
    for archive in images:
        rig.image_import(archive)
    arguments = ["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"]
    rig.helm("upgrade", "--install", "seawall", str(ROOT / "charts" / "seawall"), *arguments)
    rig.kubectl("-n", SYSTEM, "rollout", "restart", "deployment/seawall-operator")
    rig.kubectl("-n", SYSTEM, "rollout", "status", "deployment/seawall-operator")


@dataclass(frozen=True)
class Cluster:
    """One PostgresCluster."""

    rig: Rig
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
        self.rig.kubectl("apply", "-f", "-", given=json.dumps(manifest))

    def kubectl(self, *arguments: str) -> str:
        """Return what kubectl prints, in the cluster's namespace."""
        return self.rig.kubectl("-n", self.namespace, *arguments)

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

    def host(self, suffix: str = "") -> str:
        """Return the address of a Service: of the gateways, or with -primary, -replicas."""
        service = f"{self.name}{suffix}"
        return self.kubectl("get", "svc", service, "-o", "jsonpath={.spec.clusterIP}")

    def connect(self, suffix: str = "") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to a Service."""
        return connection(self.host(suffix), self.password())

    def ask(self, sql: str, suffix: str = "") -> Any:
        """Return the first value of an answer."""
        with self.connect(suffix) as open_connection:
            row = open_connection.execute(sql).fetchone()
            return None if row is None else row[0]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Write all the time, through the gateways; afterwards every acknowledged row is there."""
        with self.connect() as open_connection:
            open_connection.execute("create table if not exists written (n bigint primary key)")
            first = open_connection.execute("select coalesce(max(n), 0) from written").fetchone()
        assert first is not None
        writer = Writer(self.host(), self.password(), int(first[0]) + 1)
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

    host: str
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
                with connection(self.host, self.password) as open_connection:
                    self.connections += 1
                    while not self.stop.is_set() and not open_connection.closed:
                        self._write(open_connection)
            except psycopg.Error as error:
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


def connection(host: str, password: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect as applications do that want to know soon when a peer has gone."""
    return psycopg.connect(
        host=host, user="postgres", password=password, dbname="postgres", autocommit=True,
        sslmode="require", connect_timeout=CONNECT_S, tcp_user_timeout=CONNECT_S * 1000,
        keepalives_idle=1, keepalives_interval=1, keepalives_count=2,
    )  # fmt: skip
