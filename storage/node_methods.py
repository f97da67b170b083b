"""What operators ask of a storage node: which branches it keeps. Pages are in `methods.py`."""

from typing import Annotated, Final

import msgspec

from fabric.ids import BranchName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from fabric.rpc import Method

from .methods import Done

ADDRESSES_MAX: Final = 16
_Address = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class FoundCluster(msgspec.Struct, frozen=True):
    """Makes a new PostgreSQL cluster as the first cut of a branch that does not exist yet.

    Harmless to repeat: a branch that has a cut is described as it is.
    """

    branch: BranchName


class Founded(msgspec.Struct, frozen=True):
    """What a log has to know to begin with the branch: its genesis."""

    system_identifier: SystemIdentifier
    tli: Tli
    start: Lsn
    segment_bytes: int
    server_version: str


class AdoptBranch(msgspec.Struct, frozen=True):
    """Keeps a branch from now on. Its first cut is copied from one of the nodes at `sources`, or
    from the object store if there are none. Harmless to repeat.
    """

    branch: BranchName
    sources: Annotated[tuple[_Address, ...], msgspec.Meta(max_length=ADDRESSES_MAX)] = ()


class ForgetBranch(msgspec.Struct, frozen=True):
    """Deletes all that is here of a branch. Other nodes, and the object store, keep theirs."""

    branch: BranchName


FOUND_CLUSTER: Final = Method("storage.found_cluster", FoundCluster, Founded)
ADOPT_BRANCH: Final = Method("storage.adopt_branch", AdoptBranch, Done)
FORGET_BRANCH: Final = Method("storage.forget_branch", ForgetBranch, Done)
