"""A branch without any compute is woken by the operator's command, and its clients wait for that.

In scope: `wake_command` and `limits.wake_ms`: who causes a run, how many runs, commands that fail,
hang, print without end or leave children. The log of these tests says whether there is a compute;
the server itself runs all the time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from fixtures.gateway_alone import GatewaysAlone, admin_of, gateways_alone
from fixtures.gateway_world import VISITOR, VISITOR_PASSWORD
from fixtures.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fixtures.gateway_world import Address, Gateway
    from fixtures.servers import Fleet

    from sqlnode.postgres import Postgres

pytestmark = pytest.mark.postgres

DEADLINE_S = 30.0
CLIENTS = 30
SHORT_MS = 700
NOISE_BYTES = 20_000_000


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaysAlone]:
    with gateways_alone(shared_fleet, tmp_path_factory.mktemp("gateways")) as world:
        yield world


@pytest.fixture(scope="module")
def server(world: GatewaysAlone) -> Postgres:
    server = world.server("sleeper")
    with world.direct(server).connect() as connection:
        connection.execute(f"create role {VISITOR} login password '{VISITOR_PASSWORD}'")
    return server


@pytest.fixture(autouse=True)
def asleep(world: GatewaysAlone, server: Postgres) -> None:
    """Each test begins without a compute."""
    del server
    world.log.has_primary(None)


class Command:
    """A shell script as the wake command; it notes each run with its process."""

    def __init__(self, directory: Path, script: str) -> None:
        self.directory = directory
        self._notes = directory / "runs"
        text = f'cd "{directory}"; echo $$ >> runs; {script}'
        self.argv = ("/bin/sh", "-c", text)

    def runs(self) -> list[int]:
        """The processes that were run."""
        text = self._notes.read_text() if self._notes.exists() else ""
        return [int(line) for line in text.split("\n")[:-1]]

    def until_run(self, count: int = 1) -> None:
        """Wait until it was run as often."""
        eventually(lambda: len(self.runs()) >= count, what=f"run {count} of the command")

    def pid_in(self, name: str) -> int:
        """The process that a script has written into a file."""
        path = self.directory / name
        eventually(lambda: path.exists() and path.read_text().endswith("\n"), what=name)
        return int(path.read_text())


class Asking:
    """A client that connects and asks something, in a thread of its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._answer: Any = None
        self._error: psycopg.Error | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def answer(self) -> Any:
        """What it has heard; raises if it was an error."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._answer

    def _run(self) -> None:
        try:
            with self._address.connect() as connection:
                self._answer = connection.execute("select 42").fetchone()
        except psycopg.Error as error:
            self._error = error


def clients(gateway: Gateway, table: str = "clients") -> list[tuple[Any, ...]]:
    """Of all workers, but for the operators."""
    with admin_of(gateway) as admin:
        return [row for row in admin.execute(f"show {table}") if row[1] != "seawall_admin"]


def hears_of_no_compute(gateway: Gateway) -> None:
    """Wait until every worker has heard it."""

    def look() -> bool:
        with admin_of(gateway) as admin:
            return not admin.execute("show topology").fetchall()

    eventually(look, what="the end of the compute")


def refusal(told: Callable[[], Any]) -> str:
    """The one sentence of an error for clients."""
    with pytest.raises(psycopg.OperationalError) as caught:
        told()
    (sentence,) = [line for line in str(caught.value).splitlines() if "FATAL:" in line]
    return sentence.split("FATAL:")[1].strip()


def is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


# --- It works -------------------------------------------------------------------------------------


def test_a_client_wakes_the_branch_and_is_answered(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    command = Command(tmp_path, "true")
    # The client may take less time for its login than the compute takes to come up.
    with world.gateway(wake_command=command.argv, limits={"login_ms": 300}) as gateway:
        asking = Asking(gateway.address)
        command.until_run()
        eventually(lambda: [row for row in clients(gateway) if int(row[-1]) >= 1], what="patience")
        world.log.has_primary(server)
        assert asking.answer() == (42,)
        assert len(command.runs()) == 1


def test_a_session_wakes_the_branch_by_asking_and_not_by_being_there(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    command = Command(tmp_path, "true")
    world.log.has_primary(server)
    with (
        world.gateway(wake_command=command.argv) as gateway,
        gateway.address.connect() as session,
        psycopg.connect(server.conninfo(), autocommit=True) as direct,
    ):
        session.execute("set work_mem = '5MB'")
        world.log.has_primary(None)
        hears_of_no_compute(gateway)
        direct.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where usename = 'postgres' and client_addr is not null"
        )
        eventually(lambda: not clients(gateway, "servers"), what="the end of the link")
        # Whoever is known proves that it is him before anything is started for him.
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            gateway.address.but(password="wrong").connect()  # noqa: S106  # it is
        assert command.runs() == []
        heard: list[Any] = []
        thread = threading.Thread(
            target=lambda: heard.append(session.execute("show work_mem").fetchone())
        )
        thread.start()
        command.until_run()
        world.log.has_primary(server)
        thread.join(DEADLINE_S)
        assert heard == [("5MB",)]
        assert len(command.runs()) == 1


def test_many_clients_of_many_workers_are_one_run(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    command = Command(tmp_path, "while [ ! -e enough ]; do sleep 0.05; done")
    with world.gateway(wake_command=command.argv, workers=2) as gateway:
        visitor = gateway.address.but(user=VISITOR, password=VISITOR_PASSWORD)
        asking = [Asking(visitor if n % 2 else gateway.address) for n in range(CLIENTS)]
        eventually(lambda: len(clients(gateway)) == CLIENTS, what="all clients")
        assert {int(row[0]) for row in clients(gateway)} == {0, 1}
        command.until_run()
        (tmp_path / "enough").touch()
        world.log.has_primary(server)
        assert [one.answer() for one in asking] == [(42,)] * CLIENTS
        assert len(command.runs()) == 1


def test_nothing_is_started_before_the_log_has_said_that_there_is_nothing(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    command = Command(tmp_path, "true")
    world.log.has_primary(server)
    world.log.be_silent(True)
    try:
        with world.gateway(wake_command=command.argv) as gateway:
            asking = Asking(gateway.address)
            eventually(lambda: clients(gateway), what="a client")
            world.log.be_silent(False)
            assert asking.answer() == (42,)
            assert command.runs() == []
    finally:
        world.log.be_silent(False)


# --- It does not work -----------------------------------------------------------------------------


def test_a_command_that_fails_is_run_again_while_somebody_waits(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    command = Command(tmp_path, "echo no such thing >&2; exit 3")
    with world.gateway(wake_command=command.argv) as gateway:
        asking = Asking(gateway.address)
        command.until_run(2)
        world.log.has_primary(server)
        assert asking.answer() == (42,)
        log = gateway.process.log_of_this_start()
        assert "the wake command failed" in log
        assert '"status":3' in log
        assert "no such thing" in log  # what it says goes where our log goes


FUTILE = {
    "fails": ("/bin/false",),
    "is not there": ("/nowhere/at/all",),
    "has no effect": ("/bin/true",),
    "is not there, as is no setting": (),
}


@pytest.mark.parametrize("what", list(FUTILE))
def test_a_client_hears_that_no_compute_came_up(world: GatewaysAlone, what: str) -> None:
    with world.gateway(wake_command=FUTILE[what], limits={"wake_ms": SHORT_MS}) as gateway:
        said = refusal(Asking(gateway.address).answer)
        assert said == "no compute came up within 0.7 s"
        log = gateway.process.log_of_this_start()
        assert ("the wake command cannot be run" in log) == (what == "is not there")
        assert "Traceback" not in log


def test_a_command_that_takes_too_long_is_ended_with_its_children(
    world: GatewaysAlone, tmp_path: Path
) -> None:
    script = "trap '' TERM; sleep 600 & echo $! > child; while true; do wait; sleep 1; done"
    command = Command(tmp_path, script)
    with world.gateway(wake_command=command.argv, limits={"wake_ms": SHORT_MS}) as gateway:
        assert refusal(Asking(gateway.address).answer) == "no compute came up within 0.7 s"
        (pid,) = command.runs()
        eventually(lambda: not is_alive(pid), what="the end of the command")
        eventually(lambda: not is_alive(command.pid_in("child")), what="the end of its child")
        assert "took too long" in gateway.process.log_of_this_start()


def test_a_command_that_runs_ends_with_the_gateway(world: GatewaysAlone, tmp_path: Path) -> None:
    command = Command(tmp_path, "sleep 600")
    with world.gateway(wake_command=command.argv) as gateway:
        asking = Asking(gateway.address)
        command.until_run()
        assert gateway.process.stop() == 0
        with pytest.raises(psycopg.OperationalError):
            asking.answer()
        eventually(lambda: not is_alive(command.runs()[0]), what="the end of the command")


def test_noise_and_children_that_stay_do_not_hold_anybody_up(
    world: GatewaysAlone, server: Postgres, tmp_path: Path
) -> None:
    noise = f"head -c {NOISE_BYTES} /dev/zero"
    command = Command(
        tmp_path, f"{noise}; head -c 100000 /dev/zero >&2; sleep 600 & echo $! > child; exit 0"
    )
    child = None
    try:
        with world.gateway(wake_command=command.argv) as gateway:
            asking = Asking(gateway.address)
            child = command.pid_in("child")
            world.log.has_primary(server)
            assert asking.answer() == (42,)
            eventually(lambda: not is_alive(command.runs()[0]), what="the end of the command")
            assert gateway.process.stop() == 0
        assert is_alive(child)  # it may be the compute: it is none of ours
    finally:
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
