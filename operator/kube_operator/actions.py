"""What a plan may ask for. Each is carried out by `carry_out.py`, and harmless to repeat."""

from dataclasses import dataclass
from typing import TypeAlias

from .kube_port import Json, Kind
from .manifests.authority import Step
from .names import Component


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object so."""

    kind: Kind
    manifest: Json


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an object, that very one."""

    kind: Kind
    name: str
    uid: str
    reason: str = ""
    """For the event; empty: it is not worth one."""


@dataclass(frozen=True, slots=True)
class Amend:
    """Merge changes into an object, that very one: what is no part of its manifest."""

    kind: Kind
    name: str
    uid: str
    changes: Json


@dataclass(frozen=True, slots=True)
class Hold:
    """Have the cluster linger when it is deleted, until its data is let go of; or no longer."""

    holds: bool


@dataclass(frozen=True, slots=True)
class MakeAuthority:
    """Make the cluster's authority."""


@dataclass(frozen=True, slots=True)
class MakeCertificate:
    """Make or renew a node's certificate."""

    component: Component
    node: str


@dataclass(frozen=True, slots=True)
class MakePasswords:
    """Make the Secrets with passwords that are missing."""


@dataclass(frozen=True, slots=True)
class TakePassword:
    """Have the database take the password that the superuser's Secret has by now."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Go on to another authority."""

    step: Step
    """That comes next."""
    signer: str
    """Who signs while that is asked for: if it is somebody else by now, it was done already."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Give a pod a label; None: take it away."""

    pod: str
    label: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """Make the database."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Have a storage node keep the branch."""

    node: str
    sources: tuple[str, ...]
    """Nodes that have it; none: the object store."""


@dataclass(frozen=True, slots=True)
class AddMember:
    """Give the log a member."""

    node: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    """Take a member out of the log."""

    node: str
    member: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Have another log node lead."""

    to: str


@dataclass(frozen=True, slots=True)
class SwitchOver:
    """Have another compute be the primary."""

    to: str


@dataclass(frozen=True, slots=True)
class AnswerSwitchover:
    """Write down what has become of a request for a switchover."""

    request: str | None
    """What is being done; None: it is over."""
    result: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerRotation:
    """Write down what has become of a request for another authority."""

    request: str | None
    """What is being done; None: it is over."""
    result: str | None = None


SecretAction: TypeAlias = MakeAuthority | MakeCertificate | MakePasswords | TakePassword | Rotate
AnswerAction: TypeAlias = AnswerSwitchover | AnswerRotation
NodeAction: TypeAlias = Found | Adopt | AddMember | RemoveMember | Transfer | SwitchOver
Action: TypeAlias = Apply | Remove | Amend | Hold | Mark | AnswerAction | SecretAction | NodeAction
