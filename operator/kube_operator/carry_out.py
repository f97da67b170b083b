"""Carries a plan's actions out, one after the other. The first that fails ends it: the next look
sees what is true by then.

What somebody should know of becomes an event of the cluster: a pod that is replaced, a member that
is given up, another primary.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from fabric.ids import NodeName
from log_service.client import NodeAddress

from .actions import (
    Action,
    AddMember,
    Adopt,
    Amend,
    AnswerAction,
    AnswerRotation,
    AnswerSwitchover,
    Apply,
    Found,
    Hold,
    MakeAuthority,
    MakeCertificate,
    MakePasswords,
    Mark,
    NodeAction,
    Remove,
    RemoveMember,
    Rotate,
    SecretAction,
    SwitchOver,
    TakePassword,
    Transfer,
)
from .database import Database, Nodes
from .events import EventRecorder, Notice
from .kube_port import (
    CLUSTER,
    POD,
    SECRET,
    Conflict,
    Json,
    Key,
    Kind,
    KubePort,
    NotFound,
    key_of,
)
from .manifests.authority import Step, authority_in, ended, introduced, succeeded
from .manifests.configuration import (
    log_nodes,
    rpc_address,
    storage_addresses,
    wal_address,
)
from .manifests.secrets import (
    another_authority,
    authority_secret,
    decoded,
    internal_secret,
    is_taken,
    node_certificate,
    renewal_of,
    superuser_secret,
    taken,
)
from .names import (
    KEEPER,
    METRICS_PORT,
    PRIMARY,
    REFUSED,
    ROTATE,
    ROTATE_RESULT,
    RPC_PORT,
    SILENT,
    SWITCHOVER,
    SWITCHOVER_RESULT,
    Component,
)
from .observed import Observed, address_of, is_ready
from .ownership import is_kept, reference
from .runtime import View

_STEPS = {
    Step.INTRODUCED: "A new authority becomes known to all; it signs nothing yet.",
    Step.SUCCEEDED: "The new authority signs certificates.",
    Step.SETTLED: "The old authority is trusted no more.",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hands:
    """What actions are carried out with, for one cluster."""

    api: KubePort
    events: EventRecorder
    view: View
    cluster: Json
    seen: Observed
    database: Database | None
    """None: the cluster has no authority yet, so nobody can be called."""

    async def carry_out(self, action: Action) -> None:
        """Carry out one action; KubeError, RpcError."""
        log.info("action", cluster=str(self.view.key), what=_in_words(action))
        match action:
            case Apply(kind, manifest):
                await self.api.apply(kind, self._owned(kind, manifest))
            case Amend():
                await amend(self.api, self.seen.names.namespace, action)
            case Hold(holds):
                await hold(self.api, self.cluster, holds=holds)
            case Remove(kind, name, uid, reason):
                if reason:
                    self._note("Removing", f"{kind.kind} {name} is removed: {reason}.")
                with contextlib.suppress(NotFound):  # somebody was faster
                    await self.api.delete(kind, self._key(name), uid=uid)
            case Mark(pod, label, value):
                await self._mark(pod, label, value)
            case AnswerSwitchover() | AnswerRotation():
                await self._answer(action)
            case MakeAuthority() | MakePasswords() | MakeCertificate() | TakePassword() | Rotate():
                await self._make_secret(action)
            case _:
                if self.database is not None:
                    await self._ask(self.database, action)

    # --- Kubernetes ---------------------------------------------------------------------------

    async def _mark(self, pod: str, label: str, value: str | None) -> None:
        if value == PRIMARY:
            self._note("Primary", f"{pod} is the primary.")
        if value == SILENT:
            self._note("Silent", f"{pod} does not answer: its Service goes past it.")
        await self.api.patch(POD, self._key(pod), {"metadata": {"labels": {label: value}}})

    async def _answer(self, action: AnswerAction) -> None:
        request, result = action.request, action.result
        if isinstance(action, AnswerSwitchover):
            reason, what = "SwitchoverRefused", "There is no switchover"
            annotations = {SWITCHOVER: request, SWITCHOVER_RESULT: result}
        else:
            reason, what = "RotationRefused", "Certificates are not rotated"
            annotations = {ROTATE: request, ROTATE_RESULT: result}
        if result is not None and result.startswith(REFUSED):
            message = f"{what}: {result.removeprefix(REFUSED)}"
            self.events.note(self.cluster, Notice("Warning", reason, message))
        changes = {"metadata": {"annotations": annotations}}
        names, version = self.seen.names, self.cluster["metadata"]["resourceVersion"]
        with contextlib.suppress(Conflict):  # it may be another request by now: the next look sees
            key = self._key(names.cluster)
            await self.api.patch(CLUSTER, key, changes, resource_version=version)

    async def _make_secret(self, action: SecretAction) -> None:
        names = self.seen.names
        match action:
            case MakeAuthority():
                await self._create_secret(authority_secret(names))
            case MakePasswords():
                await self._make_passwords()
            case MakeCertificate(component, node):
                authority = self._secret(names.authority_secret)
                if authority is not None:
                    made = node_certificate(names, authority, component, node)
                    await self.api.apply(SECRET, self._owned(SECRET, made))
            case TakePassword():
                await self._take_password()
            case Rotate(step, signer):
                await self._rotate(step, signer)

    async def _make_passwords(self) -> None:
        names = self.seen.names
        superuser = self._secret(names.superuser_secret)
        if superuser is None:
            superuser = await self._create_secret(superuser_secret(names))
        if self._secret(names.internal_secret) is None and superuser is not None:
            password = decoded(superuser["data"], "password").decode()
            await self._create_secret(internal_secret(names, password))

    async def _take_password(self) -> None:
        """Both Secrets, that with the verifier last: as long as it has the old one, again."""
        names = self.seen.names
        superuser = self._secret(names.superuser_secret)
        internal = self._secret(names.internal_secret)
        if superuser is None or internal is None or is_taken(superuser, internal):
            return
        forms, statements = taken(names, superuser, internal)
        if await self._change_secret(superuser, forms):
            await self._change_secret(internal, statements)
            self._note("PasswordTaken", f"The password of {names.superuser_secret} is taken over.")

    async def _rotate(self, step: Step, signer: str) -> None:
        secret = self._secret(self.seen.names.authority_secret)
        if secret is None:
            return
        authority, now = authority_in(secret), datetime.now(UTC)
        if (authority.signer, authority.step) != (signer, _before(step)):
            return  # it was done already
        if await self._change_secret(secret, self._changes_for(step, secret, now)):
            self._note("RotatingCertificates", _STEPS[step])

    def _changes_for(self, step: Step, secret: Json, now: datetime) -> Json:
        match step:
            case Step.INTRODUCED:
                return introduced(another_authority(self.seen.names), now)
            case Step.SUCCEEDED:
                renew = renewal_of(decoded(secret["data"], "next.crt"))
                return succeeded(secret, now, renew=renew)
            case Step.SETTLED:
                return ended(now)

    async def _change_secret(self, secret: Json, changes: Json) -> bool:
        """Change a Secret that is as it was seen; False: it is not, and the next look sees more."""
        metadata = secret["metadata"]
        try:
            await self.api.patch(
                SECRET,
                self._key(metadata["name"]),
                changes,
                resource_version=metadata["resourceVersion"],
            )
        except (Conflict, NotFound):
            return False
        return True

    async def _create_secret(self, manifest: Json) -> Json | None:
        """Make a Secret; one that is there stays, because others may use it already."""
        try:
            return await self.api.create(SECRET, self._owned(SECRET, manifest))
        except Conflict:
            return None

    def _secret(self, name: str) -> Json | None:
        """Return a Secret as it is by now: this very plan may have made it."""
        secrets = self.view.owned(SECRET)
        return next((one for one in secrets if one["metadata"]["name"] == name), None)

    def _owned(self, kind: Kind, manifest: Json) -> Json:
        """Return a manifest with its owner, unless it is to outlive the cluster."""
        names, metadata = self.seen.names, manifest["metadata"]
        if is_kept(names, self.seen.spec.deletion_policy, kind, metadata["name"]):
            return manifest
        owners = [reference(names, self.seen.uid)]
        return {**manifest, "metadata": {**metadata, "ownerReferences": owners}}

    def _key(self, name: str) -> Key:
        return Key(self.seen.names.namespace, name)

    # --- The database -------------------------------------------------------------------------

    async def _ask(self, database: Database, action: NodeAction) -> None:
        match action:
            case Found():
                members = [self._member(n) for n in log_nodes(self.seen.names, self.seen.spec)]
                storage = storage_addresses(self.seen.names, self.seen.spec)
                await database.found(storage, members)
                self._note("Founded", "The database is made.")
            case Adopt(node, sources):
                self._note("Filling", f"Storage node {node} is filled.")
                await database.adopt(
                    rpc_address(self.seen.names, Component.STORAGE, node),
                    [rpc_address(self.seen.names, Component.STORAGE, one) for one in sources],
                )
            case AddMember(node):
                self._note("AddingMember", f"{node} becomes a member of the log.")
                await database.add_member(self._member(node))
            case RemoveMember(node, member):
                self._note("RemovingMember", f"{node} is no member of the log any more.")
                await database.remove_member(member)
            case Transfer(to):
                await database.transfer(to)
            case SwitchOver(to):
                self._note("Switchover", f"{to} becomes the primary.")
                await database.switchover(to)

    def _member(self, node: str) -> NodeAddress:
        names = self.seen.names
        rpc = rpc_address(names, Component.LOG, node)
        return NodeAddress(NodeName(node), rpc, wal_address(names, node))

    def _note(self, reason: str, message: str) -> None:
        self.events.note(self.cluster, Notice("Normal", reason, message))


async def amend(api: KubePort, namespace: str, action: Amend) -> None:
    """Merge changes into that very object, if it is there still."""
    metadata = {**action.changes.get("metadata", {}), "uid": action.uid}  # another one: Conflict
    changes = {**action.changes, "metadata": metadata}
    with contextlib.suppress(NotFound):
        await api.patch(action.kind, Key(namespace, action.name), changes)


async def hold(api: KubePort, cluster: Json, *, holds: bool) -> None:
    """Give a cluster our finalizer, or take it away; those of others stay."""
    metadata = cluster["metadata"]
    others = [one for one in metadata.get("finalizers") or () if one != KEEPER]
    changes = {"metadata": {"finalizers": [*others, KEEPER] if holds else others}}
    with contextlib.suppress(NotFound):
        await api.patch(
            CLUSTER, key_of(cluster), changes, resource_version=metadata["resourceVersion"]
        )


def _before(step: Step) -> Step:
    """Return the step that another one follows."""
    steps = (Step.SETTLED, Step.INTRODUCED, Step.SUCCEEDED)
    return steps[steps.index(step) - 1]


def nodes_of(seen: Observed) -> Nodes:
    """Return which nodes have an address, and where others know them."""
    found: dict[Component, dict[str, str]] = {Component.LOG: {}, Component.STORAGE: {}}
    reach = {}
    for component, addresses in found.items():
        for node, pod in seen.pods(component).items():
            host = address_of(pod)
            if host:
                known = addresses[node] = rpc_address(seen.names, component, node)
                reach[known] = (
                    f"tcp://[{host}]:{RPC_PORT}" if ":" in host else f"tcp://{host}:{RPC_PORT}"
                )
    gateways = {
        name: (address_of(pod), METRICS_PORT)
        for name, pod in seen.pods(Component.GATEWAY).items()
        if is_ready(pod)
    }
    return Nodes(found[Component.LOG], found[Component.STORAGE], reach, gateways)


def _in_words(action: Action) -> str:
    """Return an action for the log, without what is in manifests."""
    match action:
        case Apply(kind, manifest):
            return f"apply {kind.kind} {manifest['metadata']['name']}"
        case Remove(kind, name):
            return f"remove {kind.kind} {name}"
        case Amend(kind, name):
            return f"amend {kind.kind} {name}"
        case _:
            values: Any = [getattr(action, name) for name in action.__slots__]
            return " ".join([type(action).__name__, *map(str, values)])
