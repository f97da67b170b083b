"""Deliberate bugs: each breaks one rule that Raft, its shell or the fence rests on.

They are the proof that the simulation can fail. A mutant is a replacement for one attribute of the
core, of a node or of a disk; `broken` puts it in place. What a mutant should violate is what one of
the checkers sees first: mostly a rule long before its consequence, a lost commit.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from raft import leading
from raft.core import Raft
from raft.leading import Leadership
from raft.member import Member
from raft.membership import Membership
from raft.messages import Append, AppendReply, Message, VoteReply
from raft.raft_log import RaftLog
from raft.replication import Replication
from raft.rounds import Rounds
from raft.types import NOBODY, HardState, Persisted, Role

from .disk import Disk
from .node import Node
from .operations import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raft.core import Ready
    from raft.types import Entry


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: what is replaced by what, and what it should violate."""

    name: str
    owner: object
    attribute: str
    value: object
    violates: frozenset[str]


@contextmanager
def broken(mutant: Mutant) -> Iterator[None]:
    """Have the bug for a while."""
    with patch.object(mutant.owner, mutant.attribute, mutant.value):
        yield


# --- bugs of a shell ------------------------------------------------------------------------------

_persist = Node.persist
_carry_out = Node.carry_out
_receive = Node.receive
_send = Node.send
_recovered = Disk.recovered
_crash = Disk.crash
_apply = Machine.apply


def _send_early(kind: type[Message]) -> Callable[[Node, Ready], None]:
    def persist(node: Node, ready: Ready) -> None:
        early = tuple(message for message in ready.messages_after if isinstance(message, kind))
        late = tuple(message for message in ready.messages_after if not isinstance(message, kind))
        node.send(early)
        _persist(node, replace(ready, messages_after=late))

    return persist


def _count_early(node: Node, ready: Ready) -> None:
    _persist(node, ready)
    node.raft.persisted(ready.number)


def _commit_backwards(node: Node, ready: Ready) -> None:
    _carry_out(node, replace(ready, commit_index=max(ready.commit_index - 1, 0)))


def _term_backwards(raft: Raft) -> int:
    return raft.last_term


def _forget_vote(disk: Disk) -> Persisted:
    persisted = _recovered(disk)
    return replace(persisted, hard_state=HardState(persisted.hard_state.term))


def _lose_synced(disk: Disk) -> None:
    _crash(disk)
    if disk.log.list:
        disk.log.cut(disk.log.last_index)


def _believe_previous(node: Node, message: Message) -> None:
    if isinstance(message, Append):
        term = node.raft.term_at(message.prev_index)
        if term is not None and term <= message.term:
            message = replace(message, prev_term=term)
    _receive(node, message)


def _acknowledge_all(node: Node, messages: tuple[Message, ...]) -> None:
    for message in messages:
        if isinstance(message, AppendReply) and not message.rejected:
            last_index = max(message.match_index, node.log.last_index)
            _send(node, (replace(message, match_index=last_index),))
        else:
            _send(node, (message,))


def _apply_again(machine: Machine, entry: Entry) -> None:
    machine.known.clear()
    _apply(machine, entry)


# --- bugs of the core -----------------------------------------------------------------------------

_commit = Leadership._commit


def _commit_old_terms(leadership: Leadership) -> None:
    first, leadership._first_index = leadership._first_index, 0
    _commit(leadership)
    leadership._first_index = first


def _forget_owed_lease(member: Member) -> bool:
    if member.role is Role.LEADER:
        return True
    return member.leader != NOBODY and member._elapsed_ticks < member.settings.election_ticks


def _half_is_enough(values: Iterable[int]) -> int:
    ascending = sorted(values)
    return ascending[len(ascending) // 2]


def _always(*_: object) -> bool:
    return True


def _never(*_: object) -> bool:
    return False


def _nothing(*_: object, **__: object) -> None:
    pass


ELECTION = frozenset({"votes once", "election safety"})
LOG = frozenset({"log matching", "leader completeness", "state machine safety"})
DISK = frozenset({"a majority has it on disk"})
READ = frozenset({"reads are linearizable"})
CHANGE = frozenset({"one change at a time"})

MUTANTS: tuple[Mutant, ...] = (
    Mutant("votes leave before their sync", Node, "persist", _send_early(VoteReply), ELECTION),
    Mutant("acks leave before their sync", Node, "persist", _send_early(AppendReply), DISK),
    Mutant("a leader counts itself too early", Node, "persist", _count_early, DISK),
    Mutant("a restart forgets the vote", Disk, "recovered", _forget_vote, ELECTION),
    Mutant("a crash loses synced entries", Disk, "crash", _lose_synced, DISK | LOG),
    Mutant("the entry before is not checked", Node, "receive", _believe_previous, LOG | DISK),
    Mutant("an ack covers the whole log", Node, "send", _acknowledge_all, DISK | LOG),
    Mutant(
        "commands happen twice",
        Machine,
        "apply",
        _apply_again,
        frozenset({"commands happen once"}),
    ),
    Mutant(
        "a commit index goes back",
        Node,
        "carry_out",
        _commit_backwards,
        frozenset({"commit never goes back", "commits own term only"}),
    ),
    Mutant(
        "a term goes back",
        Raft,
        "term",
        property(_term_backwards),
        frozenset({"term never goes back"}),
    ),
    Mutant("no fence", Node, "admits", _always, frozenset({"fencing"})),
    Mutant(
        "old terms are committed by counting",
        Leadership,
        "_commit",
        _commit_old_terms,
        frozenset({"commits own term only"}),
    ),
    Mutant(
        "a new leader is ready at once",
        Leadership,
        "is_ready",
        property(_always),
        READ | {"changes after own term"},
    ),
    Mutant("reads need no round", Leadership, "has_lease", property(_always), READ),
    Mutant("a lease never ends", Rounds, "has_lease", _always, READ),
    Mutant("nobody protects", Member, "is_protecting_leader", property(_never), READ),
    Mutant(
        "a restart forgets the lease",
        Member,
        "is_protecting_leader",
        property(_forget_owed_lease),
        READ,
    ),
    Mutant(
        "a lease outlives a transfer",
        Leadership,
        "_has_handed_over",
        property(_never, _nothing),
        READ,
    ),
    Mutant("votes for short logs", RaftLog, "is_up_to_date", _always, LOG),
    Mutant("half is a majority", leading, "majority_value", _half_is_enough, DISK | LOG),
    Mutant("two members at a time", leading, "check_change", _nothing, CHANGE),
    Mutant("changes overlap", Membership, "index", property(lambda _: 0), CHANGE),
    Mutant("cut entries stay durable", RaftLog, "_take_back_durability", _nothing, DISK),
    Mutant("refusals are ignored", Replication, "_rejected", _nothing, frozenset({"liveness"})),
)
