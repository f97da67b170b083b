"""The commands of a local cluster behind their arguments: what they print, and their exit status.

What goes wrong is a ClusterError; the command line prints its sentence. Each function imports what
it alone needs, because a command should answer before one has time to wonder.
"""

import contextlib
import datetime
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .local.cluster_file import ClusterError, ClusterFile, load, require_owner
from .local.layout import Layout, default_directory

if TYPE_CHECKING:
    from .local.events import Event
    from .local.snapshot import Snapshot
    from .local.up import Held, Wishes

WATCH_S: Final = 2.0


def layout_of(directory: Path | None) -> Layout:
    """Return the cluster that --dir names, or the default one."""
    if directory is None:
        directory = default_directory(os.environ, home=Path.home(), is_root=os.geteuid() == 0)
    return Layout(Path(os.path.realpath(directory)))


# --- Up and down ----------------------------------------------------------------------------------


def up(layout: Layout, wishes: "Wishes", *, is_detached: bool) -> int:
    """Start a cluster: in the background, or in the foreground until it is stopped."""
    from .local.up import take  # noqa: PLC0415  # loads what this command alone needs

    began_s = time.monotonic()
    held = take(layout, wishes, os.environ)
    return _up_detached(held, began_s) if is_detached else _up_attached(held, began_s)


def _up_detached(held: "Held", began_s: float) -> int:
    from .local.display import UpDisplay  # noqa: PLC0415  # see above
    from .local.events import Failed, Ready, decode_event  # noqa: PLC0415  # see above
    from .local.up import detach  # noqa: PLC0415  # see above

    last: Event | None = None
    reads = detach(held)  # before anything has a thread
    with UpDisplay() as display, os.fdopen(reads, "rb") as lines:
        for line in lines:
            last = decode_event(line)
            display.show(last)
            if isinstance(last, Ready):
                break
    if isinstance(last, Failed):
        raise ClusterError(last.sentence)
    if not isinstance(last, Ready):
        raise ClusterError(f"the cluster did not come up: see {held.layout.supervisor_log}")
    print(summary(held.layout, load(held.layout), time.monotonic() - began_s))
    return 0


def _up_attached(held: "Held", began_s: float) -> int:
    from .local.display import UpDisplay  # noqa: PLC0415  # see above
    from .local.events import Failed, Ready, State, Stopping  # noqa: PLC0415  # see above
    from .local.up import supervise  # noqa: PLC0415  # see above

    failures: list[str] = []
    with UpDisplay() as display:

        def report(event: "Event") -> None:
            display.show(event)
            match event:
                case Ready():
                    display.close()
                    seconds = time.monotonic() - began_s
                    print(summary(held.layout, load(held.layout), seconds), flush=True)
                    print("Ctrl-C stops it.", flush=True)
                case State(line=line):
                    display.show_state(line)
                case Stopping():
                    display.close()
                    display.show_state("")
                    print("stopping", file=sys.stderr, flush=True)
                case Failed(sentence=sentence):
                    failures.append(sentence)
                case _:
                    pass

        status = supervise(held, report, log_to=held.layout.supervisor_log, watches=True)
    if failures:
        raise ClusterError(failures[0])
    return status


def summary(layout: Layout, cluster: ClusterFile, seconds: float) -> str:
    """Return what somebody wants to know who has just started a cluster."""
    from .local.urls import urls_of  # noqa: PLC0415  # see above

    nodes = (
        f"{_count(len(cluster.compute_names()), 'compute')}, "
        f"{_count(len(cluster.log), 'log node')}, {_count(len(cluster.storage), 'storage node')}"
        + (", 1 gateway" if cluster.gateways_wanted else "")
    )
    urls = urls_of(layout, cluster)
    gateway = [] if urls.gateway is None else [f"  gateway:   {urls.gateway}"]
    return "\n".join(
        [
            f"cluster {cluster.cluster} is up after {seconds:.1f} s: PostgreSQL "
            f"{cluster.pg_major}, {nodes}",
            f"  connect:   seawall psql{_dir_option(layout)}",
            f"  or with:   {urls.primary}",
            *gateway,
            f"  password:  in {layout.postgres_password}",
        ]
    )


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _dir_option(layout: Layout) -> str:
    return "" if layout == layout_of(None) else f" --dir {layout.top}"


def down(layout: Layout) -> int:
    """Stop a cluster."""
    from .local.control import down as stop  # noqa: PLC0415  # see above

    stop(layout)
    print(f"the cluster in {layout.top} is down; `seawall up` starts it again")
    return 0


def destroy(layout: Layout, *, is_sure: bool) -> int:
    """Delete a cluster with all its data."""
    from .local.control import destroy as delete  # noqa: PLC0415  # see above

    cluster = load(layout)
    if not is_sure:
        if not sys.stdin.isatty():
            raise ClusterError("destroying a cluster deletes its data: say --yes if you mean it")
        question = f"Delete cluster {cluster.cluster} in {layout.top} with all its data? [y/N] "
        if input(question).strip().lower() not in {"y", "yes"}:
            print("nothing was deleted")
            return 1
    delete(layout)
    print(f"the cluster in {layout.top} is gone")
    return 0


# --- Looking --------------------------------------------------------------------------------------


