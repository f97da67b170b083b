"""A compute's agent as a process.

    python -P -m sqlnode.compute --config AGENT.toml

Prints one line of JSON on standard output once it reports to the log, and its log on standard
error. Ends on SIGTERM or SIGINT, and its postgres in order before it. Started as root it becomes
the unprivileged user that postgres runs as, before it opens anything.
"""

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401  # before root's rights go: it may lie below /root
import encodings.idna  # noqa: F401  # likewise; looked up when an address is
import fcntl
import gc
import json
import os
import random
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from fabric.ids import Role
from fabric.logs import configure
from fabric.settings import SettingsError, load
from fabric.tls import ClientTls, IdentityError, TlsFiles, client_context
from log_service.client import LogClient
from sqlnode.datadir import ComputeDir
from sqlnode.orphans import adopt_orphans, end_orphans
from sqlnode.postgres_settings import SettingsError as PostgresSettingsError
from sqlnode.postgres_settings import require_short_socket_path
from sqlnode.privileges import Identity, PrivilegeError, choose_identity, drop
from sqlnode.processes import allow_open_files
from sqlnode.server_copy import server_to_run
from sqlnode.servers import ServerBinaries, ServerError
from storage.client import StorageClient

from .agent import Agent
from .aside import put_aside
from .configuration import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    PASSWORD_FILE,
    SERVER_CERTIFICATE_FILE,
    SERVER_KEY_FILE,
    password_file,
)
from .metrics import metrics_of
from .server import Context
from .settings import AgentSettings

LOCK_FILE = "compute.lock"

log = structlog.get_logger()


class AgentError(Exception):
    """The agent cannot run; the sentence says what to do."""


REFUSALS = (
    AgentError,
    IdentityError,
    OSError,
    PostgresSettingsError,
    PrivilegeError,
    ServerError,
    SettingsError,
    ValueError,  # an address that is none
)


def main() -> int:
    """Run until told to stop; 1 and one sentence when that is not possible."""
    parser = argparse.ArgumentParser(prog="sqlnode.compute", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the settings")
    arguments = parser.parse_args()
    try:
        settings = load(AgentSettings, arguments.config, os.environ)
        configure(settings.logs, component="compute", stream=sys.stderr)
        identity = choose_identity()
        binaries = server_to_run(settings.pg_version, settings.pg_bin, identity)
        identity.make_directory(Path(settings.run_dir))
        private = _private_files(settings)
        drop(identity)
        allow_open_files()
        _prepare(settings, private)
        return uvloop.run(_serve(settings, binaries, identity))
    except REFUSALS as refusal:
        print(f"compute: {refusal}", file=sys.stderr)  # noqa: T201  # before there is a log
        return 1


async def _serve(settings: AgentSettings, binaries: ServerBinaries, identity: Identity) -> int:
    rng = random.Random(os.urandom(16))  # noqa: S311  # spreads reconnections, keeps no secret
    async with (
        LogClient(settings.log_nodes, rng=rng, tls=_tls(settings, Role.LOG)) as log_client,
        StorageClient(
            settings.storage_nodes, rng=rng, tls=_tls(settings, Role.STORAGE)
        ) as storage_client,
    ):
        context = Context(
            settings=settings,
            binaries=binaries,
            identity=identity,
            log_client=log_client,
            storage_client=storage_client,
        )
        agent = Agent(context)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, agent.stop)
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        ready = {"event": "compute agent ready", "clients": settings.client_address}
        print(json.dumps(ready), flush=True)  # noqa: T201  # for whoever started us
        async with metrics_of(agent, settings.metrics):
            await agent.run()
    log.info("compute agent stopped")
    return 0


def _tls(settings: AgentSettings, role: Role) -> ClientTls | None:
    if settings.tls is None:
        return None
    run_dir = Path(settings.run_dir)
    files = TlsFiles(
        ca_file=str(run_dir / CA_FILE),
        certificate_file=str(run_dir / CERTIFICATE_FILE),
        key_file=str(run_dir / KEY_FILE),
    )
    return ClientTls(client_context(files), settings.cluster, role)


def _private_files(settings: AgentSettings) -> dict[str, bytes]:
    """Read what may be root's, for copies that are postgres's: it is strict about rights."""
    found = {}
    if settings.tls is not None:
        found[CA_FILE] = Path(settings.tls.ca_file).read_bytes()
        found[CERTIFICATE_FILE] = Path(settings.tls.certificate_file).read_bytes()
        found[KEY_FILE] = Path(settings.tls.key_file).read_bytes()
    if settings.server_tls is not None:
        found[SERVER_CERTIFICATE_FILE] = Path(settings.server_tls.certificate_file).read_bytes()
        found[SERVER_KEY_FILE] = Path(settings.server_tls.key_file).read_bytes()
    if settings.standby_password is not None:
        found[PASSWORD_FILE] = password_file(settings.standby_password).encode()
    return found


def _prepare(settings: AgentSettings, private: dict[str, bytes]) -> None:
    """Make sure that we are alone, and that nothing is left of whoever was here before."""
    run_dir = Path(settings.run_dir)
    require_short_socket_path(run_dir, settings.listen_address.port)
    _lock(run_dir)
    adopt_orphans()
    paths = ComputeDir(run_dir)
    if end_orphans([paths.data]):
        log.warning("a server of an earlier agent was ended", directory=str(paths.data))
    put_aside(paths, 0)
    for name, content in private.items():
        path = run_dir / name
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)


def _lock(run_dir: Path) -> None:
    """Take the run directory, for as long as this process lives."""
    descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AgentError(f"another agent runs in {run_dir}: stop it, or use another one") from error


if __name__ == "__main__":
    sys.exit(main())
