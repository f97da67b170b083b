"""What a gateway has done, in numbers that only grow."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Of one process, shared by its sessions."""

    clients_refused: int = 0
    """Because there were too many already."""
    reads_on_replicas: int = 0
    """Batches that a replica was asked."""
    reads_sent_again: int = 0
    """Of these, those that the primary was asked after all."""
    statements_sent_again: int = 0
    """Batches that were asked again because their server was gone."""
    transactions_lost: int = 0
    outcomes_unknown: int = 0
