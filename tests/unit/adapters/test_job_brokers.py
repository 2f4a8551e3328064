from __future__ import annotations

import ssl

import pytest

from headgate.adapters.job_brokers import (
    CONSUMER_TIMEOUT_S,
    DEAD,
    DELIVERIES,
    TIME_LIMIT_S,
    VISIBILITY_S,
    broker_of,
    is_broker,
    resolved_broker,
)
from headgate.adapters.job_queue import CLASSES, LONGEST_RUN_S, make_app, queue_of
from headgate.adapters.settings import ConfigError

REDIS, RABBITMQ = "redis://127.0.0.1:1", "amqp://127.0.0.1:1"


def test_the_limits_stand_in_order() -> None:
    """A call ends by itself, then its process is killed, and then only is its task handed out again."""
    assert LONGEST_RUN_S < TIME_LIMIT_S <= VISIBILITY_S / 2


def test_no_task_is_held_until_rabbitmq_closes_its_channel() -> None:
    """The last one of a full runner waits for one of each other class before it is begun."""
    assert len(CLASSES) * TIME_LIMIT_S < CONSUMER_TIMEOUT_S


@pytest.mark.parametrize(
    "url",
    [
        REDIS, "rediss://h:1/0", "unix:///tmp/x.sock?db=1", RABBITMQ, "amqp://rabbit", "amqps://rabbit:5671/jobs",
        "amqp://me:p%40ss%3Bword@rabbit:5672/%2F", "amqp://[::1]:5672//",
    ],
)  # fmt: skip
def test_it_says_what_is_a_broker(url: str) -> None:
    assert is_broker(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqs://h", "amqp://", "amqp://:1", "amqp://h:port", "amqp://h:70000", "amqp://me:p/w@h", "amqp://h;amqp://i",
        "amqp://h/v?heartbeat=0", "amqp://h/v#1", "pyamqp://h", "amqp", "",
    ],
)  # fmt: skip
def test_and_what_is_none(url: str) -> None:
    """An option of the URL would be the last word, what follows a semicolon another broker."""
    assert not is_broker(url)


def test_a_secret_that_is_no_broker_stays_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved_broker("env:BROKER", {"BROKER": "amqp://me:hun;ter2@h"})
    assert "hun" not in str(caught.value)
    assert "amqp:// or amqps:// URL" in str(caught.value)
    assert resolved_broker("env:BROKER", {"BROKER": "amqp://me:hunter2@h"}) == "amqp://me:hunter2@h"
    assert resolved_broker(None, {}) is None
    assert "hunter2" not in repr(broker_of("amqp://me:hunter2@h"))


def test_on_redis_tasks_of_a_lost_runner_come_back_and_no_more_are_taken_than_are_run() -> None:
    conf = make_app(REDIS).conf
    options = conf.broker_transport_options
    assert options["visibility_timeout"] == VISIBILITY_S
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (1, 1)
    assert conf.worker_disable_prefetch
    assert conf.broker_channel_error_retry, "a full one is one that is away"
    assert not any(queue.queue_arguments for queue in conf.task_queues)


def test_on_rabbitmq_tasks_lie_on_a_majority_of_nodes_and_none_is_lost_in_silence() -> None:
    conf = make_app(RABBITMQ).conf
    assert conf.broker_transport_options["confirm_publish"]
    assert conf.broker_heartbeat == 10
    assert not conf.worker_disable_prefetch
    assert broker_of(RABBITMQ).putting["mandatory"]
    for queue in conf.task_queues:
        assert queue.queue_arguments == {
            "x-queue-type": "quorum", "x-delivery-limit": DELIVERIES, "x-consumer-timeout": 3_600_000,
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD,
        }  # fmt: skip
    assert [queue.name for queue in conf.task_queues] == [queue_of(one) for one in CLASSES]


def test_a_broker_behind_tls_must_show_its_certificate() -> None:
    assert make_app("rediss://127.0.0.1:1").conf.broker_use_ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    must = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "rabbit"}
    assert make_app("amqps://rabbit:1").conf.broker_use_ssl == must
    assert not make_app(REDIS).conf.broker_use_ssl
    assert not make_app(RABBITMQ).conf.broker_use_ssl
