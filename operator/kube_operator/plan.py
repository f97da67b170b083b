"""What is done for a cluster next. Pure: all that is seen in, actions out, in their order.

    Secrets, settings, Services, policies      what is missing or differs
    log and storage                            volumes, pods, members; the database, once
    computes                                   as many as wanted; labels by which they are found
    switchover                                 if somebody has asked for one
    rollout                                    one pod that is made of something old
    rotation                                   the next step to another authority

There is no memory but what is seen: whoever stops after any action, and begins again, goes on.
"""

from dataclasses import dataclass

from .actions import Action, Remove, Rotate, SwitchOver
from .observed import Observed
from .plan_computes import plan_computes, plan_roles
from .plan_nodes import plan_members, plan_nodes
from .plan_objects import plan_gateways, plan_objects
from .plan_ownership import leftovers, plan_ownership, refusal
from .plan_rollout import Rollout, plan_rollout
from .plan_rotation import plan_rotation
from .plan_switchover import plan_switchover


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done."""

    actions: tuple[Action, ...]
    rollout: Rollout
    refused: str = ""
    """Why nothing is done, although something should be; empty: it is not so."""


def plan(seen: Observed) -> Plan:
    """Say what is to be done for a cluster as it is seen."""
    if leftovers(seen.uid, seen.objects):
        return Plan((), Rollout((), None))
    refused = refusal(seen)
    if refused:
        return Plan((), Rollout((), None), refused)
    roles = [*plan_roles(seen), *plan_gateways(seen)]
    asked = plan_switchover(seen)
    if asked is not None and not isinstance(asked, SwitchOver):
        roles.append(asked)  # an answer waits for nothing
    rotation = plan_rotation(seen)
    if rotation is not None and not isinstance(rotation, Rotate):
        roles.append(rotation)
    if seen.spec.paused:
        # Clients find the primary even so: that is nothing that anybody has asked to stop.
        return Plan(tuple(roles), Rollout((), None))
    rollout = plan_rollout(seen)
    actions: list[Action] = [
        *roles,
        *plan_ownership(seen),
        *plan_objects(seen),
        *plan_nodes(seen),
        *plan_members(seen),
        *plan_computes(seen, surge=rollout.surge),
    ]
    if isinstance(asked, SwitchOver) and not _goes(asked.to, actions):
        actions.append(asked)
    # Whatever else is to be done comes first: a rollout takes away what may be needed for it.
    if rollout.action is not None and not actions:
        actions.append(rollout.action)
    if isinstance(rotation, Rotate) and not actions:
        actions.append(rotation)
    return Plan(tuple(actions), rollout)


def _goes(node: str, actions: list[Action]) -> bool:
    return any(isinstance(one, Remove) and one.name == node for one in actions)
