"""Three members of etcd, from Debian's package and with its own settings, as Patroni's memory."""

from dataclasses import dataclass
from typing import Final, Self

from bench.pagefault.workspace import Workspace

from .asking import answer_of
from .even import HOST, new_ports
from .programs import Program, find_program, version_of
from .target import TargetError

MEMBERS: Final = ("e1", "e2", "e3")
PACKAGE: Final = "etcd-server"
READY_DEADLINE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Member:
    """One of them."""

    program: Program
    client_port: int

    def is_healthy(self) -> bool:
        """Whether it takes part, and there is a leader."""
        found = answer_of(self.client_port, "/health")
        return found is not None and found.get("health") == "true"

    def is_leader(self) -> bool:
        """Whether it says so."""
        found = answer_of(self.client_port, "/v3/maintenance/status", {})
        return found is not None and found["header"]["member_id"] == found.get("leader")


@dataclass(frozen=True, slots=True)
class Etcd:
    """All of them; not running until started."""

    members: tuple[Member, ...]
    version: str

    @classmethod
    def create(cls, place: Workspace) -> Self:
        """Choose directories and ports."""
        program = find_program("etcd", PACKAGE)
        ports = new_ports(2 * len(MEMBERS))
        client_ports, peer_ports = ports[: len(MEMBERS)], ports[len(MEMBERS) :]
        urls = [f"http://{HOST}:{port}" for port in peer_ports]
        initial = ",".join(f"{name}={url}" for name, url in zip(MEMBERS, urls, strict=True))
        members = []
        for name, client_port, peer_url in zip(MEMBERS, client_ports, urls, strict=True):
            directory = place.new_directory(name)
            client_url = f"http://{HOST}:{client_port}"
            argv = [
                str(program), "--name", name, "--data-dir", str(directory / "data"),
                "--listen-client-urls", client_url, "--advertise-client-urls", client_url,
                "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
                "--initial-cluster", initial, "--initial-cluster-state", "new",
                "--logger", "zap", "--log-level", "warn",
            ]  # fmt: skip
            started = Program(name, argv, directory=directory, place=place)
            members.append(Member(started, client_port))
        return cls(tuple(members), version_of(program))

    @property
    def hosts(self) -> list[str]:
        """Where clients connect."""
        return [f"{HOST}:{one.client_port}" for one in self.members]

    @property
    def pids(self) -> list[int]:
        """Of those that run."""
        return [one.program.pid for one in self.members if one.program.pid is not None]

    def start(self, *, deadline_seconds: float = READY_DEADLINE_SECONDS) -> None:
        """Start those that do not run, and return when all are healthy."""
        for one in self.members:
            one.program.start()
        for one in self.members:
            one.program.wait_until(one.is_healthy, deadline_seconds=deadline_seconds)

    def leader(self) -> Member:
        """Return the one that the others follow."""
        found = next((one for one in self.members if one.is_leader()), None)
        if found is None:
            raise TargetError("etcd has no leader: wait until the target is whole")
        return found

    def kill(self) -> None:
        """End all of them."""
        for one in self.members:
            one.program.kill()
