"""Logs: JSON lines on stderr for machines, colours for a terminal, and nothing that a caller wrote.

An error is rendered as its type and where it was raised, never with its message or its locals: messages of
foreign libraries quote their input, and the input may be a prompt or a key.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from headgate.adapters import traces
from headgate.adapters.log_writer import LogWriter

LONGEST: Final = 256
"""A logged text is cut here: logs carry names and sentences of ours, not content."""

_QUOTES: Final = re.compile(r"""[\n('"<{\[]""")
_PLAIN = (bool, int, float, type(None))
ExceptionTriple = tuple[type[BaseException], BaseException, TracebackType | None]
_ABOUT: Final[ContextVar[Mapping[str, str]]] = ContextVar("headgate_about", default=MappingProxyType({}))


def about(facts: Mapping[str, str]) -> None:
    """What this task works on, such as a request's id and tenant: every line that it logs has these too."""
    _ABOUT.set(facts)


def setup(level: str) -> None:
    """Send structlog's and the standard library's records to stderr, from `level` (debug … error) on."""
    shared: list[Processor] = [
        say_what_about,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_error,
        only_plain_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = LogWriter(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_hide_foreign_text, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer()],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def say_last(sentence: str) -> None:
    """Print why the process ends as the last line of stderr: what was logged before it is written first."""
    logging.shutdown()
    print(sentence, file=sys.stderr)


def say_what_about(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Adds what the task works on, and the trace it is part of; the line's own words win."""
    for name, value in _ABOUT.get().items():
        event.setdefault(name, value)
    if trace_id := traces.current().trace_id:
        event.setdefault("trace_id", trace_id)
    return event


def describe_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by the error's type and the frames it went through."""
    error = _raised(event.pop("exc_info", None))
    if error is not None:
        event["error"] = type(error).__name__
        event["raised_at"] = " < ".join(_frames(error))
    return event


def only_plain_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep numbers and short texts; of everything else only the type is told."""
    return {key: value if key.startswith("_") else _plain(value) for key, value in event.items()}


def _hide_foreign_text(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # A foreign record keeps the beginning of its unformatted template: arguments, and reprs that a library
    # has formatted in itself, may quote what a caller wrote.
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["event"] = _QUOTES.split(str(record.msg), maxsplit=1)[0].strip()
        event["logger"] = record.name
        record.exc_text = None
    return event


def _raised(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        error: BaseException | None = exc_info[1]
        return error
    return sys.exc_info()[1] if exc_info else None


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-8:])]


def _plain(value: object) -> object:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"
    return f"<{type(value).__name__}>"


def _renderer() -> Processor:
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer()
