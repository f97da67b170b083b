"""What operators ask a storage node for: `node_methods.py`, carried out by the node."""

from typing import Final

from fabric.ids import Role
from fabric.rpc import Call, Reply
from fabric.rpc_errors import FailedError
from sqlnode.initdb import InitdbError

from .branch_records import BranchRecordError
from .first_cut import TemplateError
from .methods import Done
from .node import StorageNode
from .node_methods import (
    ADOPT_BRANCH,
    FORGET_BRANCH,
    FOUND_CLUSTER,
    AdoptBranch,
    ForgetBranch,
    FoundCluster,
    Founded,
)
from .page_store import StoreError

MANAGERS: Final = frozenset({Role.ADMIN, Role.OPERATOR})


class NodeHandlers:
    """The methods of one node."""

    def __init__(self, node: StorageNode) -> None:
        self._node = node

    def serve(self) -> None:
        """Offer everything on the node's RPC server."""
        rpc = self._node.rpc
        rpc.add(FOUND_CLUSTER, self.found_cluster, roles=MANAGERS)
        rpc.add(ADOPT_BRANCH, self.adopt_branch, roles=MANAGERS)
        rpc.add(FORGET_BRANCH, self.forget_branch, roles=MANAGERS)

    async def found_cluster(self, call: Call, request: FoundCluster) -> Reply[Founded]:
        """Make a new cluster; the payload is the beginning of its WAL."""
        del call
        try:
            record = await self._node.found(request.branch)
        except (BranchRecordError, InitdbError, StoreError, TemplateError) as error:
            raise FailedError(str(error)) from error
        genesis = record.genesis
        assert genesis is not None, "a cluster that was founded has one"
        founded = Founded(
            system_identifier=genesis.system_identifier,
            tli=genesis.tli,
            start=genesis.start,
            segment_bytes=genesis.segment_bytes,
            server_version=genesis.server_version,
        )
        return Reply(founded, record.first_wal)

    async def adopt_branch(self, call: Call, request: AdoptBranch) -> Reply[Done]:
        """Keep a branch from now on."""
        del call
        try:
            self._node.adopt(request.branch, request.sources)
        except BranchRecordError as error:
            raise FailedError(str(error)) from error
        return Reply(Done())

    async def forget_branch(self, call: Call, request: ForgetBranch) -> Reply[Done]:
        """Delete all that is here of a branch."""
        del call
        await self._node.forget(request.branch)
        return Reply(Done())
