from __future__ import annotations

from amqp import AccessRefused, NotFound, PreconditionFailed

from headgate.adapters.job_consumer import Consumer
from headgate.adapters.job_queue import make_app


def test_a_queue_that_went_is_asked_for_again_and_what_is_refused_is_not() -> None:
    """Queues may go while a runner reads them: that test is a race, and this one is not."""
    app = make_app("amqp://127.0.0.1:1")
    consumer = app.WorkController(pool="solo").consumer
    assert isinstance(consumer, Consumer)
    retried = consumer.connection_errors
    assert issubclass(NotFound, retried)
    assert not issubclass(AccessRefused, retried)
    assert not issubclass(PreconditionFailed, retried)
    assert not app.conf.broker_channel_error_retry
