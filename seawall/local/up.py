"""`seawall up`, from the command to the supervisor: what is asked for becomes cluster.json.

Everything that can be refused is refused before anything is changed.
"""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from msgspec.structs import replace

from fabric.logs import LogSettings, configure
from sqlnode.orphans import adopt_orphans
from sqlnode.privileges import Identity, PrivilegeError, choose_identity
from sqlnode.servers import ServerBinaries, Source, examine

from .cluster_file import (
    ClusterError,
    ClusterFile,
    LogPorts,
    cluster_name_of,
    is_cluster,
    load,
    require_owner,
    save,
)
from .events import Event, Failed, encode_event
from .launcher import Launcher
from .layout import Layout, run_root_for
from .machine import (
    find_server,
    require_directory,
    require_reachable,
    require_room,
    server_of,
)
from .node_files import listening, names_of, prepare, template_cache
from .ports import (
    GATEWAY_PORT,
    PORT_MAX,
    choose_ports,
    claim,
    ephemeral_min,
    random_first,
    require_free,
)
from .processes import running_pid, take_lock, write_process
from .scale import require_computes, with_computes

HA: Final = (3, 2, 2)
SMALL: Final = (1, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says; None: whatever is there already, or the default."""

    ha: bool = False
    port: int | None = None
    pg_version: int | None = None
    pg_bin: Path | None = None
    computes: int | None = None
    gateway: bool = True
    gateway_port: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A cluster whose lock we have: nobody else supervises it."""

    layout: Layout
    cluster: ClusterFile
    identity: Identity
    server: ServerBinaries
    lock: int
    template: int
    """The pidfd of whoever makes the template of a new database, or -1."""


def take(layout: Layout, wishes: Wishes, environ: Mapping[str, str]) -> Held:
    """Take the lock of a directory, and write down what is wanted; or refuse in one sentence."""
    require_owner(layout)
    refuse_wishes(wishes)
    try:
        identity = choose_identity()
    except PrivilegeError as error:
        raise ClusterError(str(error)) from error
    existing = load(layout) if is_cluster(layout.top) else None
    if existing is None:
        require_directory(layout.top)
        server = find_server(wishes.pg_version, wishes.pg_bin, environ, identity)
        log, storage, computes = HA if wishes.ha else SMALL
        computes = wishes.computes or computes
        gateways = int(wishes.gateway)
        require_room(layout.top, log=log, storage=storage, computes=computes, gateways=gateways)
    else:
        refuse_changes(layout, existing, wishes)
        server = server_of(existing, wishes.pg_bin, environ, identity)
    try:
        _make_top(layout.top)
    except OSError as error:
        raise ClusterError(
            f"{layout.top} cannot be made ({error.strerror}): name another directory with --dir"
        ) from error
    require_reachable(layout.top, identity)
    lock = _lock(layout)
    cluster = (
        _new_cluster(layout, wishes, server, identity)
        if existing is None
        else _changed(load(layout), wishes, server)
    )
    _require_ports(layout, cluster)
    template = -1 if cluster.is_founded else _make_template(server, identity)
    save(layout, cluster)
    prepare(layout, cluster, identity=identity)
    return Held(layout, cluster, identity, server, lock, template)


def supervise(
    held: Held, report: Callable[[Event], None], *, log_to: Path, watches: bool = False
) -> int:
    """Be the supervisor until told to stop; the exit status. `watches`: report the state, too."""
    adopt_orphans()  # nodes outlive the launcher that forks them, and are to be our children
    launcher = _begin(held)
    from .supervisor import Supervisor  # noqa: PLC0415  # takes as long as the launcher's loading

    async def run() -> None:
        supervisor = Supervisor(
            held.layout,
            identity=held.identity,
            template=held.template,
            launcher=launcher,
            report=report,
            watches=watches,
        )
        await supervisor.run()

    with log_to.open("a", encoding="utf-8") as stream:
        configure(LogSettings(), component="supervisor", stream=stream)
        try:
            asyncio.run(run())
        except ClusterError as error:
            report(Failed(str(error)))
            return 1
    return 0


def _begin(held: Held) -> Launcher:
    """Have the nodes started that do not run, while we load what we need to watch them."""
    launcher = Launcher(held.layout)
    names = names_of(held.cluster)
    down = tuple(name for name in names if running_pid(held.layout.node(name).lock) is None)
    if down:
        with contextlib.suppress(OSError):  # the supervisor will try, and say why not
            launcher.launch(down)
    return launcher


def detach(held: Held) -> int:
    """Fork a supervisor that nothing of ours can end; the descriptor from which events come."""
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.close(reads)
        _be_in_the_background(held, writes)
    os.close(writes)
    os.close(held.lock)  # the other one's now
    return reads


def _be_in_the_background(held: Held, writes: int) -> NoReturn:
    status = 1
    try:
        write_process(held.lock)
        nothing = os.open(os.devnull, os.O_RDWR)
        log = os.open(held.layout.supervisor_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, number)
        os.chdir("/")

        def report(event: Event) -> None:
            with contextlib.suppress(BrokenPipeError):  # whoever started us has gone
                os.write(writes, encode_event(event))

        status = supervise(held, report, log_to=held.layout.supervisor_log)
    finally:
        os._exit(status)  # we are a copy: what the original wants done at its end is not ours


# --- What is refused ------------------------------------------------------------------------------


def refuse_wishes(wishes: Wishes) -> None:
    """Refuse numbers that no cluster has."""
    if wishes.computes is not None:
        require_computes(wishes.computes)
    for port in (wishes.port, wishes.gateway_port):
        if port is not None and not 1 <= port <= PORT_MAX:
            raise ClusterError(f"port {port} is none: choose one of 1 to 65535")
    if wishes.gateway_port is not None and not wishes.gateway:
        raise ClusterError("--gateway-port and --no-gateway exclude each other: choose one")
    if wishes.gateway_port is not None and wishes.gateway_port == wishes.port:
        raise ClusterError(f"port {wishes.port} cannot be both a compute's and the gateway's")


def refuse_changes(layout: Layout, cluster: ClusterFile, wishes: Wishes) -> None:
    """Refuse what would have to change in a cluster that exists, and cannot."""
    if wishes.ha and len(cluster.log) < HA[0]:
        raise ClusterError(
            f"the cluster in {layout.top} was made without --ha: name another directory with "
            "--dir, or leave --ha out"
        )
    if wishes.pg_version is not None and wishes.pg_version != cluster.pg_major:
        raise ClusterError(
            f"the cluster in {layout.top} is of PostgreSQL {cluster.pg_major}, not "
            f"{wishes.pg_version}: name another directory with --dir"
        )
    if wishes.pg_bin is not None:
        major = examine(wishes.pg_bin, Source.NAMED).version.major
        if major != cluster.pg_major:
            raise ClusterError(
                f"the cluster in {layout.top} is of PostgreSQL {cluster.pg_major}, and "
                f"{wishes.pg_bin} has {major}: name a server of the same major"
            )
    for wanted, ports in (
        (wishes.port, cluster.computes),
        (wishes.gateway_port, cluster.gateways),
    ):
        for name, port in list(ports.items())[:1]:
            if wanted not in {None, port} and running_pid(layout.node(name).lock):
                raise ClusterError(
                    f"{name} runs on port {port}: run `seawall down` first, then choose another"
                )


def _lock(layout: Layout) -> int:
    lock = take_lock(layout.lock)
    if lock is None:
        pid = running_pid(layout.lock)
        raise ClusterError(
            f"the cluster in {layout.top} is supervised already"
            + (f" (process {pid})" if pid else "")
            + ": see `seawall status`, or stop it with `seawall down`"
        )
    return lock


def _require_ports(layout: Layout, cluster: ClusterFile) -> None:
    """Refuse ports that others have; nodes that run already have their own."""
    down = (name for name in names_of(cluster) if running_pid(layout.node(name).lock) is None)
    require_free(listening(cluster, down))


# --- What is made ---------------------------------------------------------------------------------


def _make_top(top: Path) -> None:
    """Make the directory: root's can be passed through by the user that the nodes run as."""
    mode = 0o711 if os.geteuid() == 0 else 0o700
    top.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    top.mkdir(mode=mode, exist_ok=True)
    top.chmod(mode)


def _new_cluster(
    layout: Layout, wishes: Wishes, server: ServerBinaries, identity: Identity
) -> ClusterFile:
    logs, stores, computes = HA if wishes.ha else SMALL
    computes = wishes.computes or computes
    ceiling, count = ephemeral_min(), 2 * logs + stores
    first = random_first(count, ceiling=ceiling, below=secrets.randbelow)
    named = () if wishes.port is None else (wishes.port,)
    internal = iter(choose_ports(count, first=first, ceiling=ceiling, taken=named, is_free=claim))
    log = {f"log-{n + 1}": LogPorts(next(internal), next(internal)) for n in range(logs)}
    storage = {f"storage-{n + 1}": next(internal) for n in range(stores)}
    found = with_computes({}, computes, first_port=wishes.port)
    return ClusterFile(
        cluster=cluster_name_of(layout.top),
        pg_bin=str(server.bin_dir),
        pg_major=server.version.major,
        log=log,
        storage=storage,
        computes=found,
        computes_wanted=computes,
        gateways=with_gateway({}, wishes, taken={*found.values(), *storage.values()}),
        gateways_wanted=int(wishes.gateway),
        run_root=str(run_root_for(layout.top, identity)) if layout.needs_run_root() else None,
    )


def _changed(cluster: ClusterFile, wishes: Wishes, server: ServerBinaries) -> ClusterFile:
    computes = dict(cluster.computes)
    if wishes.port is not None:
        computes[next(iter(computes))] = wishes.port
    wanted = wishes.computes or cluster.computes_wanted
    computes = with_computes(computes, wanted)
    taken = {*computes.values(), *cluster.storage.values()}
    return replace(
        cluster,
        pg_bin=str(server.bin_dir),
        computes=computes,
        computes_wanted=wanted,
        gateways=with_gateway(cluster.gateways, wishes, taken=taken),
        gateways_wanted=int(wishes.gateway),
    )


def with_gateway(
    gateways: Mapping[str, int], wishes: Wishes, *, taken: Collection[int]
) -> dict[str, int]:
    """Return the gateways, with a port for the first one if there is none yet: it stays with it.

    Where the usual port is taken there are several clusters, and chance keeps them apart.
    """
    if wishes.gateway_port is not None:
        return {**gateways, "gateway-1": wishes.gateway_port}
    if gateways or not wishes.gateway:
        return dict(gateways)
    if GATEWAY_PORT not in taken and claim(GATEWAY_PORT):
        return {"gateway-1": GATEWAY_PORT}
    ceiling = ephemeral_min()
    first = random_first(1, ceiling=ceiling, below=secrets.randbelow)
    (port,) = choose_ports(1, first=first, ceiling=ceiling, taken=taken, is_free=claim)
    return {"gateway-1": port}


def _make_template(server: ServerBinaries, identity: Identity) -> int:
    """Begin to make what a new database is made of, beside everything else; return a pidfd."""
    pid = os.fork()
    if pid == 0:
        try:
            from storage.first_cut import make_template  # noqa: PLC0415  # in this process alone

            make_template(server, template_cache(identity), identity=identity)
        finally:
            os._exit(0)  # whatever went wrong: the storage node will meet it, too, and say so
    return os.pidfd_open(pid)
