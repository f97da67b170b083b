"""Logs: one structured line per event, JSON for machines or coloured text for people.

`configure` is called once, by `__main__`. After it, `structlog.get_logger()` and the standard
library's `logging` (our libraries use it) write the same kind of line to the same stream, with the
component's name in each. Values under keys that look like secrets are masked, at any depth.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .lsn import Lsn

MASK: Final = "***"
DEPTH_MAX: Final = 4  # of mappings inside an event; what lies deeper is shown as a mask

_SECRET_KEY: Final = re.compile(
    r"passw|secret|token|credential|private|authorization|_key$|^key$|scram|cookie", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What a user may tune."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious events that are written."""

    format: Literal["json", "console"] = "json"
    """`json` for collectors, `console` for people."""


def configure(settings: LogSettings, *, component: str, stream: TextIO) -> None:
    """Send all events of this process, of structlog and of `logging`, to `stream`."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared = _shared_processors(component)
    structlog.configure(
        processors=[*shared, *_rendering(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        # Loggers are made at import time; a cached one would not see a later configuration.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def mask_secrets(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Replace the values of keys that look like secrets; a processor of structlog."""
    del logger, name
    for key, value in event.items():
        event[key] = _masked(key, value, DEPTH_MAX)
    return event


def _masked(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key):
        return MASK
    if isinstance(value, (Mapping, list, tuple)):
        if depth == 0:
            return MASK
        if isinstance(value, Mapping):
            return {k: _masked(k, v, depth - 1) for k, v in value.items()}
        return [_masked(None, item, depth - 1) for item in value]
    return value


def _shared_processors(component: str) -> list[Processor]:
    def add_component(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        del logger, name
        event["component"] = component
        return event

    return [
        structlog.contextvars.merge_contextvars,
        add_component,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _rendering(settings: LogSettings) -> list[Processor]:
    # Masking comes last, so that nothing a processor has added escapes it.
    if settings.format == "console":
        return [mask_secrets, structlog.dev.ConsoleRenderer()]
    return [
        structlog.processors.format_exc_info,
        mask_secrets,
        structlog.processors.JSONRenderer(serializer=_json),
    ]


def _json(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=_json_form).decode()


def _json_form(value: Any) -> int | str:
    """Return what stands for a value that JSON does not know; a log line never fails on one."""
    if isinstance(value, Lsn):
        return str(value)
    if isinstance(value, int):
        return int(value)
    return str(value) if isinstance(value, str) else repr(value)
