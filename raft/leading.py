"""Leading: all that a member knows and does only while it leads, in one term.

A Leadership is made when an election is won and dropped when it ends; nothing of it outlives the
term. It takes proposals, counts what a majority has, hands the lead over, and gives it up by itself
when it was removed from the group or cannot reach a majority.

Invariants:
- Only entries of this term are committed by counting (section 5.4.2); older ones come along.
- Our own entries count when our disk has them, as everybody else's.
"""

from collections import deque

from .errors import BusyError, ConfigRefusedError
from .member import Member
from .membership import check_change
from .messages import AppendReply, TimeoutNow
from .quorum import majority_value
from .reads import Reads
from .replication import Replication
from .rounds import Rounds
from .types import NOBODY, Config, Entry, MemberId


class Leadership:
    """One leader in one term."""

    __slots__ = (
        "_first_index",
        "_has_handed_over",
        "_log",
        "_member",
        "_reads",
        "_rounds",
        "_settings",
        "_transfer_tick",
        "_transferee",
        "_uncommitted",
        "replication",
        "uncommitted_bytes",
    )

    def __init__(self, member: Member) -> None:
        self._member = member
        self._log = member.log
        self._settings = member.settings
        self._rounds = Rounds(member.settings)
        self._reads = Reads()
        self.replication = Replication(member, self._rounds)
        self.uncommitted_bytes = 0
        self._uncommitted: deque[tuple[int, int]] = deque()  # (index, bytes) of our proposals
        self._transferee = NOBODY
        self._transfer_tick = 0
        self._has_handed_over = False  # a TimeoutNow may be under way till the end of the term
        self._first_index = self._log.last_index + 1
        self._append(Entry(self._first_index, member.term, 0))  # its Appends are the first round
        self._rounds.begin(self.replication.tick)
        self._confirm_round()

    @property
    def is_ready(self) -> bool:
        """Tell whether an entry of our term is committed: only then we know all that is."""
        return self._log.commit_index >= self._first_index

    @property
    def has_lease(self) -> bool:
        """Tell whether nobody else can have been elected, by the followers' promise."""
        return (
            self._settings.lease_reads
            and not self._has_handed_over
            and self.is_ready
            and self._rounds.has_lease(self.replication.tick)
        )

    def tick(self) -> None:
        """Count a tick: heartbeats, commit news, and the ends of what took too long."""
        replication = self.replication
        replication.tick += 1
        self._rounds.wake()
        if self._rounds.is_cut_off(replication.tick):
            self._member.become_follower(self._member.term, NOBODY)
            return
        if replication.tick - self._transfer_tick >= self._settings.election_ticks:
            self._transferee = NOBODY
        if replication.tick % self._settings.heartbeat_ticks == 0:
            replication.retry()
            self._begin_round()
        else:
            replication.send_commit_news()

    def propose(self, size_bytes: int, ref: object) -> int:
        """Append an entry of the shell; return its index."""
        self._refuse_during_transfer()
        size_total = self.uncommitted_bytes + size_bytes
        if self.uncommitted_bytes and size_total > self._settings.uncommitted_bytes_max:
            raise BusyError(
                f"{self.uncommitted_bytes} bytes wait for a majority: try again when some have it"
            )
        index = self._log.last_index + 1
        self._append(Entry(index, self._member.term, size_bytes, ref))
        self._uncommitted.append((index, size_bytes))
        self.uncommitted_bytes = size_total
        return index

    def propose_config(self, config: Config) -> int:
        """Append a configuration, which is in effect at once; return its index."""
        self._refuse_during_transfer()
        membership = self._member.membership
        if not self.is_ready:
            raise ConfigRefusedError(
                "the leader is new: try again when it has committed an entry of its own term"
            )
        if membership.index > self._log.commit_index:
            raise ConfigRefusedError(
                "a change of the members is under way: try again when it is committed"
            )
        check_change(membership.config, config)
        index = self._log.last_index + 1
        self._append(Entry(index, self._member.term, 0, config=config))
        membership.appended(index, config)
        self.replication.follow_config(config)
        return index

    def transfer(self, to: MemberId) -> None:
        """Stop taking proposals until `to` has everything and takes over, or time is up."""
        if to not in self._member.membership.config.voters:
            raise ConfigRefusedError(f"member {to} is not a voter: it cannot become the leader")
        if to != self._member.me:
            self._transferee = to
            self._transfer_tick = self.replication.tick
            self._hand_over()

    def read_index(self, context: int) -> None:
        """Ask for the index that a read must wait for."""
        self._reads.ask(context)

    def on_reply(self, reply: AppendReply) -> None:
        """Take a peer's answer."""
        if self.replication.on_reply(reply) and reply.match_index > self._log.commit_index:
            self._commit()
        if reply.context > self._rounds.confirmed:
            self._confirm_round()
        if reply.sender == self._transferee:
            self._hand_over()

    def persisted(self) -> None:
        """Count what our own disk has now."""
        self._commit()

    def before_ready(self, fresh: tuple[Entry, ...]) -> None:
        """Put into the boxes what is due: entries for the peers, a round for new reads."""
        if self._reads.has_new and self.is_ready:
            if self.has_lease:
                self._member.reads += self._reads.take_new(self._log.commit_index)
            else:
                self._reads.join_round(self._rounds.current + 1, self._log.commit_index)
                self._begin_round()
        if self.replication.has_due:
            self.replication.send_entries(fresh)

    @property
    def has_due(self) -> bool:
        """Tell whether `before_ready` may have something to do."""
        return self.replication.has_due or (self._reads.has_new and self.is_ready)

    def can_rest(self) -> bool:
        """Tell whether every member has everything and knows that it is committed."""
        last = self._log.last_index
        return (
            self._log.stable_index == self._log.commit_index == last
            and not self._reads
            and self._transferee == NOBODY
            and all(
                peer.match_index == last and peer.commit_known == last
                for peer in self.replication.peers.values()
            )
        )

    def rest(self) -> None:
        """Give up the lease: without ticks it would never end."""
        self._rounds.rest(self.replication.tick)

    def _append(self, entry: Entry) -> None:
        self._log.append((entry,))
        self.replication.has_due = True

    def _commit(self) -> None:
        log, config, peers = self._log, self._member.membership.config, self.replication.peers
        index = majority_value(
            [peers[one].match_index if one in peers else log.stable_index for one in config.voters]
        )
        if index <= log.commit_index or index < self._first_index:
            return
        log.commit_index = index
        while self._uncommitted and self._uncommitted[0][0] <= index:
            self.uncommitted_bytes -= self._uncommitted.popleft()[1]
        if self._member.me not in config.voters and self._member.membership.index <= index:
            self._leave(config)

    def _leave(self, config: Config) -> None:
        """Step down, removed by a committed configuration; the voter that has most takes over."""
        peers = self.replication.peers
        successor = max(sorted(config.voters), key=lambda voter: peers[voter].match_index)
        self._send_timeout_now(successor)
        self._member.become_follower(self._member.term, NOBODY)

    def _begin_round(self) -> None:
        self.replication.send_round()
        self._confirm_round()

    def _confirm_round(self) -> None:
        rounds, config, peers = self._rounds, self._member.membership.config, self.replication.peers
        number = majority_value(
            [peers[one].round if one in peers else rounds.current for one in config.voters]
        )
        if number > rounds.confirmed:
            rounds.confirm(number)
            self._member.reads += self._reads.confirmed(number)

    def _refuse_during_transfer(self) -> None:
        if self._transferee != NOBODY:
            raise BusyError(f"the lead is being handed to member {self._transferee}: try again")

    def _hand_over(self) -> None:
        peer = self.replication.peers.get(self._transferee)
        if peer is not None and peer.match_index == self._log.last_index:
            self._send_timeout_now(self._transferee)

    def _send_timeout_now(self, to: MemberId) -> None:
        self._has_handed_over = True
        self._member.messages.append(
            TimeoutNow(sender=self._member.me, to=to, term=self._member.term)
        )
