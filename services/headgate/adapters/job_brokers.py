"""The brokers that tasks may go through, and what Celery must be told of each; nothing here imports Celery.

    redis://  rediss://  unix://   Redis or Valkey: lists, whose takers keep account of what they have taken
    amqp://   amqps://             RabbitMQ: quorum queues, and a queue for tasks that it gives up

Whether a job runs is for its record to say, with either. They differ in what they do by themselves: RabbitMQ
hands out again at once what a lost runner had, and keeps tasks on a majority of its nodes.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from headgate.adapters.redis_client import is_url as is_redis
from headgate.adapters.redis_client import resolved_url

PREFIX: Final = "headgate:broker:"
"""Of everything that Celery keeps on Redis: the server may be the one of the records."""
DEAD: Final = "headgate-dead-tasks"
"""Where RabbitMQ puts what it gives up. Nothing reads it: it is for whoever wants to know what was sent."""

TIME_LIMIT_S: Final = 630
"""A runner's process that is at one task for longer hangs, and is killed. Celery has a softer limit as well,
which raises wherever the process stands, be it in the middle of the event loop: the call's own deadline is
the soft one here."""
VISIBILITY_S: Final = 2 * TIME_LIMIT_S
"""After that Redis hands a task out again. Nobody waits for it: leases are shorter."""
CONSUMER_TIMEOUT_S: Final = 3_600
"""Who keeps a task for longer loses its channel. RabbitMQ's own is half of it, and stays so before 3.12:
there three runs in a row that all take their ten minutes would cost a connection, and no job."""
DELIVERIES: Final = 5
"""Then RabbitMQ gives a task up: more than the runs of a job, so that the record decides before it does."""
MOST_DEAD: Final = 10_000
"""Dead tasks that are kept, the newest ones."""

PUT_S: Final = 1.0
"""How long a submission waits for the broker; the record is written, and the reconciler queues it later."""
SOCKET_S: Final = 5.0
"""Longer than the second that Redis lets a runner wait for a task."""
HEARTBEAT_S: Final = 10
"""Two of them late, and a runner and RabbitMQ take each other for gone."""

_OURS: Final = "headgate"
"""Kombu's alias for its transport to Redis with our ears."""
_TRANSPORT: Final = "headgate.adapters.job_transport:Transport"


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker, in Celery's words."""

    url: str = field(repr=False)
    """In kombu's spelling."""
    settings: Mapping[str, Any]
    """Of the app, beside those that are true of every broker."""
    patience: Mapping[str, float]
    """Options of the transport, for who puts tasks and has less of it than a runner."""
    queue: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the queues that tasks wait in."""
    dead: Mapping[str, Any] | None = None
    """Arguments of the queue `DEAD`; None where the broker has none."""
    putting: Mapping[str, Any] = field(default_factory=dict)
    """Options with which a task is sent."""


def broker_of(url: str) -> Broker:
    """The broker that a URL names, which is one that `is_broker` takes."""
    return _rabbitmq(url) if _is_amqp(url) else _redis(url)


def is_broker(url: str) -> bool:
    """Whether it is the URL of a broker; nothing is asked of the network."""
    return _is_amqp(url) or is_redis(url)


def resolved_broker(url: str | None, environ: Mapping[str, str]) -> str | None:
    """The URL of `jobs.broker`, its secret resolved. Raises ConfigError."""
    return resolved_url(
        "jobs.broker", url, environ, is_broker, "redis://, rediss://, unix://, amqp:// or amqps://"
    )


def _is_amqp(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    # Kombu would take options of a URL for its last word, and what follows a semicolon for another broker.
    # A password may hold any of these, percent-encoded.
    plain = not (parts.query or parts.fragment or ";" in url or "@" in parts.path)
    return parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and plain


def _redis(url: str) -> Broker:
    options = {
        "global_keyprefix": PREFIX,
        "visibility_timeout": VISIBILITY_S,
        # By default abandoned tasks are looked for every hundred seconds.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "queue_order_strategy": "priority",
        "socket_timeout": SOCKET_S,
        "socket_connect_timeout": PUT_S,
        "health_check_interval": 10,
        **_NO_RETRIES,
    }
    settings = {
        "broker_transport": _TRANSPORT,
        "broker_transport_options": options,
        # A task that waits behind a long one is better off with another runner.
        "worker_disable_prefetch": True,
        # One that is full or read-only says so with such an error, and is one that is away.
        "broker_channel_error_retry": True,
    }
    if url.startswith("rediss://"):
        # Kombu's own default is to believe any certificate.
        settings["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    if url.startswith("unix://"):
        # Kombu has another scheme for a socket, and another word for the database.
        from kombu.transport import TRANSPORT_ALIASES

        TRANSPORT_ALIASES[_OURS] = _TRANSPORT
        url = re.sub(r"([?&])db=", r"\1virtual_host=", f"{_OURS}+socket{url.removeprefix('unix')}")
    return Broker(url, settings, {"socket_timeout": PUT_S})


def _rabbitmq(url: str) -> Broker:
    options = {
        # A task is put when a majority of the queue's nodes has it, and not when it was sent.
        "confirm_publish": True,
        "read_timeout": SOCKET_S,
        "write_timeout": SOCKET_S,
        **_NO_RETRIES,
    }
    settings: dict[str, Any] = {
        "broker_transport_options": options,
        "broker_heartbeat": HEARTBEAT_S,
        # Of each class a runner is given as many tasks as it has places: a quorum queue counts for each
        # consumer by itself, and Celery must not ask it for more.
        "worker_detect_quorum_queues": True,
        # What it refuses, such as a login or a queue of another kind, it refuses again: the runner ends.
        "broker_channel_error_retry": False,
    }
    if url.startswith("amqps://"):
        # py-amqp's own default is to believe any name.
        settings["broker_use_ssl"] = {
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": urlsplit(url).hostname,
        }
    # The default exchange needs no bindings, here as for tasks that live.
    queue = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERIES,
        "x-consumer-timeout": CONSUMER_TIMEOUT_S * 1_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD,
    }
    dead = {"x-queue-type": "quorum", "x-max-length": MOST_DEAD}
    # Without `mandatory` a task for a queue that is gone would be thrown away in silence.
    putting = {"mandatory": True, "timeout": PUT_S, "confirm_timeout": PUT_S}
    patience = {"read_timeout": PUT_S, "write_timeout": PUT_S}
    return Broker(url, settings, patience, queue, dead, putting)


_NO_RETRIES: Final = {"max_retries": 0}
"""Without it who publishes tries for ever to connect, whatever is said about retries elsewhere."""
