"""Patroni: three servers, etcd with three members, HAProxy in front, all from Debian's packages.

The primary is whose REST interface says so, which is what HAProxy goes by. Patroni starts postgres
in a way that leaves it nobody's child: a postmaster is found by its data directory.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from bench.pagefault.workspace import Workspace
from sqlnode.orphans import end_orphans
from sqlnode.postmaster import LOCK_FILE, parse_postmaster_file

from . import even
from .asking import answer_of, status_of
from .etcd import Etcd
from .haproxy import Backend, haproxy_program, listens
from .patroni_settings import MemberPlace, Pace, dynamic_settings, member_text
from .programs import (
    Program,
    Stopped,
    end_all_in,
    find_program,
    kill_alone,
    kill_trees,
    roots_of,
    version_of,
    write_private,
)
from .sessions import ask, takes_writes, wait_until_nothing_is_missing
from .target import Address, Blow, TargetError, TargetSettings

MEMBERS: Final = ("p1", "p2", "p3")
PACKAGE: Final = "patroni"
POSTGRES_MARK: Final = "postgres"
HTTP_OK: Final = 200
START_DEADLINE_SECONDS: Final = 120.0
STANDBYS: Final = len(MEMBERS) - 1


@dataclass(frozen=True, slots=True)
class Member:
    """One node: Patroni, and the server that it starts."""

    at: MemberPlace
    program: Program

    def is_primary(self) -> bool:
        """Whether its Patroni says so."""
        return status_of(self.at.rest_port, "/primary") == HTTP_OK

    @property
    def postmaster(self) -> int | None:
        """The process of its server, if that has not ended in order."""
        try:
            lock = parse_postmaster_file((self.at.data_dir / LOCK_FILE).read_bytes())
        except FileNotFoundError:
            return None
        return None if lock is None else lock.pid

    @property
    def pids(self) -> list[int]:
        """Patroni first, because it would start the other again."""
        return [pid for pid in (self.program.pid, self.postmaster) if pid is not None]


@dataclass(slots=True, kw_only=True)
class PatroniTarget:
    """All of it."""

    name: str
    description: str
    facts: Mapping[str, object]
    members: Sequence[Member]
    etcd: Etcd
    haproxy: Program
    front: Address
    _stopped: Stopped = field(default_factory=Stopped)

    def _address(self, member: Member) -> Address:
        return even.address(member.at.port, self.front.password)

    def _primary(self) -> Member:
        found = next((one for one in self.members if one.is_primary()), None)
        if found is None:
            raise TargetError(f"{self.name} has no primary now: wait until it is whole")
        return found

    @property
    def direct(self) -> Address:
        """The member that says that it is the primary."""
        return self._address(self._primary())

    @property
    def readers(self) -> Sequence[Address]:
        """All other members."""
        primary = self._primary()
        return [self._address(one) for one in self.members if one is not primary]

    @property
    def pids(self) -> Sequence[int]:
        """Of Patroni, PostgreSQL, etcd and HAProxy."""
        members = [pid for one in self.members for pid in one.pids]
        haproxy = [] if self.haproxy.pid is None else [self.haproxy.pid]
        return roots_of([*members, *self.etcd.pids, *haproxy])

    @property
    def blows(self) -> frozenset[Blow]:
        """Everything."""
        return frozenset(Blow)

    def strike(self, blow: Blow) -> None:
        """Hit whom the blow names."""
        match blow:
            case Blow.POSTGRES_KILLED:
                postmaster = self._primary().postmaster
                assert postmaster is not None, "a primary has a postmaster"
                kill_alone(postmaster, POSTGRES_MARK)
            case Blow.NODE_KILLED:
                kill_trees(self._primary().pids)
            case Blow.NODE_STOPPED:
                self._stopped.stop_trees(self._primary().pids)
            case Blow.LOG_LEADER_KILLED:
                self.etcd.leader().program.kill()
            case Blow.STORAGE_KILLED:
                primary = self._primary()
                kill_trees(next(one for one in self.members if one is not primary).pids)

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """Start and continue what was hit; all members stream and the front takes writes."""
        self._stopped.go_on()
        self.etcd.start()
        for one in self.members:
            one.program.start()
        self.haproxy.start()
        wait_until_nothing_is_missing(self.name, self._missing, deadline_seconds=deadline_seconds)

    def _missing(self) -> str:
        for one in (*(member.program for member in self.members), self.haproxy):
            if not one.running:
                return f"{one.name} has ended; its log ends: {one.last_lines()}"
        primaries = [one for one in self.members if one.is_primary()]
        if len(primaries) != 1:
            return f"{len(primaries)} members say that they are the primary"
        (primary,) = primaries
        return (
            what_is_missing(answer_of(primary.at.rest_port, "/cluster"))
            or _not_streaming(self._address(primary))
            or takes_writes(self.front)
        )


def what_is_missing(cluster: Mapping[str, Any] | None) -> str:
    """What Patroni's view of the cluster lacks, for people; empty: nothing. Pure."""
    if cluster is None:
        return "the primary's Patroni does not answer"
    members = cluster.get("members", [])
    timelines = {one.get("timeline") for one in members}
    late = [one for one in members if one.get("state") not in {"running", "streaming"}]
    roles = [one.get("role") for one in members]
    found = ""
    if len(members) != len(MEMBERS):
        found = f"{len(members)} of {len(MEMBERS)} members are there"
    elif roles.count("leader") != 1:
        found = f"{roles.count('leader')} members lead"
    elif late:
        found = ", ".join(f"{one.get('name')} is {one.get('state')}" for one in late)
    elif len(timelines) != 1:
        found = f"members are on {len(timelines)} timelines"
    elif "sync_standby" not in roles:
        found = "no standby is synchronous"
    return found


