"""What a node answers to computes and their managers: see `compute_methods.py` and `elector.py`."""

from fabric.ids import Role
from fabric.rpc import Call, Reply
from fabric.rpc_errors import BadRequestError, DeniedError

from .answering import MANAGERS, READERS, REPORTERS, host_of, leading, proposed, verify_address
from .compute_methods import (
    LIST_COMPUTES,
    READ_NOTES,
    REPORT,
    SET_NOTE,
    SWITCHOVER,
    ComputeReport,
    Computes,
    ComputeState,
    Notes,
    Orders,
    SetNote,
    Switchover,
)
from .election import SwitchoverError
from .methods import Done, Granted, OfBranch
from .node import LogNode
from .record_bodies import Note
from .status import topology_of


class ComputeHandlers:
    """These methods of one node."""

    def __init__(self, node: LogNode) -> None:
        self._node = node

    def serve(self) -> None:
        """Offer them on the node's RPC server."""
        rpc = self._node.rpc
        rpc.add(REPORT, self.report, roles=REPORTERS)
        rpc.add(SWITCHOVER, self.switchover, roles=MANAGERS)
        rpc.add(LIST_COMPUTES, self.list_computes, roles=READERS)
        rpc.add(SET_NOTE, self.set_note, roles=REPORTERS)
        rpc.add(READ_NOTES, self.read_notes, roles=REPORTERS)

    async def report(self, call: Call, request: ComputeReport) -> Reply[Orders]:
        """Hear how a compute is, and give it orders."""
        identity = call.peer.identity
        if identity is not None and identity.role is Role.COMPUTE and identity.node != request.name:
            raise DeniedError(f"{identity.node} cannot report for {request.name}")
        if request.state is ComputeState.REPLICA:  # it may be chosen
            verify_address(request.address)
        host = host_of(self._node, request.branch)
        return Reply(await host.elector.report(request))

    async def switchover(self, call: Call, request: Switchover) -> Reply[Granted]:
        """Make another compute the primary."""
        del call
        elector = host_of(self._node, request.branch).elector
        try:
            return Reply(await elector.switchover(request.to, by_force=request.by_force))
        except SwitchoverError as error:
            raise BadRequestError(str(error)) from error

    async def list_computes(self, call: Call, request: OfBranch) -> Reply[Computes]:
        """Say what the computes said."""
        del call
        host = host_of(self._node, request.branch)
        computes = host.elector.computes()
        return Reply(Computes(computes, topology_of(host, self._node.settings.name)))

    async def set_note(self, call: Call, request: SetNote) -> Reply[Done]:
        """Keep a note, if nobody else is the primary by now."""
        del call
        group = leading(self._node, request.branch)
        assert group.tail is not None, "who leads has a tail"
        if request.epoch != group.tail.epoch:
            raise BadRequestError(
                f"epoch {request.epoch} was superseded by epoch {group.tail.epoch}"
            )
        if (group.tail.notes or {}).get(request.name) != request.content:
            await proposed(group.propose(Note(request.name, request.content)))
        return Reply(Done())

    async def read_notes(self, call: Call, request: OfBranch) -> Reply[Notes]:
        """Return the notes as they are now: a primary builds on what the last one left."""
        del call
        group = leading(self._node, request.branch)
        await proposed(group.confirm_lead())
        notes = sorted((group.committed.notes or {}).items())
        sizes = tuple((name, len(content)) for name, content in notes)
        return Reply(Notes(sizes), b"".join(content for _, content in notes))
