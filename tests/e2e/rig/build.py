"""Builds the programs of the cluster from their Go modules, once for each version of them.

Each folder of modules/ is a Go module that pins one project (its go.mod and go.sum are what is
trusted); the results go to `seawall-tests/kubernetes/KEY` below the user's cache. KEY is a hash of
those files, of the recipe below and of Go's version, so that a change of any makes another build
and an old one stays usable. A build happens aside and is renamed when it is whole; whoever comes
meanwhile waits for it. What Go downloads and compiles on the way is kept until the build succeeds,
so that one that was interrupted goes on where it was, and is removed then.

The programs are pure Go (no C), stripped, and without paths of this machine.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import RigError

MODULES = Path(__file__).with_name("modules")
KUBERNETES_VERSION = "1.34.4"
GO_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")
BUILD_TIMEOUT_S = 7200  # 10 minutes on two idle cores; hours when others use them
LOG_LINES_SHOWN = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program: its module's folder, and the package that is its main."""

    name: str
    module: str
    package: str


KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
PROGRAMS = (
    Program(name="etcd", module="etcd", package="go.etcd.io/etcd/server/v3"),
    Program(name="coredns", module="coredns", package="."),
    Program(name="helm", module="helm", package="helm.sh/helm/v3/cmd/helm"),
    *(
        Program(name=name, module="kubernetes", package=f"k8s.io/kubernetes/cmd/{name}")
        for name in KUBERNETES
    ),
)


def programs() -> Path:
    """The directory with every program, which are built first if need be."""
    go = find_go()
    target = cache() / _key(go)
    if not target.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with _lock(cache() / "lock"):
            if not target.exists():  # else somebody has built it while we waited
                _build(go, target)
    return target


def built() -> bool:
    """Whether the programs are there already."""
    return (cache() / _key(find_go())).exists()


def cache() -> Path:
    """Where results stay, beside what other tests have fetched."""
    parent = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(parent) / "seawall-tests" / "kubernetes"


def find_go() -> str:
    """The Go command; RigError if there is none that is new enough."""
    for candidate in (shutil.which("go"), *GO_PLACES):
        if candidate is not None and os.access(candidate, os.X_OK):
            wanted, found = _wanted_go(), _version(candidate)
            if found < wanted:
                text = ".".join(str(part) for part in wanted)
                raise RigError(f"{candidate} is too old to build Kubernetes: install Go {text}")
            return candidate
    raise RigError("Go is not installed, and the programs of the cluster are built with it")


def _wanted_go() -> tuple[int, ...]:
    for line in (MODULES / "kubernetes" / "go.mod").read_text().splitlines():
        if line.startswith("go "):
            return _numbers(line.removeprefix("go "))
    raise RigError("modules/kubernetes/go.mod names no version of Go: restore it")


def _version(go: str) -> tuple[int, ...]:
    return _numbers(_go_version(go).removeprefix("go"))


def _numbers(version: str) -> tuple[int, ...]:
    digits = version.partition("-")[0].partition("rc")[0].split(".")
    return tuple(int(part) for part in digits if part.isdigit())


def _go_version(go: str) -> str:
    command = [go, "env", "GOVERSION"]
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RigError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _key(go: str) -> str:
    digest = hashlib.sha256(f"{_go_version(go)} {PROGRAMS} {_flags()}".encode())
    for file in sorted(MODULES.glob("*/*")):
        digest.update(f"{file.relative_to(MODULES)}\0".encode() + file.read_bytes() + b"\0")
    return f"{KUBERNETES_VERSION}-{digest.hexdigest()[:16]}"


def _flags() -> list[str]:
    version = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES_VERSION.split(".")
    values = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    values["gitTreeState"] = "clean"
    linker = ["-s", "-w", *(f"-X {version}.{name}={value}" for name, value in values.items())]
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", " ".join(linker)]


def _build(go: str, target: Path) -> None:
    aside = target.with_name(f"{target.name}.building")
    result, work = aside / "programs", aside / "work"
    for folder in (result, work):
        folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for number, program in enumerate(PROGRAMS, start=1):
        if not (result / program.name).exists():
            _say(f"building {program.name} ({number} of {len(PROGRAMS)})")
            _build_program(go, program, result, work)
    result.rename(target)
    shutil.rmtree(aside)
    _say(f"built {target} in {time.monotonic() - started:.0f} s")


def _build_program(go: str, program: Program, result: Path, work: Path) -> None:
    """Build one program; the file appears when it is whole."""
    half = work / program.name
    command = [go, "build", *_flags(), "-o", str(half), program.package]
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOCACHE": str(work / "compiled"),
        "GOFLAGS": "-modcacherw",  # else the downloads could not be removed
        "GOMODCACHE": str(work / "downloaded"),
        "GOTOOLCHAIN": "local",  # the one that is part of the key
    }
    log = work / f"{program.name}.log"
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            cwd=MODULES / program.module,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
    if done.returncode != 0:
        end = "\n  ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
        raise RigError(f"{program.name} cannot be built; the end of {log} is\n  {end}")
    half.rename(result / program.name)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another build")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"rig: {text}", file=sys.stderr, flush=True)  # noqa: T201  # a build tells its progress
