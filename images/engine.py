"""The three programs that can build images, as one: docker, podman, buildah."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import Secrets

KNOWN = ("docker", "podman", "buildah")


class BuildError(Exception):
    """The images cannot be built; the sentence says what to do."""


def find_engine(name: str | None) -> "Engine":
    """Return the one asked for, or the first that works: docker's client may lack its engine."""
    for candidate in KNOWN if name is None else (name,):
        if candidate in KNOWN and shutil.which(candidate) is not None:
            probe = subprocess.run([candidate, "info"], check=False, capture_output=True)
            if probe.returncode == 0:
                return Engine(candidate)
    wanted = name or " nor ".join(KNOWN)
    raise BuildError(f"no {wanted} works here: install one (Debian: apt-get install buildah)")


@dataclass(frozen=True, slots=True)
class Engine:
    """One of them, by its name."""

    name: str

    def stored_name(self, tag: str) -> str:
        """Return an image's name in its store: some ask registries for one without a host."""
        return tag if self.name == "docker" else f"localhost/{tag}"

    def has_image(self, name: str) -> bool:
        """Whether it is in the store."""
        verb = ["inspect", "--type", "image"] if self.name == "buildah" else ["image", "inspect"]
        found = subprocess.run([self.name, *verb, name], check=False, capture_output=True)
        return found.returncode == 0

    def import_tree(self, tree: Path, name: str, environment: dict[str, str]) -> None:
        """Make an image of a file system."""
        if self.name != "buildah":
            changes = [f"--change=ENV {name}={value}" for name, value in environment.items()]
            self._run("import", *changes, str(tree), name)
            return
        container = self._output("from", "scratch").strip()
        self._run("add", "--quiet", container, str(tree), "/")
        changes = [f"--env={name}={value}" for name, value in environment.items()]
        self._run("config", *changes, container)
        self._run("commit", "--quiet", "--rm", "--format", "docker", container, name)

    def build(
        self,
        file: Path,
        context: Path,
        *,
        target: str,
        tag: str,
        arguments: dict[str, str],
        secrets: Secrets | None,
    ) -> None:
        """Build one target of a Dockerfile, of layers that are there where they are the same."""
        command = ["build", "--file", str(file), "--target", target]
        command += ["--tag", self.stored_name(tag)]
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        if self.name == "docker":
            command += ["--network", "host"]
        else:
            # chroot needs no OCI runtime and no cgroups: it works inside containers, too.
            command += ["--isolation", "chroot", "--layers", "--pull=false", "--format", "docker"]
        if secrets is not None:
            for name, path in secrets.files.items():
                command += ["--secret", f"id={name},src={path}"]
            command += self._wheels(secrets.wheels)
        self._run(*command, str(context))

    def _wheels(self, folder: Path | None) -> list[str]:
        if folder is None:
            return []
        if self.name == "docker":
            raise BuildError(f"docker cannot mount pip's find-links, {folder}: use podman")
        return ["--volume", f"{folder}:/run/seawall/wheels:ro"]

    def save(self, tag: str, archive: Path) -> None:
        """Write an image into a docker-archive."""
        if self.name == "buildah":
            self._run("push", "--quiet", self.stored_name(tag), f"docker-archive:{archive}")
        else:
            self._run("save", "--output", str(archive), self.stored_name(tag))

    def _run(self, *arguments: str) -> None:
        """Run it, in sight of the user; what it prints is not our answer."""
        try:
            subprocess.run([self.name, *arguments], check=True, stdout=sys.stderr)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"{self.name} {arguments[0]} failed: see its messages") from error

    def _output(self, *arguments: str) -> str:
        return subprocess.run(
            [self.name, *arguments], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
