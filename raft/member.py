"""The state that every role of a member shares, and the way back to being a follower.

What is to go out collects here until `Raft.ready` hands it over. There are two boxes: `messages`
may travel at once; `messages_after` are promises (votes, acknowledgements), which travel only when
what they promise is durable.
"""

import random
from typing import TYPE_CHECKING, Final

from .membership import Membership
from .messages import AppendReply, Message
from .raft_log import RaftLog
from .settings import RaftSettings
from .types import (
    NOBODY,
    HardState,
    LogView,
    MemberId,
    Persisted,
    Role,
    Snapshot,
)

if TYPE_CHECKING:
    from .leading import Leadership

# Campaigns in a row that wait only briefly: others may see the leader's connection break later.
HURRIED_CAMPAIGNS: Final = 3


class Member:
    """One member of one group: what it knows, and what it has to say."""

    __slots__ = (
        "_elapsed_ticks",
        "_hard_state_number",
        "_hurried_campaigns",
        "_is_hard_state_new",
        "_is_wanted",
        "_owes_lease",
        "_rng",
        "_timeout_ticks",
        "leader",
        "leadership",
        "log",
        "me",
        "membership",
        "messages",
        "messages_after",
        "number",
        "reads",
        "refused_messages",
        "restore",
        "role",
        "settings",
        "term",
        "view",
        "vote",
        "votes",
    )

    def __init__(
        self,
        me: MemberId,
        persisted: Persisted,
        view: LogView,
        settings: RaftSettings,
        rng: random.Random,
    ) -> None:
        self.me = me
        self._is_wanted = False
        self.view = view
        self.settings = settings
        self.log = RaftLog(persisted)
        self.membership = Membership(persisted)
        self.term = persisted.hard_state.term
        self.vote = persisted.hard_state.vote
        if me <= NOBODY or self.term < self.log.last_term:
            raise ValueError("a member id is positive, and no entry is of a term yet to come")
        self.role = Role.FOLLOWER
        self.leader = NOBODY
        self.leadership: Leadership | None = None
        self.votes: dict[MemberId, bool] = {}  # of the campaign under way
        self.messages: list[Message] = []
        self.messages_after: list[Message] = []
        self.reads: list[tuple[int, int]] = []  # confirmed
        self.restore: Snapshot | None = None
        self.number = 0  # of the newest Ready
        self.refused_messages = 0
        self._is_hard_state_new = False
        self._hard_state_number: int | None = None  # the Ready that holds it, until it is durable
        # A restart forgets when we last heard the leader, but not that we may owe it a lease.
        self._owes_lease = settings.lease_reads and self.term > 0
        self._rng = rng
        self._hurried_campaigns = 0
        self.reset_timer()

    @property
    def may_stand(self) -> bool:
        """Tell whether we may campaign: as a voter, also one whose removal is not committed yet.

        Perhaps nobody else has the entry that removes us; then the others cannot elect anybody
        without our vote, and our longer log forbids it (dissertation 4.2.2). We lead without
        counting ourselves then, and step down when the removal is committed.
        """
        return self._is_wanted or self.membership.may_be_voter(self.me, self.log.commit_index)

    def refuse_older_log(self) -> None:
        """Note that somebody who counts on our vote has less of the log than we have.

        If we are no voter by our own log, because our promotion is only in others' logs, then
        nobody may be able to win: we refuse all of them. So we may stand, without counting
        ourselves, as a removed leader may, until a leader is known. A majority of the voters still
        has to agree.
        """
        self._is_wanted = bool(self.membership.config.voters)

    @property
    def is_protecting_leader(self) -> bool:
        """Tell whether to ignore elections, because a leader is alive (or is owed its lease)."""
        if self.role is Role.LEADER:
            return True
        is_one_known = self.leader != NOBODY or self._owes_lease
        return is_one_known and self._elapsed_ticks < self.settings.election_ticks

    @property
    def is_hard_state_durable(self) -> bool:
        """Tell whether our term and vote are on disk."""
        return not self._is_hard_state_new and self._hard_state_number is None

    def become_follower(self, term: int, leader: MemberId) -> None:
        """Follow in this term; the leader may be nobody yet."""
        if term != self.term:
            self.enter_term(term, NOBODY)
        self.role = Role.FOLLOWER
        self.leader = leader
        self._is_wanted = self._is_wanted and leader == NOBODY
        self.leadership = None
        self.votes = {}
        self.reset_timer()

    def enter_term(self, term: int, vote: MemberId) -> None:
        """Go to a newer term. What was promised in the old one and not said stays unsaid."""
        assert term > self.term, "terms only grow"
        self.term = term
        self.vote = vote
        self._is_hard_state_new = True
        self.messages_after.clear()

    def grant_vote(self, candidate: MemberId) -> None:
        """Give our one vote of this term, and stop asking for one ourselves."""
        self.become_follower(self.term, NOBODY)
        if self.vote != candidate:
            self.vote = candidate
            self._is_hard_state_new = True

    def heard_leader(self) -> None:
        """Start the election timeout anew: the leader is alive."""
        self._elapsed_ticks = 0
        self._owes_lease = self.settings.lease_reads
        if self._timeout_ticks < self.settings.election_ticks:  # the hurry is over
            self._hurried_campaigns = 0
            self.reset_timer()

    def lost_leader(self) -> None:
        """Take the shell's hint that the leader is gone, unless we owe it a lease."""
        if self.role is not Role.FOLLOWER or self.leader == NOBODY or self.settings.lease_reads:
            return
        self.leader = NOBODY
        self._hurried_campaigns = HURRIED_CAMPAIGNS
        self.reset_timer()

    def reset_timer(self) -> None:
        """Draw the time till the next campaign: at random, so that two rarely collide."""
        self._elapsed_ticks = 0
        if self._hurried_campaigns:
            self._hurried_campaigns -= 1
            self._timeout_ticks = self._rng.randint(1, self.settings.hurry_ticks)
        else:
            ticks = self.settings.election_ticks
            self._timeout_ticks = self._rng.randrange(ticks, 2 * ticks)

    def is_time_to_campaign(self) -> bool:
        """Count a tick; tell whether the leader has been silent for too long."""
        self._elapsed_ticks += 1
        if self._elapsed_ticks >= self.settings.election_ticks:
            self._owes_lease = False
        return self._elapsed_ticks >= self._timeout_ticks

    @property
    def is_campaign_young(self) -> bool:
        """Tell whether we have just asked for pre-votes, and answers may be on their way."""
        is_asking = self.role is Role.PRE_CANDIDATE
        return is_asking and self._elapsed_ticks < self.settings.hurry_ticks

    def rest(self) -> None:
        """Begin a new election timeout when ticks come again."""
        self._elapsed_ticks = 0

    def take_hard_state(self, number: int) -> HardState | None:
        """Hand over our term and vote, if they are new, to be made durable as Ready `number`."""
        if not self._is_hard_state_new:
            return None
        self._is_hard_state_new = False
        self._hard_state_number = number
        return HardState(self.term, self.vote)

    def persisted(self, number: int) -> None:
        """Note that all Readys up to `number` are durable."""
        self.log.persisted(number)
        if self._hard_state_number is not None and self._hard_state_number <= number:
            self._hard_state_number = None

    def handed_over(self, number: int) -> None:
        """Empty the boxes: all of it is in Ready `number`."""
        self.number = number
        self.messages.clear()
        self.messages_after.clear()
        self.reads.clear()
        self.restore = None

    def promise(self, reply: AppendReply) -> None:
        """Acknowledge entries once they are durable; the newest acknowledgement says it all."""
        if self.messages_after:
            last = self.messages_after[-1]  # in one term there is one leader to tell
            if isinstance(last, AppendReply) and last.match_index <= reply.match_index:
                self.messages_after[-1] = reply
                return
        self.messages_after.append(reply)

    def refuse_message(self) -> None:
        """Count a message that breaks the protocol; nothing else happens."""
        self.refused_messages += 1
