"""What surrounds the nodes: Secrets, settings, Services, policies, the gateways. Pure."""

from collections.abc import Iterator
from typing import Final

from .actions import (
    Action,
    Apply,
    MakeAuthority,
    MakePasswords,
    Mark,
    Remove,
    TakePassword,
)
from .kube_port import (
    CONFIG_MAP,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    POD,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Json,
    Kind,
)
from .manifests.configuration import config_map
from .manifests.gateway import gateway_deployment, gateway_node
from .manifests.policies import disruption_budgets, network_policies, service_account
from .manifests.secrets import is_taken
from .manifests.services import services
from .names import SERVING, SERVING_LABEL, SILENT, Component
from .observed import Observed, differs, is_ending
from .plan_certificates import certificate_of

# What is deleted when it is wanted no more. Secrets stay: what is in them cannot be made again.
_KEPT_EXACT: Final = (SERVICE, CONFIG_MAP, DISRUPTION_BUDGET, NETWORK_POLICY, DEPLOYMENT)


def plan_objects(seen: Observed) -> Iterator[Action]:
    """Say what is missing, differs, or is too much."""
    yield from _secrets(seen)
    wanted = _wanted(seen)
    for kind, manifests in wanted.items():
        there = seen.of(kind)
        for manifest in manifests:
            found = there.get(manifest["metadata"]["name"])
            if found is None or differs(manifest, found):
                yield Apply(kind, manifest)
    for kind in _KEPT_EXACT:
        names = {one["metadata"]["name"] for one in wanted.get(kind, ())}
        for name, found in seen.of(kind).items():
            if name not in names and not is_ending(found):
                yield Remove(kind, name, found["metadata"]["uid"])


def _wanted(seen: Observed) -> dict[Kind, list[Json]]:
    names, spec = seen.names, seen.spec
    has_gateway = spec.gateway.replicas > 0
    components = [one for one in Component if one is not Component.GATEWAY or has_gateway]
    wanted = {
        SERVICE_ACCOUNT: [service_account(names)],
        CONFIG_MAP: [config_map(names, spec, one) for one in components],
        SERVICE: services(names, spec),
        DISRUPTION_BUDGET: disruption_budgets(names, spec),
        NETWORK_POLICY: network_policies(names) if spec.network_policies else [],
    }
    certificate = seen.certificate(gateway_node(names))
    # Gateways start when there is something to log in to: before, they would only complain.
    if has_gateway and certificate is not None and seen.identity:
        deployment = gateway_deployment(names, spec, seen.images, certificate=certificate)
        wanted[DEPLOYMENT] = [deployment]
    elif has_gateway:
        wanted[DEPLOYMENT] = list(seen.of(DEPLOYMENT).values())  # leave it as it is
    return wanted


def plan_gateways(seen: Observed) -> Iterator[Action]:
    """Say which gateways the Service has to pass by: those that do not answer, if others do.

    Kubernetes thinks well of what runs on a node that has just gone, for most of a minute.
    """
    answers = seen.database.gateways
    if not any(answers.values()):
        return  # it may well be us who reach nobody
    for name, does_answer in answers.items():
        wanted = SERVING if does_answer else SILENT
        if seen.of(POD)[name]["metadata"]["labels"].get(SERVING_LABEL) != wanted:
            yield Mark(name, SERVING_LABEL, wanted)


def _secrets(seen: Observed) -> Iterator[Action]:
    there = seen.of(SECRET)
    if seen.names.authority_secret not in there:
        yield MakeAuthority()
    superuser = there.get(seen.names.superuser_secret)
    internal = there.get(seen.names.internal_secret)
    if superuser is None or internal is None:
        yield MakePasswords()
    elif not is_taken(superuser, internal):
        yield TakePassword()
    if seen.spec.gateway.replicas:
        yield from certificate_of(seen, Component.GATEWAY, gateway_node(seen.names))
