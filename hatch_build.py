"""The wheel's build hook: compile the pagefault library with plain cc.

The library is found beside its sources, in a wheel as in a checkout, so that the package needs no
search path. Warnings are errors: the code runs inside somebody's database.
"""

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PAGEFAULT_DIR = Path("sqlnode") / "pagefault"
C_DIALECT = ["-std=gnu11", "-O2", "-g"]
C_LIBRARY = ["-fPIC", "-shared", "-fvisibility=hidden", "-fno-semantic-interposition"]
C_WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wpointer-arith"]
C_PROTOTYPES = ["-Wstrict-prototypes", "-Wmissing-prototypes"]
C_FLAGS = [*C_DIALECT, *C_LIBRARY, *C_WARNINGS, *C_PROTOTYPES]


def compile_pagefault(root: Path) -> Path:
    """Build libpagefault.so in place and atomically: a running server keeps its own."""
    folder = root / PAGEFAULT_DIR
    target = folder / "libpagefault.so"
    building = folder / f".libpagefault.{os.getpid()}.so"
    sources = sorted(str(path) for path in folder.glob("*.c"))
    compiler = os.environ.get("CC", "cc")
    command = [compiler, *C_FLAGS, "-o", str(building), *sources, "-ldl", "-lpthread"]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError as error:
        raise RuntimeError("no C compiler: install one (Debian, Ubuntu: gcc libc6-dev)") from error
    building.replace(target)
    return target


class PagefaultHook(BuildHookInterface):  # type: ignore[type-arg]  # the plugin API is not generic for users
    """Compile before packing; the result makes the wheel platform-specific."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling, for wheels and for editable installs."""
        compile_pagefault(Path(self.root))
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{platform}"
