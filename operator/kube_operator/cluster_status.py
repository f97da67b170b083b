"""What the operator says of a `PostgresCluster`, as types: the CRD's schema comes from them."""

from enum import StrEnum
from typing import Annotated, Final

import msgspec

READY: Final = "Ready"
PROGRESSING: Final = "Progressing"
DEGRADED: Final = "Degraded"
ARCHIVING: Final = "ContinuousArchiving"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that holds or does not."""

    type: Annotated[
        str,
        msgspec.Meta(
            description="Ready: SQL is answered. Progressing: something is changed. Degraded: "
            "less is there than was asked for. ContinuousArchiving: WAL reaches the object store.",
            max_length=100,
        ),
    ]
    status: Annotated[ConditionStatus, msgspec.Meta(description="Whether it holds.")]
    reason: Annotated[str, msgspec.Meta(description="Why, as one word.", max_length=100)]
    message: Annotated[str, msgspec.Meta(description="Why, as a sentence.", max_length=1000)]
    last_transition_time: Annotated[
        str, msgspec.Meta(description="When its status changed last, in RFC 3339.", max_length=40)
    ]
    observed_generation: Annotated[
        int, msgspec.Meta(description="Of which generation of the object this is said.")
    ]


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What is true of the cluster."""

    observed_generation: Annotated[
        int, msgspec.Meta(description="The generation of the object that all this is about.")
    ] = 0
    phase: Annotated[
        str,
        msgspec.Meta(description="How it is, in a few words, for people.", max_length=200),
    ] = ""
    primary: Annotated[
        str, msgspec.Meta(description="The compute that takes writes.", max_length=63)
    ] = ""
    epoch: Annotated[
        int, msgspec.Meta(description="How often there has been another primary, and one.")
    ] = 0
    log_leader: Annotated[
        str, msgspec.Meta(description="The log node that leads.", max_length=63)
    ] = ""
    computes: Annotated[int, msgspec.Meta(description="Computes that there are.")] = 0
    ready_computes: Annotated[int, msgspec.Meta(description="Computes that answer SQL.")] = 0
    ready_log_nodes: Annotated[int, msgspec.Meta(description="Log nodes that vote.")] = 0
    ready_storage_nodes: Annotated[int, msgspec.Meta(description="Storage nodes that serve.")] = 0
    selector: Annotated[
        str,
        msgspec.Meta(
            description="Label selector of the computes' pods, for autoscalers.", max_length=500
        ),
    ] = ""
    system_identifier: Annotated[
        str, msgspec.Meta(description="PostgreSQL's own number of the database.", max_length=20)
    ] = ""
    conditions: Annotated[
        list[Condition], msgspec.Meta(description="What holds and what does not.", max_length=16)
    ] = []
