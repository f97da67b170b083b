"""What of a command line may be kept. Pure."""

from collections.abc import Sequence
from typing import Final

HIDDEN: Final = "..."
OPTION: Final = "--dsn"
SHORTEST: Final = "--d"  # argparse takes the beginning of an option for the option


def without_secrets(command: Sequence[str]) -> list[str]:
    """Everything but what a DSN says: somebody may have written a password into it."""
    kept: list[str] = []
    hides = False
    for word in command:
        name, equals, _ = word.partition("=")
        is_dsn = name.startswith(SHORTEST) and OPTION.startswith(name)
        if hides:
            kept.append(HIDDEN)
        elif is_dsn and equals:
            kept.append(f"{name}={HIDDEN}")
        else:
            kept.append(word)
        hides = is_dsn and not equals
    return kept
