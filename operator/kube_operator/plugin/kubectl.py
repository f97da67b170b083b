"""kubectl as a subprocess: questions that are answered in JSON, and commands that take our place.

What goes wrong is a PluginError with the sentence that kubectl itself says last.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import msgspec

from kube_operator.kube_port import CLUSTER, Json

CLUSTERS: Final = f"{CLUSTER.plural}.{CLUSTER.group}"
ANSWER_S_MAX: Final = 60.0  # of one question; somebody may have to log in for it
FORWARD_LINES_MAX: Final = 10  # a port-forward says its port in the first or second one


class PluginError(Exception):
    """It cannot be done: the sentence says why."""


class Kubectl:
    """Calls kubectl for one namespace of one Kubernetes."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        program = shutil.which("kubectl", path=environment.get("PATH"))
        if program is None:
            raise PluginError("there is no kubectl on the search path: install it")
        self._environment = environment
        chosen = {"--namespace": namespace, "--kubeconfig": kubeconfig, "--context": context}
        options = [f"{name}={value}" for name, value in chosen.items() if value is not None]
        self._command = [program, *options]

    def get(self, *arguments: str) -> Json:
        """Return what `kubectl get` answers."""
        text = self._run("get", *arguments, "--output=json")
        try:
            return msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise PluginError(f"kubectl answered with something else than JSON: {error}") from error

    def cluster(self, name: str) -> Json:
        """Return a PostgresCluster."""
        return self.get(CLUSTERS, name)

    def annotate(self, name: str, values: Mapping[str, str | None]) -> None:
        """Give a PostgresCluster annotations, all at once; None: take one away."""
        texts = [key + ("-" if text is None else f"={text}") for key, text in values.items()]
        self._run("annotate", "--overwrite", CLUSTERS, name, *texts)

    def become(self, *arguments: str) -> NoReturn:
        """Have kubectl take our place, with our terminal."""
        command = [*self._command, *arguments]
        sys.stdout.flush()
        os.execve(command[0], command, self._environment)  # noqa: S606  # kubectl is what was asked for

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        """Have a local port lead to one of a pod or Service, until the block ends."""
        command = [*self._command, "port-forward", "--address=127.0.0.1", target, f":{port}"]
        for number in (signal.SIGHUP, signal.SIGTERM):  # a closed terminal leaves no way open
            signal.signal(number, _leave)
        # In a session of its own: Ctrl-C is for whoever talks through it.
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
        ) as process:
            try:
                yield _forwarded(process)
            finally:
                process.terminate()

    def _run(self, *arguments: str) -> bytes:
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment,
                timeout=ANSWER_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PluginError(f"kubectl did not answer within {ANSWER_S_MAX:.0f} s") from error
        if done.returncode != 0:
            raise PluginError(complaint(done.stderr))
        return done.stdout


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _forwarded(process: subprocess.Popen[bytes]) -> int:
    """Return the local port that a port-forward says it has."""
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(FORWARD_LINES_MAX):
        line = process.stdout.readline()
        if not line:
            break
        found = re.match(rb"Forwarding from 127\.0\.0\.1:(\d+) ", line)
        if found is not None:
            return int(found[1])
    process.terminate()
    raise PluginError(complaint(process.stderr.read()))


def complaint(stderr: bytes) -> str:
    """Return the last thing that kubectl says as a sentence of ours."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    said = lines[-1].strip() if lines else "kubectl failed and did not say why"
    said = re.sub(r"^(error|Error from server( \(\w+\))?): ", "", said, flags=re.IGNORECASE)
    if "doesn't have a resource type" in said and CLUSTER.plural in said:
        return "this Kubernetes has no PostgresClusters: install the chart of Seawall's operator"
    return said


def verified_name(name: str) -> str:
    """Return a name that kubectl takes for nothing else; PluginError."""
    if re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name) is None:
        raise PluginError(f"{name!r} is no name of a cluster or compute")
    return name


def program_of(name: str, environment: Mapping[str, str], advice: str) -> str:
    """Return where a program is; PluginError with advice if it is not there."""
    found = shutil.which(name, path=environment.get("PATH"))
    if found is None:
        raise PluginError(f"there is no {name} on the search path: {advice}")
    return found


def run_attached(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program with our terminal; its exit status, as shells have it. Ctrl-C is its own."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            while True:
                try:
                    status = process.wait()
                except KeyboardInterrupt:
                    continue  # the program has it, too, and decides what it means
                return status if status >= 0 else 128 - status
        finally:
            if process.poll() is None:
                process.terminate()
