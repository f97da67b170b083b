"""Makes what the tests on Kubernetes need and what takes long: programs, packages, images.

    cd tests && ../.venv/bin/python -m e2e.prepare     # prints the path of helm

`make e2e` would do all this by itself. Who has other things to do meanwhile, as a CI has, runs this
beside them, with low priority: on a new machine it takes a quarter of an hour of two processors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from e2e.operator_world import build_images
from e2e.rig import RigError, build, system

if TYPE_CHECKING:
    from pathlib import Path

# What images/build needs where neither docker nor podman works.
BUILDERS: Final = ("buildah", "mmdebstrap")


def main() -> int:
    """Prepare everything; the exit status."""
    try:
        helm = _prepared()
    except (RigError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"prepare: {error}\n")
        return 1
    sys.stdout.write(f"{helm}\n")
    return 0


def _prepared() -> Path:
    reason = system.why_not()
    if reason is not None:
        raise RigError(reason)
    system.install()
    _install_builders()
    programs = build.programs()
    build_images()
    return programs / "helm"


def _install_builders() -> None:
    missing = [name for name in BUILDERS if shutil.which(name) is None]
    if missing and "SEAWALL_E2E_IMAGES" not in os.environ:
        system.install_packages(missing)


if __name__ == "__main__":
    sys.exit(main())
