"""Following: what a member does with a leader's Append and Restore.

A follower acknowledges what it has on disk: acknowledgements of new entries wait in
`messages_after`. A heartbeat is answered at once, so that a slow disk does not look like a dead
member, but it acknowledges no more than what is durable already.

A message that no sound leader sends is counted and ignored, before anything has changed.
"""

from .member import Member
from .messages import Append, AppendReply, Restore
from .types import Entry, MemberId, Role


def on_append(member: Member, message: Append) -> None:
    """Append what follows our log, cut what contradicts the leader's, learn what is committed."""
    if not _hear(member, message):
        return
    log = member.log
    if not _is_sound(message):
        member.refuse_message()
    elif message.prev_index < log.commit_index:
        # Sent long ago: what we committed since is surely in the leader's log.
        _acknowledge(member, message, min(log.commit_index, log.stable_index))
    elif log.term_at(message.prev_index) != message.prev_term:
        _reject(member, message)
    else:
        last = message.prev_index + len(message.entries)
        _add(member, message.entries)
        log.commit_index = max(log.commit_index, min(message.commit, last))
        _acknowledge(member, message, last if message.entries else min(last, log.stable_index))


def on_restore(member: Member, message: Restore) -> None:
    """Start the log anew after a snapshot, unless we have more than that."""
    if not _hear(member, message):
        return
    snapshot, log = message.snapshot, member.log
    if not 0 < snapshot.term <= message.term:
        member.refuse_message()
        return
    if snapshot.index > log.commit_index:
        if log.term_at(snapshot.index) == snapshot.term:
            log.commit_index = snapshot.index
        else:
            log.restore(snapshot)
            member.membership.restore(snapshot)
            member.restore = snapshot
    _acknowledge(member, message, log.commit_index)


def tell_term(member: Member, sender: MemberId) -> None:
    """Answer a leader of an older term, so that it steps down."""
    member.messages.append(
        AppendReply(sender=member.me, to=sender, term=member.term, match_index=0, rejected=True)
    )


def _hear(member: Member, message: Append | Restore) -> bool:
    if member.role is Role.LEADER or (member.leader and member.leader != message.sender):
        member.refuse_message()  # two leaders in one term: one of them is not sound
        return False
    if member.role is not Role.FOLLOWER:
        member.become_follower(member.term, message.sender)
    member.leader = message.sender
    member.heard_leader()
    return True


def _is_sound(message: Append) -> bool:
    """Tell whether the entries follow each other, in terms that were before the message's own."""
    if message.prev_index < 0 or message.prev_term < 0:
        return False
    index, term = message.prev_index, max(1, message.prev_term)
    for entry in message.entries:
        index += 1
        if entry.index != index or entry.term < term or entry.size_bytes < 0:
            return False
        term = entry.term
    return term <= message.term


def _add(member: Member, entries: tuple[Entry, ...]) -> None:
    """Append the entries that we do not have, after cutting the first that differs, if any."""
    log, membership = member.log, member.membership
    if not entries:
        return
    if entries[0].index <= log.last_index:
        known = 0
        while known < len(entries) and log.term_at(entries[known].index) == entries[known].term:
            known += 1
        entries = entries[known:]
        if not entries:
            return
        if entries[0].index <= log.last_index:
            log.truncate_from(entries[0].index)
            membership.truncate_from(entries[0].index)
    log.append(entries)
    for entry in entries:
        if entry.config is not None:
            membership.appended(entry.index, entry.config)


def _acknowledge(member: Member, message: Append | Restore, match_index: int) -> None:
    reply = AppendReply(
        sender=member.me,
        to=message.sender,
        term=member.term,
        match_index=match_index,
        context=message.context if isinstance(message, Append) else 0,
    )
    if match_index <= member.log.stable_index and member.is_hard_state_durable:
        member.messages.append(reply)
    else:
        member.promise(reply)


def _reject(member: Member, message: Append) -> None:
    log = member.log
    index = log.newest_common(min(message.prev_index - 1, log.last_index), message.prev_term)
    index = max(index, log.commit_index)
    member.messages.append(
        AppendReply(
            sender=member.me,
            to=message.sender,
            term=member.term,
            match_index=0,
            context=message.context,
            rejected=True,
            hint_index=index,
            hint_term=log.term_at(index) or 0,
        )
    )
