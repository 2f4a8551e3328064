"""Celery's transport to Redis, which takes what is no message for what it is: nothing.

Kombu raises out of its event loop at an entry of a list that is no message, and the runner ends. The entry is
gone by then, but one for every runner would end all of them.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from kombu.transport import redis

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError)
_LOG = structlog.get_logger("headgate.jobs")


class Channel(redis.Channel):  # type: ignore[misc]
    """Kombu's, with ears for rubbish."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except _UNREADABLE:
            _LOG.warning("dropped what is no task from the queue")
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's, with that channel."""

    Channel = Channel
