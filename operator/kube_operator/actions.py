"""What a plan may ask for. Each is carried out by `carry_out.py`, and harmless to repeat."""

from dataclasses import dataclass
from typing import TypeAlias

from .kube_port import Json, Kind
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


SecretAction: TypeAlias = MakeAuthority | MakeCertificate | MakePasswords
NodeAction: TypeAlias = Found | Adopt | AddMember | RemoveMember | Transfer | SwitchOver
Action: TypeAlias = Apply | Remove | Mark | AnswerSwitchover | SecretAction | NodeAction
