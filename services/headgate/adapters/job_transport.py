"""Celery's transport to Redis, without two of its ways to lose a runner.

1. Kombu raises out of its event loop at an entry of a list that is no message, and the runner ends. The entry
   is gone by then, but one for every runner would end all of them.
2. Kombu keeps the place of a task that it could not acknowledge. A broker that dies while every place is
   taken leaves a runner that never asks for a task again, nor hears that its connection broke.
"""

from __future__ import annotations

from typing import Any, Final

import structlog
from kombu.transport import redis

_UNREADABLE: Final = (ValueError, TypeError, LookupError, AttributeError)
_LOG = structlog.get_logger("headgate.jobs")


class QoS(redis.QoS):  # type: ignore[misc]
    """Kombu's, which forgets a task whose acknowledgement failed: the broker may hand it out again."""

    def ack(self, delivery_tag: str) -> None:
        """Raises what redis-py raises; the place is free in any case."""
        try:
            super().ack(delivery_tag)
        finally:
            self._quick_ack(delivery_tag)


class Channel(redis.Channel):  # type: ignore[misc]
    """Kombu's, with ears for rubbish."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except _UNREADABLE:
            _LOG.warning("dropped what is no task from the queue")
            return True


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's, with that channel."""

    Channel = Channel
