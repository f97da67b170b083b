"""Debian's pgbouncer, to be compared with: as fast and as simple as it can be set up.

Sessions, no logging of connections, no TLS to the server. It knows the SCRAM verifier and not the
password, like the gateway: so a login costs it no hashing of passwords either, and it logs in to
the server with the keys that the client's own login has shown.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.faults.target import TargetError
from bench.node_process import free_ports, node_environment
from bench.pagefault.workspace import Workspace

from .certificate import Certificate
from .credentials import HOST, USER
from .ways import Way

CLIENTS_MAX: Final = 12_000
LINKS_MAX: Final = 80  # a compute has room for 100 connections; others have some, too
READY_DEADLINE_S: Final = 10.0
READY_LOOK_S: Final = 0.02
STOP_DEADLINE_S: Final = 5.0
SEARCHED_BESIDES: Final = "/usr/sbin"  # where Debian puts it, and where not everybody looks


def find_pgbouncer(search_path: str) -> Path:
    """Return the program; TargetError says how to get it."""
    found = shutil.which("pgbouncer", path=f"{search_path}{os.pathsep}{SEARCHED_BESIDES}")
    if found is None:
        raise TargetError("there is no pgbouncer to compare with: apt-get install pgbouncer")
    return Path(found)


def ini_text(
    directory: Path, *, port: int, server_port: int, certificate: Certificate | None
) -> str:
    """Return its settings. What is not said is as it ships."""
    settings: dict[str, object] = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": directory / "users.txt",
        "pool_mode": "session",
        "max_client_conn": CLIENTS_MAX,
        "default_pool_size": LINKS_MAX,
        "ignore_startup_parameters": "extra_float_digits",
        "log_connections": 0,
        "log_disconnections": 0,
        "server_tls_sslmode": "disable",
        "client_tls_sslmode": "disable",
    }
    if certificate is not None:
        settings |= {
            "client_tls_sslmode": "require",
            "client_tls_cert_file": certificate.certificate_file,
            "client_tls_key_file": certificate.key_file,
        }
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    return f"[databases]\n* = host={HOST} port={server_port}\n[pgbouncer]\n{lines}"


@contextlib.contextmanager
def running_pgbouncer(
    place: Workspace,
    *,
    server_port: int,
    verifier: str,
    certificate: Certificate | None = None,
    name: str = "pgbouncer",
) -> Iterator[Way]:
    """One that listens; gone at the end. It refuses to be root, so it is the server's user."""
    program = find_pgbouncer(os.environ.get("PATH", os.defpath))
    directory = place.new_directory("pgbouncer")
    (port,) = free_ports(1, random.Random())  # noqa: S311  # not a secret
    texts = {
        "pgbouncer.ini": ini_text(
            directory, port=port, server_port=server_port, certificate=certificate
        ),
        "users.txt": f'"{USER}" "{verifier}"\n',
    }
    for file, text in texts.items():
        path = directory / file
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        place.identity.give(path)
    log_path = directory / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(program), str(directory / "pgbouncer.ini")],
            cwd=directory, env=node_environment(os.environ), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, **place.identity.subprocess_options(),
        )  # fmt: skip
    try:
        _wait_until_ready(process, port, log_path)
        yield Way(name, port, process.pid)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    end_s = time.monotonic() + READY_DEADLINE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), READY_LOOK_S):
            return
        if process.poll() is not None or time.monotonic() > end_s:
            said = log_path.read_text(errors="replace").strip()[-300:]
            raise TargetError(f"pgbouncer does not listen at port {port}: {said}")
        time.sleep(READY_LOOK_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM has this version end at once."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
