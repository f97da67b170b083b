"""The end of a rig, however far it had come and whoever is left to end it.

The order matters: processes hold namespaces, mounts and cgroups. Every process of a rig is in
one of its network namespaces or below a recorded one, so that even one that was started and not
yet recorded is found.
"""

import os
import shutil
from pathlib import Path

from . import network
from .commands import run
from .layout import Layout
from .nodes import remove_cgroups
from .records import Process, Records

NAMESPACES = Path("/run/netns")


def clean(layout: Layout, *, keep_logs: bool = False) -> None:
    """End all processes of a rig, and remove everything that it has made."""
    records = Records.read(layout.state)
    if records.ready:  # first of all, so that nobody takes one for a rig whose end was interrupted
        records.ready = False
        records.write()
    # The machines' first processes take all others of their pid namespaces along.
    for name, process in sorted(
        records.processes.items(), key=lambda item: not item[0].endswith("/machine")
    ):
        process.kill()
        records.remove(name)
    for process in _processes_in_namespaces():
        process.kill()
    network.delete()
    remove_cgroups()
    for directory in (layout.data, *([] if keep_logs else [layout.state])):
        _unmount_below(directory)
        shutil.rmtree(directory, ignore_errors=not directory.exists())


def remains(layout: Layout) -> bool:
    """Whether there is anything of a rig, dead or alive."""
    return layout.state.exists() or layout.data.exists() or bool(network.existing())


def _processes_in_namespaces() -> list[Process]:
    ours = {os.stat(NAMESPACES / name).st_ino for name in network.existing()}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                inode = os.stat(entry / "ns" / "net").st_ino
            except OSError:
                continue  # it has ended, or is about to
            if inode in ours:
                found.append(Process.of(int(entry.name)))
    return found


def _unmount_below(directory: Path) -> None:
    """Never remove files through a mount: all of ours are in other namespaces, but be sure."""
    mounts = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if line
    ]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(directory):
            run(["umount", "--lazy", mount])
