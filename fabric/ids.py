"""Who and what things are: clusters, branches, nodes, roles, epochs, cuts.

Every id is a small subclass of `int` or `str` that cannot be made from a bad value. So a value is
validated once, at the edge where it becomes an id (`codec.py` does so for RPC and settings), and a
function that takes a `BranchName` need not ask what is in it.
"""

import re
from enum import StrEnum
from typing import Final, Self

U64_MAX: Final = 2**64 - 1
NAME_CHARACTERS_MAX: Final = 63  # a DNS label, because Kubernetes makes host names of them

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


class Role(StrEnum):
    """What a node is allowed to be; the middle part of the URI in its certificate."""

    ADMIN = "admin"
    COMPUTE = "compute"
    GATEWAY = "gateway"
    LOG = "log"
    OPERATOR = "operator"
    STORAGE = "storage"


class SystemIdentifier(int):
    """PostgreSQL's own number of a cluster, from pg_control; printed in decimal."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """Refuse a number that does not fit 64 bits."""
        return int.__new__(cls, _u64("a system identifier", value))


class Epoch(int):
    """The generation of a branch's primary: granted by the log, only ever grows, fences."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """Refuse a number that does not fit 64 bits."""
        return int.__new__(cls, _u64("an epoch", value))

    def next(self) -> "Epoch":
        """Return the epoch that supersedes this one."""
        return Epoch(self + 1)


class CutSeq(int):
    """The number of a cut within its branch: a later cut has a greater one."""

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        """Refuse a number that does not fit 64 bits."""
        return int.__new__(cls, _u64("a cut number", value))

    def next(self) -> "CutSeq":
        """Return the number of the cut after this one."""
        return CutSeq(self + 1)


class ClusterName(str):
    """The name of a PostgreSQL cluster, the unit a user creates."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Refuse what is not a DNS label."""
        return str.__new__(cls, _dns_label("a cluster name", value))


class BranchName(str):
    """The name of one history of a cluster; `main` is the first."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Refuse what is not a DNS label."""
        return str.__new__(cls, _dns_label("a branch name", value))


class NodeName(str):
    """The name of one node: a compute, a log node, a storage node, a gateway."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        """Refuse what is not a DNS label."""
        return str.__new__(cls, _dns_label("a node name", value))


def _u64(what: str, value: int) -> int:
    if not 0 <= value <= U64_MAX:
        raise ValueError(f"{what} must be 0 .. 2^64-1, not {value}")
    return value


def _dns_label(what: str, value: str) -> str:
    if _DNS_LABEL.fullmatch(value) is None:
        raise ValueError(
            f"{what} is 1 to {NAME_CHARACTERS_MAX} of a-z, 0-9 and inner hyphens, "
            f"not {value[: NAME_CHARACTERS_MAX + 1]!r}"
        )
    return value
