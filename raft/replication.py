"""Replication: what the leader sends to each peer, and what it learns from the answers.

Entries go out when `Raft.ready` is called, all of one moment in one message: new ones straight
from memory, older ones from the log view. Nothing waits for the leader's own disk.

A lost Append needs no timer of its own. A heartbeat names, as the entry before it, the last entry
that was sent; a peer that missed some refuses it and says how far it is. A refusal that arrives out
of order costs a repeated message and nothing else: entries that a peer has are not appended twice.
"""

from collections.abc import Sequence

from .member import Member
from .messages import Append, AppendReply, Message, Restore
from .progress import Peer, PeerProgress, PeerState
from .rounds import Rounds
from .types import Config, Entry, MemberId


class Replication:
    """All peers of a leader, in one term."""

    __slots__ = (
        "_log",
        "_member",
        "_round_commit",
        "_rounds",
        "_settings",
        "has_due",
        "peers",
        "tick",
    )

    def __init__(self, member: Member, rounds: Rounds) -> None:
        self._member = member
        self._log = member.log
        self._settings = member.settings
        self._rounds = rounds
        self._round_commit = 0  # what was committed when the newest round began
        self.tick = 0  # ticks since the leader was elected
        self.peers: dict[MemberId, Peer] = {}
        self.has_due = False  # some peer may be sent entries
        self.follow_config(member.membership.config)

    def follow_config(self, config: Config) -> None:
        """Begin with new members, and forget those that were removed."""
        peers = sorted(config.members - {self._member.me})
        self.peers = {
            peer: self.peers.get(peer) or Peer(next_index=self._log.last_index + 1, tick=self.tick)
            for peer in peers
        }
        self.has_due = True

    def send_entries(self, fresh: tuple[Entry, ...]) -> None:
        """Send every peer what it lacks, as far as it may be sent now.

        `fresh` are the entries that leave with this Ready: the log view does not have them yet.
        """
        self.has_due = False
        fresh_bytes = sum(entry.size_bytes for entry in fresh)
        last = self._log.last_index
        for to, peer in self.peers.items():
            while peer.next_index <= last and peer.may_send(self._settings):
                if not self._send_some(to, peer, fresh, fresh_bytes):
                    break

    def send_round(self) -> None:
        """Begin a round: a heartbeat to everybody."""
        self._rounds.begin(self.tick)
        self._round_commit = self._log.commit_index
        for to, peer in self.peers.items():
            self._send_heartbeat(to, peer)

    def send_commit_news(self) -> None:
        """Tell those who do not know what is committed."""
        for to, peer in self.peers.items():
            if peer.commit_sent < min(self._log.commit_index, peer.next_index - 1):
                self._send_heartbeat(to, peer)

    def retry(self) -> None:
        """Try again what the log view could not serve, and snapshots that nobody answered."""
        for peer in self.peers.values():
            if peer.state is PeerState.REPLICATE:
                peer.is_waiting = False
            elif (
                peer.state is PeerState.RESTORE
                and self.tick - peer.restore_tick >= self._settings.election_ticks
            ):
                peer.probe(peer.match_index + 1)
        self.has_due = True

    def entries_available(self) -> None:
        """Try again what the log view could not serve."""
        for peer in self.peers.values():
            peer.is_waiting = False
        self.has_due = True

    def on_reply(self, reply: AppendReply) -> bool:
        """Take an answer; tell whether it says anything new about what is durable."""
        peer = self.peers.get(reply.sender)
        if (
            peer is None
            or not 0 <= reply.match_index <= self._log.last_index
            or reply.context > self._rounds.current
        ):
            self._member.refuse_message()
            return False
        peer.heard_tick = self.tick
        peer.round = max(peer.round, reply.context)
        if reply.rejected:
            self._rejected(peer, reply)
            return False
        is_news = peer.accepted(reply.match_index)
        if reply.context == self._rounds.current:  # it saw a message sent after the round began
            peer.commit_known = max(peer.commit_known, min(self._round_commit, reply.match_index))
        if peer.next_index <= self._log.last_index:
            self.has_due = True
        return is_news

    def unreachable(self, to: MemberId) -> None:
        """Take the hint that what is under way to a peer is lost: it answers a heartbeat first."""
        peer = self.peers.get(to)
        if peer is not None:
            peer.probe(peer.match_index + 1, is_waiting=True)

    def progress(self) -> dict[MemberId, PeerProgress]:
        """Show what is known of each peer."""
        return {
            member: PeerProgress(
                match_index=peer.match_index,
                next_index=peer.next_index,
                state=peer.state,
                is_active=self.tick - peer.heard_tick <= self._settings.election_ticks,
            )
            for member, peer in self.peers.items()
        }

    def _rejected(self, peer: Peer, reply: AppendReply) -> None:
        """Step back to where the logs may meet; refusals of long ago are recognised and ignored."""
        is_old = reply.hint_index < peer.match_index or reply.hint_index >= peer.next_index - 1
        if peer.state is PeerState.RESTORE or is_old:
            return
        peer.probe(self._log.newest_common(reply.hint_index, reply.hint_term) + 1)
        self.has_due = True

    def _send_some(
        self, to: MemberId, peer: Peer, fresh: tuple[Entry, ...], fresh_bytes: int
    ) -> bool:
        """Send one message with entries, or a snapshot; tell whether more may follow."""
        previous = peer.next_index - 1
        previous_term = self._log.term_at(previous)
        if previous_term is None:
            return self._send_snapshot(to, peer)
        size_max = self._settings.append_bytes_max
        if fresh and previous + 1 == fresh[0].index and fresh_bytes <= size_max:
            entries: Sequence[Entry] = fresh
            size_bytes = fresh_bytes
        else:
            entries = self._older_entries(peer.next_index, fresh)
            size_bytes = sum(entry.size_bytes for entry in entries)
        if not entries:
            peer.is_waiting = True
            return False
        assert entries[0].index == previous + 1, "the log view served other entries"
        self._send(to, peer, previous, previous_term, tuple(entries))
        peer.sent(entries[-1].index, size_bytes)
        return True

    def _older_entries(self, first: int, fresh: tuple[Entry, ...]) -> Sequence[Entry]:
        size_max = self._settings.append_bytes_max
        if not fresh or first < fresh[0].index:
            last = fresh[0].index - 1 if fresh else self._log.last_index
            return self._member.view.entries(first, last, size_max)
        start = end = first - fresh[0].index
        size_bytes = 0
        while end < len(fresh) and (end == start or size_bytes + fresh[end].size_bytes <= size_max):
            size_bytes += fresh[end].size_bytes
            end += 1
        return fresh[start:end]

    def _send_snapshot(self, to: MemberId, peer: Peer) -> bool:
        snapshot = self._member.view.snapshot()
        if snapshot is None:
            peer.is_waiting = True
            return False
        assert snapshot.index <= self._log.commit_index, "a snapshot of what is not committed"
        assert self._log.term_at(snapshot.index) == snapshot.term, "a snapshot not of our log"
        peer.restore(snapshot.index, self.tick)
        self._out.append(
            Restore(sender=self._member.me, to=to, term=self._member.term, snapshot=snapshot)
        )
        return False

    def _send_heartbeat(self, to: MemberId, peer: Peer) -> None:
        index = peer.next_index - 1
        term = self._log.term_at(index)
        if term is None:  # it needs a snapshot: the beginning is all we surely share
            index, term = 0, 0
            if peer.state is PeerState.REPLICATE:  # it can no longer tell us what it missed
                peer.probe(peer.match_index + 1)
                self.has_due = True
        self._send(to, peer, index, term, ())

    def _send(
        self, to: MemberId, peer: Peer, index: int, term: int, entries: tuple[Entry, ...]
    ) -> None:
        commit = self._log.commit_index
        peer.commit_sent = min(commit, index + len(entries))
        self._out.append(
            Append(
                sender=self._member.me,
                to=to,
                term=self._member.term,
                prev_index=index,
                prev_term=term,
                entries=entries,
                commit=commit,
                context=self._rounds.current,
            )
        )

    @property
    def _out(self) -> list[Message]:
        return self._member.messages