def _not_streaming(primary: Address) -> str:
    """What the primary itself lacks."""
    try:
        streaming, synchronous = ask(
            primary,
            "select count(*), count(*) filter (where sync_state in ('sync', 'quorum'))"
            " from pg_stat_replication where state = 'streaming'"
            " and application_name in ('p1', 'p2', 'p3')",  # and not a copy that is being made
        )
    except (psycopg.Error, TimeoutError) as error:
        return f"the primary does not answer: {str(error).strip()}"
    if streaming != STANDBYS or synchronous < 1:
        return f"{streaming} of {STANDBYS} standbys stream, {synchronous} of them synchronously"
    return ""


@contextlib.contextmanager
def patroni_target(
    place: Workspace, settings: TargetSettings, *, name: str, pace: Pace
) -> Iterator[PatroniTarget]:
    """A cluster that is whole."""
    program = find_program("patroni", PACKAGE)
    front_port, *ports = even.new_ports(1 + 2 * len(MEMBERS))
    places = [
        MemberPlace(
            name=member,
            directory=place.new_directory(member),
            port=ports[2 * number],
            rest_port=ports[2 * number + 1],
        )
        for number, member in enumerate(MEMBERS)
    ]
    password = even.new_password()
    etcd = Etcd.create(place)
    haproxy = haproxy_program(
        place,
        [Backend(at.name, at.port, at.rest_port) for at in places],
        port=front_port,
        checks=pace.checks,
        connections=settings.max_connections,
    )
    dynamic = dynamic_settings(pace, even.even_settings(settings))
    members = _members(place, places, program, etcd, dynamic=dynamic, password=password)
    target = PatroniTarget(
        name=name,
        description=f"{version_of(program)}, PostgreSQL {place.binaries.version} on three nodes,"
        f" synchronous_mode strict, {pace.words()}, shared_buffers {settings.shared_buffers}",
        facts={
            **even.facts_of(place, settings),
            "patroni": version_of(program),
            "etcd": etcd.version,
            "haproxy": version_of(find_program("haproxy", "haproxy"), "-v"),
            "dynamic": dynamic,
            "checks": pace.checks.server_options(),
        },
        members=members,
        etcd=etcd,
        haproxy=haproxy,
        front=even.address(front_port, password),
    )
    with _ending(target):
        _start(target)
        yield target


def _members(
    place: Workspace,
    places: Sequence[MemberPlace],
    program: Path,
    etcd: Etcd,
    *,
    dynamic: Mapping[str, object],
    password: str,
) -> list[Member]:
    replication_password = even.new_password()
    found = []
    for at in places:
        path = at.directory / "patroni.yml"
        text = member_text(
            at,
            etcd_hosts=etcd.hosts,
            bin_dir=place.binaries.bin_dir,
            dynamic=dynamic,
            password=password,
            replication_password=replication_password,
        )
        write_private(place, path, text)
        found.append(
            Member(at, Program(at.name, [program, path], directory=at.directory, place=place))
        )
    return found


def _start(target: PatroniTarget) -> None:
    """Etcd, the first member, which makes the cluster, and then all others."""
    target.etcd.start()
    first = target.members[0]
    first.program.start()
    first.program.wait_until(first.is_primary, deadline_seconds=START_DEADLINE_SECONDS)
    target.haproxy.start()
    target.haproxy.wait_until(
        lambda: listens(target.front.port), deadline_seconds=START_DEADLINE_SECONDS
    )
    target.wait_whole(deadline_seconds=START_DEADLINE_SECONDS)


@contextlib.contextmanager
def _ending(target: PatroniTarget) -> Iterator[None]:
    """At the end, however it comes, nothing of it runs."""
    with contextlib.ExitStack() as ends:
        directories = [one.at.directory for one in target.members]
        ends.callback(end_all_in, directories)
        ends.callback(target.etcd.kill)
        ends.callback(end_orphans, [one.at.data_dir for one in target.members])
        for one in target.members:
            ends.callback(one.program.kill)
        ends.callback(target.haproxy.kill)
        ends.callback(target._stopped.go_on)
        yield
