"""What the rig needs of the system, and how it gets there: Debian's packages, as root.

containerd's package starts its service. The rig runs a containerd of its own on each node and wants
none on the host, so while packages are installed a policy forbids to start anything; the policy
that was there before is put back.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .build import find_go
from .commands import PATH, run
from .errors import RigError

# A file that tells that a package is there, and the package's name in Debian and Ubuntu.
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "busybox": "busybox-static",
    "cc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
}
POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = 101  # the exit status that means "do not start it" to Debian
INSTALL_TIMEOUT_S = 900.0
NEEDED_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")


def why_not() -> str | None:
    """Why the rig cannot run on this machine, in one sentence; None if it can."""
    try:
        _refuse()
    except RigError as error:
        return str(error)
    return None


def _refuse() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise RigError("the rig runs on Linux, on x86-64 or ARM64")
    if os.geteuid() != 0:
        raise RigError("the rig makes network namespaces and cgroups: run it as root")
    if "overlay" not in Path("/proc/filesystems").read_text():
        raise RigError("the kernel has no overlayfs, which containers need")
    _refuse_cgroups()
    find_go()
    if missing() and shutil.which("apt-get") is None:
        raise RigError(f"install {' '.join(missing())} with the system's package manager")
    probe = ["unshare", "--mount", "--pid", "--fork", "--net", "mount", "-t", "proc", "proc"]
    if run([*probe, "/proc"], check=False).returncode != 0:
        raise RigError("this machine lets nobody make namespaces, not even root")


def _refuse_cgroups() -> None:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        found = unified.read_text().split()
    else:
        found = [folder.name for folder in Path("/sys/fs/cgroup").iterdir() if folder.is_dir()]
    for controller in NEEDED_CONTROLLERS:
        if not any(controller in name.split(",") for name in found):
            raise RigError(f"there is no cgroup controller `{controller}`, which kubelet needs")
    if not os.access("/sys/fs/cgroup", os.W_OK):
        raise RigError("cgroups cannot be made here: /sys/fs/cgroup is read-only")


def missing() -> list[str]:
    """The packages that are to be installed."""
    packages = {
        package
        for file, package in PACKAGES.items()
        if not (Path(file).exists() if file.startswith("/") else shutil.which(file, path=PATH))
    }
    return sorted(packages)


def install() -> None:
    """Install what is missing."""
    packages = missing()
    if packages:
        with service_is_not_enabled("containerd"):
            install_packages(packages)


def install_packages(packages: list[str]) -> None:
    """Install packages of Debian, and start nothing that they bring."""
    print(f"rig: installing {' '.join(packages)}", file=sys.stderr, flush=True)  # noqa: T201  # progress
    run(["apt-get", "update", "-qq"], timeout_s=INSTALL_TIMEOUT_S)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "apt-get", "install"]
    apt += ["-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=600"]
    with no_service_is_started():
        run([*apt, *packages], timeout_s=INSTALL_TIMEOUT_S)


@contextmanager
def no_service_is_started() -> Iterator[None]:
    """Forbid packages to start services for as long as the block lasts."""
    before = POLICY.with_name("policy-rc.d.before-seawall")
    if POLICY.exists() and not before.exists():  # else an earlier run was killed here
        POLICY.rename(before)
    try:
        POLICY.write_text(f"#!/bin/sh\nexit {FORBIDDEN}\n")
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink(missing_ok=True)
        if before.exists():
            before.rename(POLICY)


@contextmanager
def service_is_not_enabled(name: str) -> Iterator[None]:
    """Keep a service that comes with a package from starting at the next boot."""
    was_there = shutil.which(name, path=PATH) is not None
    yield
    if not was_there and shutil.which("systemctl") is not None:
        run(["systemctl", "disable", f"{name}.service"], check=False)
