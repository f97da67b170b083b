"""What this machine knows of package mirrors, as files that a build may see but not keep.

pip's and apt's own tools are asked, so that it does not matter where the settings come from.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What says where packages come from. The rest (caches, targets, users) is this machine's affair.
PIP_SETTINGS: Final = (
    "default-timeout", "extra-index-url", "find-links", "index-url", "no-index", "proxy", "retries",
    "timeout", "trusted-host",
)  # fmt: skip
APT_SETTINGS: Final = ("Acquire::Check-", "Acquire::Retries", "Acquire::http")
AUTHORITIES: Final = ("PIP_CERT", "SSL_CERT_FILE")


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of a build by their id, and a folder of wheels that pip is to look into."""

    files: dict[str, Path]
    wheels: Path | None


def machine_secrets(
    folder: Path, *, etc_apt: Path = Path("/etc/apt"), environment: Mapping[str, str] = os.environ
) -> Secrets:
    """Write the secrets into a folder that only we can read; empty files for what there is not."""
    settings = pip_settings(_output([sys.executable, "-m", "pip", "config", "list"]))
    texts = {
        "pip_conf": pip_conf(settings),
        "apt_list": _joined(etc_apt, "list"),
        "apt_sources": _joined(etc_apt, "sources"),
        "apt_conf": apt_conf(_output(["apt-config", "dump"])),
        "ca_certificates": _authorities(settings, environment),
    }
    files = {}
    for name, text in texts.items():
        files[name] = folder / name
        files[name].write_text(text, encoding="utf-8")
    return Secrets(files, wheel_folder(settings.get("find-links", "")))


def pip_settings(listed: str) -> dict[str, str]:
    """Read `pip config list`: the environment, which is listed with a prefix, has the last word."""
    found: dict[str, str] = {}
    for from_environment in (False, True):
        for line in listed.splitlines():
            name, separator, value = line.partition("=")
            if separator and name.startswith(":env:") == from_environment:
                found[name.rpartition(".")[2]] = value.strip("'\"").replace("\\n", " ")
    return found


def pip_conf(settings: Mapping[str, str]) -> str:
    """Return pip's configuration file; folders of this machine are not there in a build."""
    lines = ["[global]"]
    for name in PIP_SETTINGS:
        words = settings.get(name, "").split()
        if name == "find-links":
            words = [word for word in words if "://" in word]
        if words:
            lines.append(f"{name} =" + "".join(f"\n    {word}" for word in words))
    return "\n".join(lines) + "\n"


def wheel_folder(find_links: str) -> Path | None:
    """Return the first local folder of `find-links` that has any wheel."""
    for word in find_links.split():
        if word.startswith("/") and any(Path(word).glob("*.whl")):
            return Path(word)
    return None


def apt_conf(dump: str) -> str:
    """Return what `apt-config dump` says of how to reach mirrors, in the syntax that it has."""
    lines = (line for line in dump.splitlines() if line.startswith(APT_SETTINGS))
    return "".join(f"{line}\n" for line in lines)


def _joined(etc_apt: Path, suffix: str) -> str:
    files: Iterable[Path] = sorted((etc_apt / "sources.list.d").glob(f"*.{suffix}"))
    if suffix == "list":
        files = [etc_apt / "sources.list", *files]
    return "".join(file.read_text(encoding="utf-8") + "\n\n" for file in files if file.is_file())


def _authorities(settings: Mapping[str, str], environment: Mapping[str, str]) -> str:
    for name in (settings.get("cert"), *(environment.get(name) for name in AUTHORITIES)):
        if name and Path(name).is_file():
            return Path(name).read_text(encoding="utf-8")
    return ""


def _output(command: list[str]) -> str:
    """What a program prints; nothing where it is missing or has nothing to say."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout
