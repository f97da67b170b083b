"""Majorities, checked against a slow and obvious count."""

from hypothesis import given, settings
from hypothesis import strategies as st

from raft.quorum import VoteResult, majority_value, vote_result

NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=9)
VOTERS = st.frozensets(st.integers(1, 9), min_size=1)
VOTES = st.dictionaries(st.integers(1, 12), st.booleans())


@settings(deadline=None)
@given(NUMBERS)
def test_majority_has_reached_the_value_and_none_has_reached_more(numbers: list[int]) -> None:
    value = majority_value(numbers)
    assert 2 * sum(number >= value for number in numbers) > len(numbers)
    assert 2 * sum(number > value for number in numbers) <= len(numbers)


@settings(deadline=None)
@given(VOTERS, VOTES)
def test_election_is_decided_when_no_other_vote_can_change_it(
    voters: frozenset[int], votes: dict[int, bool]
) -> None:
    missing = voters - votes.keys()
    best = sum(votes.get(voter, True) for voter in voters)
    worst = best - len(missing)
    match vote_result(voters, votes):
        case VoteResult.WON:
            assert 2 * worst > len(voters)
        case VoteResult.LOST:
            assert 2 * best <= len(voters)
        case VoteResult.PENDING:
            assert 2 * worst <= len(voters) < 2 * best


def test_nobody_wins_without_voters() -> None:
    assert majority_value([]) == 0
    assert vote_result(frozenset(), {1: True}) is VoteResult.LOST
