"""One image's docker-archive as several: the same layers, once, under other names and entry points.

What a builder would make of each role's target is the same down to the entry point, so that
building and saving them one by one would be many times the work for the same result.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def write_roles(single: Path, roles: Mapping[str, Sequence[str]], output: Path) -> None:
    """Write an archive with an image for each name and its entry point, from one with any of them.

    The members of both are layers and configurations, and a manifest that names them; whatever else
    an engine has put in is of other formats, and left out.
    """
    unfinished = output.with_name(f".{output.name}")
    with (
        tarfile.open(single) as archive,
        tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as written,
    ):
        image = _only_image(archive)
        config = json.loads(_content(archive, image["Config"]))
        for name in dict.fromkeys(image["Layers"]):
            written.addfile(archive.getmember(name), archive.extractfile(name))
        manifest = []
        for tag, entry_point in roles.items():
            content = _config_with(config, entry_point)
            name = f"{hashlib.sha256(content).hexdigest()}.json"
            _add(written, name, content)
            manifest.append({"Config": name, "RepoTags": [tag], "Layers": image["Layers"]})
        _add(written, MANIFEST, json.dumps(manifest).encode())
    unfinished.replace(output)


def _config_with(config: dict[str, Any], entry_point: Sequence[str]) -> bytes:
    changed = {**config["config"], "Entrypoint": list(entry_point)}
    return json.dumps({**config, "config": changed}).encode()


def _only_image(archive: tarfile.TarFile) -> dict[str, Any]:
    (image,) = json.loads(_content(archive, MANIFEST))
    assert isinstance(image, dict), "an image is an object"
    return image


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, "it is a file"
    return file.read()


def _add(written: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o444
    written.addfile(member, io.BytesIO(content))
