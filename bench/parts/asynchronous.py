"""Stock's synchronous standbys made asynchronous: the read replicas that most people run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.targets.sessions import ask, takes_writes, wait_until_nothing_is_missing
from bench.targets.target import Address, Blow, Target


@dataclass(frozen=True, slots=True)
class AsynchronousTarget:
    """A target under another name, whose commits wait for nobody."""

    target: Target
    name: str

    @property
    def description(self) -> str:
        """As Target has it."""
        return f"{self.target.description}; here asynchronous: no commit waits for a standby"

    @property
    def direct(self) -> Address:
        """As Target has it."""
        return self.target.direct

    @property
    def front(self) -> Address:
        """As Target has it."""
        return self.target.front

    @property
    def readers(self) -> Sequence[Address]:
        """As Target has it."""
        return self.target.readers

    @property
    def pids(self) -> Sequence[int]:
        """As Target has it."""
        return self.target.pids

    @property
    def blows(self) -> frozenset[Blow]:
        """Nobody hits it."""
        return frozenset()

    @property
    def facts(self) -> Mapping[str, object]:
        """As Target has it."""
        return {**self.target.facts, "synchronous_standby_names": ""}

    def strike(self, blow: Blow) -> None:
        """As Target has it."""
        self.target.strike(blow)

    def wait_whole(self, *, deadline_seconds: float = 120.0) -> None:
        """As Target has it; the inner target would wait for standbys to be synchronous."""
        wait_until_nothing_is_missing(self.name, self._missing, deadline_seconds=deadline_seconds)

    def _missing(self) -> str:
        row = ask(self.direct, "select count(*) from pg_stat_replication where state = 'streaming'")
        if row != [len(self.readers)]:
            return f"{row[0]} of {len(self.readers)} standbys stream"
        return takes_writes(self.direct)


def asynchronous(target: Target, name: str) -> AsynchronousTarget:
    """Let the primary's commits wait for nobody from now on."""
    ask(
        target.direct,
        "alter system set synchronous_standby_names = ''",
        "select pg_reload_conf()",
    )
    return AsynchronousTarget(target, name)
