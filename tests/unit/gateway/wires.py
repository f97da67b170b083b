"""Wires without a network, for sessions and links that are told what to say by hand."""


class Silent:
    """Carries nothing, and remembers what was said and how it was ended."""

    def __init__(self) -> None:
        self.written = b""
        self.faults: list[str] = []

    def write(self, data: bytes) -> None:
        """Remember."""
        self.written += data

    def close(self) -> None:
        """Be closed."""

    def abort(self) -> None:
        """Be closed."""

    def fault(self, reason: str) -> None:
        """Remember."""
        self.faults.append(reason)

    def pause_reading(self) -> None:
        """Have nothing to pause."""

    def resume_reading(self) -> None:
        """Have nothing to resume."""
