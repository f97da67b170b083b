"""Our compute image with another minor of its PostgreSQL: a layer of Debian's packages on top.

Debian has two minors of its PostgreSQL for most of the time: one in the release, a newer one among
the security updates. The image has one of them, and apt has the other.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from e2e.operator_world import VERSION, image
from e2e.rig.commands import run, text

if TYPE_CHECKING:
    from pathlib import Path

APT_S = 300.0
PACKAGES = (f"postgresql-{VERSION}", f"postgresql-client-{VERSION}")
PLACES = ("usr/lib/postgresql/", "usr/share/postgresql/")
STATUS = "var/lib/dpkg/status"
LAYER = "another-minor.tar"


class Minor(NamedTuple):
    """An image and the version of its packages."""

    version: str
    image: str

    @property
    def number(self) -> tuple[int, ...]:
        """The version as PostgreSQL counts."""
        return tuple(int(part) for part in re.split(r"\D+", self.version)[:2])


def minors(compute: Path, work: Path) -> tuple[Minor, Minor, Path] | None:
    """Return an image of an older and one of a newer minor, and the archive of what is not ours;
    None: apt knows no other minor than ours.
    """
    ours = Minor(_installed(compute), image("compute"))
    listed = text(["apt-cache", "madison", PACKAGES[0]]).splitlines()
    others = {Minor(line.split("|")[1].strip(), "") for line in listed if "|" in line}
    found = max((one for one in others if one.number != ours.number), default=None)
    if found is None:
        return None
    other = found._replace(image=f"{image('compute')}.{found.number[1]}")
    archive = work / "image.tar"
    _write(compute, archive, _layer(other.version, work), other.image)
    old, new = sorted((ours, other), key=lambda one: one.number)
    return old, new, archive


def _installed(compute: Path) -> str:
    """Return the version of the server's package in an image."""
    with tarfile.open(compute) as archive:
        for name in _first_image(archive)["Layers"]:
            with tarfile.open(fileobj=_opened(archive, name)) as layer:
                if STATUS in layer.getnames():
                    status = _opened(layer, STATUS).read().decode()
                    about = status[status.index(f"Package: {PACKAGES[0]}\n") :]
                    return about[about.index("Version: ") :].split()[1]
    raise AssertionError("an image with PostgreSQL has Debian's list of packages")


def _layer(version: str, work: Path) -> bytes:
    """Return a layer with the files of both packages."""
    wanted = [f"{package}={version}" for package in PACKAGES]
    run(["env", f"--chdir={work}", "apt-get", "download", "-qq", *wanted], timeout_s=APT_S)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as layer:
        for package in sorted(work.glob("*.deb")):
            files = run(["dpkg-deb", "--fsys-tarfile", package]).stdout
            with tarfile.open(fileobj=io.BytesIO(files)) as content:
                for member in content:
                    member.name = member.name.removeprefix("./")
                    if member.name.startswith(PLACES):
                        layer.addfile(
                            member, content.extractfile(member) if member.isreg() else None
                        )
    return stream.getvalue()


def _write(compute: Path, output: Path, layer: bytes, name: str) -> None:
    """Write an archive with the compute image, and a layer more."""
    with tarfile.open(compute) as archive, tarfile.open(output, "w") as written:
        first = _first_image(archive)
        for one in dict.fromkeys(first["Layers"]):
            written.addfile(archive.getmember(one), archive.extractfile(one))
        _add(written, LAYER, layer)
        config = json.load(_opened(archive, first["Config"]))
        config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
        config.pop("history", None)  # it is of as many layers as there were
        _add(written, "config.json", json.dumps(config).encode())
        layers = [*first["Layers"], LAYER]
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": layers}]
        _add(written, "manifest.json", json.dumps(manifest).encode())


def _first_image(archive: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any] = json.load(_opened(archive, "manifest.json"))[0]
    return found


def _opened(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    assert file is not None, "it is a file"
    return file


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
