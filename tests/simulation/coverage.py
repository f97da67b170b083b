"""What a set of seeds must have met, so that a simulation that exercises nothing fails."""

from collections.abc import Mapping
from typing import Final

SEEDS_ENOUGH: Final = 50  # fewer may miss something by chance

REQUIRED: Final = (
    # every message
    "VoteRequest",
    "VoteReply",
    "Append",
    "AppendReply",
    "Restore",
    "TimeoutNow",
    # every fault
    "crashed",
    "restarted",
    "power cut",
    "crash during a sync",
    "torn tail cut",
    "disk destroyed",
    "disk speed changed",
    "stopped",
    "resumed",
    "clock speed changed",
    "clock jumped",
    "cut one way",
    "cut both ways",
    "links mended",
    "leader deposed",
    "election contested",
    "weather changed",
    "message lost",
    "message repeated",
    "message cut off",
    "connection broken",
    "clients fall silent",
    "told to campaign",
    "told: leader unreachable",
    "told: peer unreachable",
    "entries not at hand",
    # what they lead to
    "leads",
    "stepped down",
    "cut its log",
    "restored",
    "trimmed",
    "several Readys under way",
    "rests",
    "woke up",
    "transfer began",
    "transfer refused",
    "change of members proposed",
    "change of members refused",
    "change of members refused: not the leader, or busy",
    # what the users saw
    "acknowledged",
    "refused: not the leader",
    "refused: busy",
    "refused by the fence",
    "epoch granted",
    "WAL acknowledged",
    "read by lease",
    "read by round",
    "read refused",
    "read confirmed",
    "settled",
)


def missing(counts: Mapping[str, int]) -> list[str]:
    """What should have happened and never did."""
    return [what for what in REQUIRED if not counts[what]]
