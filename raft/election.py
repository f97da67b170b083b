"""Elections: the way from follower over pre-candidate and candidate to leader.

    follower ──silence──► pre-candidate ──majority would──► candidate ──majority did──► leader
        ▲                     │ would not, silence              │ did not, silence
        └─────────────────────┴─────────────────────────────────┘

Pre-votes (dissertation 9.6) ask whether an election could be won before the term is raised: a
member that was cut off, or was removed and does not know, cannot depose a leader that works. For
the same reason a member that hears from a leader ignores candidates, unless the leader itself sent
them (transfer).

A candidate's vote for itself counts, like any other, only when it is durable.
"""

from .leading import Leadership
from .member import Member
from .messages import TimeoutNow, VoteReply, VoteRequest
from .quorum import VoteResult, vote_result
from .types import NOBODY, Role


def tick(member: Member) -> None:
    """Count a tick of a member that does not lead."""
    if not member.is_time_to_campaign():
        return
    if member.may_stand:
        campaign(member)
    else:
        member.become_follower(member.term, NOBODY)


def campaign(member: Member) -> None:
    """Ask for pre-votes, if we may stand; the group is leaderless as far as we know."""
    if not member.may_stand:
        return
    member.role = Role.PRE_CANDIDATE
    member.leader = NOBODY
    member.votes = {member.me: True}
    member.reset_timer()
    for voter in _other_voters(member):
        member.messages.append(
            VoteRequest(
                sender=member.me,
                to=voter,
                term=member.term + 1,
                last_index=member.log.last_index,
                last_term=member.log.last_term,
                is_pre=True,
            )
        )
    _count_votes(member)


def on_vote_request(member: Member, request: VoteRequest) -> None:
    """Say whether the candidate has our vote, or would have it."""
    is_up_to_date = member.log.is_up_to_date(request.last_index, request.last_term)
    if request.is_pre:
        is_newer = request.term > member.term
        granted = is_up_to_date and is_newer and not _goes_first(member, request)
    else:
        is_free = member.vote == NOBODY and member.leader == NOBODY
        granted = is_up_to_date and (is_free or member.vote == request.sender)
    if not is_up_to_date:
        member.refuse_older_log()
    if granted and not request.is_pre:
        member.grant_vote(request.sender)
    elif granted and member.role is Role.PRE_CANDIDATE:
        member.become_follower(member.term, NOBODY)  # it stands, so we do not
    reply = VoteReply(
        sender=member.me,
        to=request.sender,
        term=request.term if granted else member.term,
        is_pre=request.is_pre,
        granted=granted,
    )
    is_promise = granted and not request.is_pre
    (member.messages_after if is_promise else member.messages).append(reply)


def _goes_first(member: Member, request: VoteRequest) -> bool:
    """Tell whether the sender has to wait, because we ask the same at the same time.

    If each told the other yes, both would stand and have their own votes; where no third member is
    left to decide, nobody would lead for another election timeout. The sender tells us yes.
    """
    ours = (member.log.last_term, member.log.last_index, member.me)
    theirs = (request.last_term, request.last_index, request.sender)
    is_asked = request.sender in member.membership.config.voters
    return member.is_campaign_young and is_asked and ours > theirs


def on_vote_reply(member: Member, reply: VoteReply) -> None:
    """Count a vote, if it is for the campaign under way."""
    if reply.sender not in member.membership.config.voters:
        member.refuse_message()
        return
    if member.role is (Role.PRE_CANDIDATE if reply.is_pre else Role.CANDIDATE):
        if reply.is_pre and reply.granted and reply.term != member.term + 1:
            return  # for a campaign of long ago
        member.votes.setdefault(reply.sender, reply.granted)
        _count_votes(member)


def tell_term(member: Member, request: VoteRequest) -> None:
    """Refuse a candidate of an older term, so that it learns ours."""
    member.messages.append(
        VoteReply(
            sender=member.me,
            to=request.sender,
            term=member.term,
            is_pre=request.is_pre,
            granted=False,
        )
    )


def on_timeout_now(member: Member, message: TimeoutNow) -> None:
    """Take over from a leader that asks for it: nobody else needs to be asked first."""
    if member.role is not Role.FOLLOWER or message.sender != member.leader:
        member.refuse_message()
    elif member.may_stand:
        _stand(member, is_transfer=True)


def persisted(member: Member) -> None:
    """Count our own vote, if it has just become durable."""
    if member.role is Role.CANDIDATE and member.is_hard_state_durable:
        member.votes[member.me] = True
        _count_votes(member)


def _count_votes(member: Member) -> None:
    result = vote_result(member.membership.config.voters, member.votes)
    if result is VoteResult.LOST:
        member.become_follower(member.term, NOBODY)
    elif result is VoteResult.WON and member.role is Role.PRE_CANDIDATE:
        _stand(member, is_transfer=False)
    elif result is VoteResult.WON:
        _lead(member)


def _stand(member: Member, *, is_transfer: bool) -> None:
    member.enter_term(member.term + 1, member.me)
    member.role = Role.CANDIDATE
    member.leader = NOBODY
    member.votes = {}
    member.reset_timer()
    for voter in _other_voters(member):
        member.messages_after.append(
            VoteRequest(
                sender=member.me,
                to=voter,
                term=member.term,
                last_index=member.log.last_index,
                last_term=member.log.last_term,
                is_transfer=is_transfer,
            )
        )


def _lead(member: Member) -> None:
    member.role = Role.LEADER
    member.leader = member.me
    member.votes = {}
    member.leadership = Leadership(member)


def _other_voters(member: Member) -> list[int]:
    return sorted(member.membership.config.voters - {member.me})