def status(layout: Layout, *, as_json: bool, watches: bool, shows_password: bool) -> int:
    """Print how a cluster is; exit status 0 if it has a primary."""
    from .local.status_report import json_text, table  # noqa: PLC0415  # see above

    require_owner(layout)
    while True:
        snapshot = _snapshot(layout, shows_password=shows_password)
        if watches and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        print(json_text(snapshot) if as_json else table(snapshot), flush=True)
        if not watches:
            return 0 if snapshot.primary is not None else 3
        time.sleep(WATCH_S)


def _snapshot(layout: Layout, *, shows_password: bool = False) -> "Snapshot":
    import asyncio  # noqa: PLC0415  # see above

    from msgspec.structs import replace  # noqa: PLC0415  # see above

    from .local.node_files import postgres_password  # noqa: PLC0415  # see above
    from .local.snapshot import take_snapshot  # noqa: PLC0415  # see above
    from .local.urls import urls_of  # noqa: PLC0415  # see above

    _quiet()
    cluster = load(layout)
    snapshot = asyncio.run(take_snapshot(layout, cluster))
    if shows_password:
        urls = urls_of(layout, cluster, password=postgres_password(layout))
        snapshot = replace(snapshot, urls=urls)
    return snapshot


def doctor(layout: Layout) -> int:
    """Say what is wrong, and what to do; exit status 0 if nothing is."""
    from .local.authority import days_left  # noqa: PLC0415  # see above
    from .local.doctor import Machine, findings  # noqa: PLC0415  # see above
    from .local.node_files import names_of  # noqa: PLC0415  # see above
    from .local.processes import running_pid  # noqa: PLC0415  # see above
    from .local.supervisor import last_words  # noqa: PLC0415  # see above

    require_owner(layout)
    cluster = load(layout)
    names = names_of(cluster)
    disk = shutil.disk_usage(layout.top)
    now = datetime.datetime.now(datetime.UTC)
    days: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(ClusterError):  # a node that was never started has none
            days[name] = days_left(layout.node(name).certificate, now=now)
    machine = Machine(
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        certificate_days=days,
        last_words={
            name: last_words(layout.node(name).log)
            for name in names
            if running_pid(layout.node(name).lock) is None
        },
    )
    found = findings(_snapshot(layout), cluster, machine)
    for finding in found:
        print(f"- {finding}")
    if not found:
        print("all is well")
    return 1 if found else 0


def logs(layout: Layout, node: str | None, *, follows: bool, lines: int) -> int:
    """Print the ends of the logs, and go on with what is written."""
    from .local.logs import follow, tail  # noqa: PLC0415  # see above
    from .local.node_files import names_of  # noqa: PLC0415  # see above

    cluster = load(layout)
    known = (*names_of(cluster), "supervisor")
    if node is not None and node not in known:
        raise ClusterError(f"there is no node {node!r}: choose one of {', '.join(known)}")
    paths = [
        (name, layout.supervisor_log if name == "supervisor" else layout.node(name).log)
        for name in ([node] if node else known)
    ]
    following = follow(paths)  # from where it is now
    width = max(len(name) for name, _ in paths)
    for name, path in paths:
        for line in tail(path, lines):
            print(f"{name:{width}}  {line}")
    while follows:
        name, line = next(following)
        print(f"{name:{width}}  {line}", flush=True)
    return 0


def psql(layout: Layout, arguments: Sequence[str]) -> int:
    """Become psql, connected to the primary."""
    from .local.urls import libpq_environment  # noqa: PLC0415  # see above

    cluster = load(layout)
    own = Path(cluster.pg_bin) / "psql"
    program = str(own) if os.access(own, os.X_OK) else shutil.which("psql")
    if program is None:
        raise ClusterError(
            f"{cluster.pg_bin} has no psql and the search path has none: install PostgreSQL's "
            "client, or connect with the URL of `seawall status`"
        )
    environment = {**os.environ, **libpq_environment(layout, cluster)}
    sys.stdout.flush()
    os.execve(program, [program, *arguments], environment)  # noqa: S606  # psql takes our place


# --- Changing -------------------------------------------------------------------------------------


def switch(layout: Layout, to: str | None, *, by_force: bool) -> int:
    """Make another compute the primary."""
    from .local.control import switch as change  # noqa: PLC0415  # see above

    _quiet()
    began_s = time.monotonic()
    primary = change(layout, to, by_force=by_force)
    print(f"{primary} is the primary after {time.monotonic() - began_s:.1f} s")
    return 0


def scale(layout: Layout, computes: int) -> int:
    """Change how many computes there are."""
    from .local.scale import order_more  # noqa: PLC0415  # see above

    is_ordered = order_more(layout, computes)  # before anything that takes long to load
    from .local.control import order_fewer, wait_complete  # noqa: PLC0415  # see above

    _quiet()
    if is_ordered:
        wait_complete(layout)
    else:
        order_fewer(layout, computes)
    print(f"the cluster has {_count(computes, 'compute')}")
    return 0


def restart(layout: Layout, names: Sequence[str]) -> int:
    """Restart nodes, one after the other."""
    from .local.control import restart as again  # noqa: PLC0415  # see above

    _quiet()
    again(layout, names, lambda name: print(f"restarting {name}", flush=True))
    return 0


def _quiet() -> None:
    """What goes wrong is said once, in a sentence, not by the layers below as well."""
    from fabric.logs import LogSettings, configure  # noqa: PLC0415  # see above

    configure(LogSettings(level="error"), component="seawall", stream=sys.stderr)
