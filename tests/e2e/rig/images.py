"""Images without docker: archives that `ctr images import` reads, and the two that the rig needs.

An archive is of docker's format: one layer, a configuration and a manifest in a tar. Everything in
it has a fixed time and order, so that the same files make the same image.
"""

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run
from .errors import RigError

PAUSE_IMAGE = "seawall.dev/e2e/pause:1"
BUSYBOX_IMAGE = "seawall.dev/e2e/busybox:1"
BUSYBOX = Path("/bin/busybox")
ROOT_EXECUTABLE = 0o755
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # Go's names


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image is made of: files by their path within it."""

    name: str
    files: Mapping[str, bytes]  # all of them executable: these are programs
    links: Mapping[str, str]  # symbolic ones, by path
    entrypoint: Sequence[str]
    user: str = "65532:65532"  # nobody in particular, and not root

    def archive(self, path: Path) -> Path:
        """Write the image as an archive."""
        layer = self._layer()
        digest = hashlib.sha256(layer).hexdigest()
        configuration = json.dumps(
            {
                "architecture": ARCHITECTURES[platform.machine()],
                "os": "linux",
                "config": {
                    "Entrypoint": list(self.entrypoint),
                    "User": self.user,
                    "Env": ["PATH=/bin"],
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        ).encode()
        manifest = [{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]
        with tarfile.open(path, "w") as archive:
            _add(archive, "manifest.json", json.dumps(manifest).encode())
            _add(archive, "config.json", configuration)
            _add(archive, "layer.tar", layer)
        return path

    def _layer(self) -> bytes:
        stream = io.BytesIO()
        folders = {
            str(folder)
            for path in (*self.files, *self.links, "tmp/x")
            for folder in Path(path).parents
            if str(folder) != "."
        }
        with tarfile.open(fileobj=stream, mode="w") as layer:
            for folder in sorted(folders):
                entry = tarfile.TarInfo(folder)
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o1777 if folder == "tmp" else ROOT_EXECUTABLE
                layer.addfile(entry)
            for path, content in sorted(self.files.items()):
                _add(layer, path, content)
            for path, target in sorted(self.links.items()):
                entry = tarfile.TarInfo(path)
                entry.type = tarfile.SYMTYPE
                entry.linkname = target
                layer.addfile(entry)
        return stream.getvalue()


def compile_pause(target: Path) -> Path:
    """Compile the first process of pods and machines, as a static program."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RigError("no C compiler was found: install gcc and libc6-dev")
    source = Path(__file__).with_name("pause.c")
    run([compiler, "-static", "-Os", "-s", "-Wall", "-Werror", "-o", target, source])
    return target


def pause_image(program: Path) -> Image:
    """The image of a pod's sandbox."""
    return Image(
        name=PAUSE_IMAGE, files={"pause": program.read_bytes()}, links={}, entrypoint=["/pause"]
    )


def busybox_image() -> Image:
    """A shell and small tools for pods of tests, from Debian's static build."""
    if not BUSYBOX.exists():
        raise RigError(f"{BUSYBOX} does not exist: install busybox-static")
    applets = run([BUSYBOX, "--list"]).stdout.decode().split()
    return Image(
        name=BUSYBOX_IMAGE,
        files={"bin/busybox": BUSYBOX.read_bytes()},
        links={f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"},
        entrypoint=["/bin/sh"],
    )


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    entry.mode = ROOT_EXECUTABLE
    archive.addfile(entry, io.BytesIO(content))
