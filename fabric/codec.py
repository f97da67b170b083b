"""How our vocabulary types cross an edge: hooks that msgspec calls for the types it does not know.

`Lsn`, `Tli` and the ids travel as plain integers and strings, and are validated by their own
constructors on arrival. Nothing else is taken: a field of another foreign type is a bug of ours.
"""

from pathlib import Path
from typing import Any


def encode_hook(value: Any) -> int | str:
    """Return what stands for one of our vocabulary types on the wire."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no form on the wire")


def decode_hook(wanted: type, value: Any) -> Any:
    """Make `wanted` from what came over the wire; a wrong value raises ValueError or TypeError."""
    if issubclass(wanted, int) and type(value) is int:
        return wanted(value)
    if issubclass(wanted, (str, Path)) and isinstance(value, str):
        return wanted(value)
    if issubclass(wanted, (int, str, Path)):
        raise ValueError(f"a {wanted.__name__} cannot be made from a {type(value).__name__}")  # noqa: TRY004 - msgspec turns ValueError into its ValidationError, with the field's path
    raise NotImplementedError(f"{wanted.__name__} has no form on the wire")
