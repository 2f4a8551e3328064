"""A runner's consumer of tasks: Celery's, which neither dies of a message nor leaves queues behind.

What it cannot read it refuses: RabbitMQ then keeps that among its dead tasks, Redis forgets it. Celery's own
would say that it was done, or raise out of its loop, and the next runner would be handed the same message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog
from amqp import NotFound
from celery.worker import consumer
from kombu.exceptions import KombuError

_UNREADABLE: Final = (KombuError, ValueError, TypeError, LookupError, AttributeError)
_DELAYS: Final = "celery.worker.consumer.delayed_delivery:DelayedDelivery"
_LOG = structlog.get_logger("headgate.jobs")


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's, with a word for rubbish."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """The parts that it starts: not the one that makes twenty-eight queues for tasks that are put off."""

        default_steps = tuple(one for one in consumer.Consumer.Blueprint.default_steps if one != _DELAYS)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # Of a queue that went between being made and being read: it is made again.
        self.connection_errors: tuple[type[Exception], ...] = (*self.conninfo.connection_errors, NotFound)

    def create_task_handler(self, *arguments: Any, **named: Any) -> Callable[[Any], None]:
        """What is done with a message."""
        take = super().create_task_handler(*arguments, **named)

        def take_or_refuse(message: Any) -> None:
            try:
                take(message)
            except _UNREADABLE as error:
                self.on_decode_error(message, error)

        return take_or_refuse

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Refuses a message; its body, whosever it is, is not logged."""
        _LOG.warning("refused what is no task", because=type(exc).__name__)
        if not message.acknowledged:
            message.reject_log_error(logging.getLogger(__name__), self.connection_errors)
