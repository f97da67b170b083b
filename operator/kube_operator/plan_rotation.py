"""Another authority for a cluster, when the old one is old or somebody asks for it. Pure.

    introduce   the new one is trusted, too; it signs nothing     then all pods are replaced
    succeed     the new one signs; the old one is still trusted   then all pods are replaced
    end         the old one is trusted no more                    then all pods are replaced

Nodes read certificates when they start, so a step is over when every pod is made of the Secrets of
that step, and all is well: then any two nodes trust each other, before the next step and during it.
What is known of a rotation is in the authority's Secret alone (manifests/authority.py); whoever
stops at any moment, and begins again, goes on.

A request is an annotation, which is answered by another one, as with switchovers:

    seawall.dev/rotate-certificates: now
    seawall.dev/rotate-certificates: instead-of=3f0c...      the authority that is to go
    seawall.dev/rotate-certificates-result: ...              and no request any more
"""

from typing import Final

from .actions import AnswerRotation, Rotate
from .kube_port import DEPLOYMENT, Json
from .manifests.authority import KNOWN_BEFORE, Authority, Step
from .manifests.gateway import gateway_deployment, gateway_node
from .manifests.pods import revision_of
from .names import REFUSED, ROTATE, Component
from .observed import Observed, has_ended
from .plan_certificates import is_certified
from .plan_nodes import wanted_pod
from .plan_rollout import is_calm

DONE: Final = "Another authority signs the certificates, and the old one is trusted no more."
_LAST: Final = "The old authority is trusted no more; pods that still trust it are replaced."
_ACCEPTED: Final = "instead-of="
_NODES: Final = (Component.LOG, Component.STORAGE, Component.COMPUTE)


def plan_rotation(seen: Observed) -> AnswerRotation | Rotate | None:
    """Say what is to be done; None: nothing, or it has to wait."""
    request = seen.annotations.get(ROTATE)
    authority = seen.authority
    if authority is None:
        return None
    if request is not None and not request.startswith(_ACCEPTED):
        return _hear(seen, authority)
    is_asked = request is not None
    if authority.step is Step.SETTLED and _is_succeeded(request, authority):
        # Who asks because a key was stolen wants to hear when nobody takes it any more.
        return AnswerRotation(None, DONE) if _all_have_it(seen) else None
    if seen.spec.paused or authority.renew is None:
        return None
    step = _next_step(seen, authority, is_asked=is_asked)
    if step is None or not _all_have_it(seen):
        return None
    return Rotate(step, authority.signer)


def _is_succeeded(request: str | None, authority: Authority) -> bool:
    """Whether the authority that was to go, as an accepted request says, signs no more."""
    is_accepted = request is not None and request.startswith(_ACCEPTED)
    return is_accepted and request != _ACCEPTED + authority.signer


def _hear(seen: Observed, authority: Authority) -> AnswerRotation:
    """Accept or refuse what somebody has written."""
    if seen.spec.paused:
        return AnswerRotation(None, f"{REFUSED}spec.paused is true.")
    if authority.renew is None:
        secret = seen.names.authority_secret
        why = f"Secret {secret} is not the operator's: whoever has made it has to renew it."
        return AnswerRotation(None, f"{REFUSED}{why}")
    return AnswerRotation(_ACCEPTED + authority.signer)


def _next_step(seen: Observed, authority: Authority, *, is_asked: bool) -> Step | None:
    """Return the step that comes next; None: there is none yet."""
    assert authority.renew is not None, "it is ours"
    match authority.step:
        case Step.SETTLED:
            is_due = is_asked or seen.now >= authority.renew
            return Step.INTRODUCED if is_due else None
        case Step.INTRODUCED:
            since = authority.since
            is_known = since is None or seen.now - since >= KNOWN_BEFORE
            return Step.SUCCEEDED if is_asked or is_known else None
        case Step.SUCCEEDED:
            return Step.SETTLED


def _all_have_it(seen: Observed) -> bool:
    """Whether all that runs was made of what the Secrets are now, and is well."""
    return is_calm(seen) and _all_nodes_have(seen) and _all_gateways_have(seen)


def _all_nodes_have(seen: Observed) -> bool:
    """Also one that is about to go: until it has gone it talks to others."""
    return all(
        is_certified(seen, node) and _is_made_of(pod, wanted_pod(seen, component, node))
        for component in _NODES
        for node, pod in seen.pods(component).items()
        if not has_ended(pod)
    )


def _all_gateways_have(seen: Observed) -> bool:
    pods = [pod for pod in seen.pods(Component.GATEWAY).values() if not has_ended(pod)]
    deployment = seen.of(DEPLOYMENT).get(seen.names.of(Component.GATEWAY))
    if deployment is None:
        return not pods
    node = gateway_node(seen.names)
    certificate = seen.certificate(node)
    if certificate is None or not is_certified(seen, node):
        return False
    wanted = gateway_deployment(seen.names, seen.spec, seen.images, certificate=certificate)
    template = wanted["spec"]["template"]
    are_new = all(_is_made_of(one, template) for one in (deployment["spec"]["template"], *pods))
    return are_new and _is_rolled_out(deployment, seen.spec.gateway.replicas)


def _is_made_of(pod: Json, wanted: Json | None) -> bool:
    return wanted is not None and revision_of(pod) == revision_of(wanted)


def _is_rolled_out(deployment: Json, count: int) -> bool:
    """Whether there are as many pods of its template as wanted, and no others to come."""
    status = deployment.get("status") or {}
    is_seen = status.get("observedGeneration") == deployment["metadata"].get("generation")
    counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")}
    return is_seen and counts == {count}


def rotation_in_words(seen: Observed) -> str:
    """Say how far a rotation is; empty: there is none."""
    authority = seen.authority
    if authority is None:
        return ""
    match authority.step:
        case Step.SETTLED:
            return _LAST if _is_succeeded(seen.annotations.get(ROTATE), authority) else ""
        case Step.INTRODUCED:
            is_asked = ROTATE in seen.annotations
            if is_asked or authority.since is None:
                return "A new authority becomes known to all."
            begins = authority.since + KNOWN_BEFORE
            return f"A new authority becomes known to all, and signs from {begins:%Y-%m-%d} on."
        case Step.SUCCEEDED:
            return "A new authority signs; certificates of the old one are replaced."
