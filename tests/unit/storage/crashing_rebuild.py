"""A process that rebuilds a data directory and is killed on the way.

    python -m unit.storage.crashing_rebuild OBJECTS DATA_DIR STEP COUNT

Ends itself with SIGKILL before the COUNT-th STEP: an audit event of Python's, like `os.rename`, or
`page`.
"""

import os
import signal
import sys
from pathlib import Path

from unit.storage.snapshot_world import LAYOUT

from object_store.directory import DirectoryStore
from storage.rebuilding import rebuild


def main() -> None:
    objects, data_dir, step, count = sys.argv[1:]
    left = int(count)

    def reached(event: str, _: object) -> None:
        nonlocal left
        if event == step:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    store = DirectoryStore(Path(objects))
    sys.addaudithook(reached)
    rebuild(store, LAYOUT, Path(data_dir), progress=lambda _: reached("page", None))


if __name__ == "__main__":
    main()
