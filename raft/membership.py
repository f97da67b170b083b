"""Which configuration is in effect, and which change of it is allowed.

A configuration is in effect from the moment that its entry is in the log, committed or not; if the
entry is truncated, the one before is back. Changes are of one member at a time, so that every
majority of the old configuration shares a member with every majority of the new one. That holds
between neighbours only, hence two more rules (the flaw found in the dissertation's single-server
change, and its cure): one change in flight, and none before the leader committed an entry of its
own term.
"""

from .errors import ConfigRefusedError
from .types import Config, MemberId, Persisted, Snapshot


class Membership:
    """The configurations of the log: that of the start, and each that came after it."""

    __slots__ = ("_changes", "_start", "config")

    def __init__(self, persisted: Persisted) -> None:
        self._start = persisted.snapshot.config
        self._changes = list(persisted.configs)
        self.config = self._newest()

    @property
    def index(self) -> int:
        """Where the entry of the configuration in effect is; 0 if it came with the start."""
        return self._changes[-1][0] if self._changes else 0

    def may_be_voter(self, member: MemberId, commit_index: int) -> bool:
        """Tell whether a member votes in a configuration that may yet prove to be the group's.

        That is the one in effect, the newest that is committed as far as we know, and any between.
        """
        for index, config in reversed(self._changes):
            if member in config.voters:
                return True
            if index <= commit_index:
                return False
        return member in self._start.voters

    def appended(self, index: int, config: Config) -> None:
        """Take a new configuration into effect."""
        self._changes.append((index, config))
        self.config = config

    def truncate_from(self, index: int) -> None:
        """Roll back the configurations whose entries are gone."""
        while self._changes and self._changes[-1][0] >= index:
            self._changes.pop()
        self.config = self._newest()

    def restore(self, snapshot: Snapshot) -> None:
        """Start from the configuration of a snapshot."""
        self._start = self.config = snapshot.config
        self._changes.clear()

    def trimmed(self, index: int) -> None:
        """Make the configuration at `index` the one of the start."""
        while self._changes and self._changes[0][0] <= index:
            self._start = self._changes.pop(0)[1]

    def _newest(self) -> Config:
        return self._changes[-1][1] if self._changes else self._start


def check_change(old: Config, new: Config) -> None:
    """Refuse a configuration that is not one member away from the old one."""
    changed = [
        member for member in old.members | new.members if _place(old, member) != _place(new, member)
    ]
    if not new.voters:
        raise ConfigRefusedError("a group needs a voter: remove the group instead")
    if len(changed) != 1:
        raise ConfigRefusedError(
            f"a change is of one member, not of {len(changed)}: make one after the other"
        )


def _place(config: Config, member: MemberId) -> tuple[bool, bool]:
    return member in config.voters, member in config.learners
