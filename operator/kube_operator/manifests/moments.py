"""Moments, as annotations and conditions have them. Pure."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(text: str | None) -> datetime | None:
    """Read a moment; None: it is none, so somebody else has written it, or nobody."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
