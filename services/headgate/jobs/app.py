"""The Celery app of a runner: one task, which knows a job by its name and nothing else of it.

A runner is a parent that takes tasks and children that work on them. Nothing connects before the fork: each
child has an event loop, a channel and a client of its own, which live as long as it does. A pipe goes from
the parent to all of them: when its end is closed, be it that the parent died, they put back what they have.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
from collections.abc import Coroutine
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import celery
import grpc
import structlog
from billiard.util import get_logger
from celery import signals

from headgate.adapters import channels, job_queue, logs, serving, traces
from headgate.adapters.config import TelemetryConfig
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_jobs import RedisJobs, Terms
from headgate.adapters.telemetry import Note
from headgate.jobs.runner import JobRunner

REPLY_S = 2.0
"""A record that is written late is better than a run for nothing."""
STILL_S = 10.0
"""A process whose loop stands still for so long, or for the time of a lease if that is longer, has lost its
job: it ends, and its place is free long before Celery's own limit. Where it stood goes to stderr."""
_ROUTER = "headgate.v1.RouterService"
_LOST_SPANS = "headgate_spans_dropped_total"
_LOG = structlog.get_logger("headgate.jobs")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a runner needs, resolved."""

    gateway: str
    """HOST:PORT."""
    redis_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    key: str = field(repr=False)
    terms: Terms
    authority: bytes = b""
    """PEM of who signed the gateway's certificate; empty speaks plain text."""
    log_level: str = "info"
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)


class Child:
    """One of a runner's processes, from its fork to its end."""

    def __init__(self, settings: Settings, home: int, note: Note) -> None:
        self._loop = asyncio.Runner(loop_factory=serving.loop_factory())
        self._loop.run(self._begin(settings, home, note))

    def run(self, tenant: str, name: str) -> None:
        """Runs one job. A record that cannot be read is no failure of the task: it is queued again."""
        try:
            # A context of its own: else it would be part of the trace of the job before it.
            run = self._runner.run(tenant, name, self._leave)
            self._loop.run(self._watched(run), context=copy_context())
        except SideRoomError as error:
            _LOG.warning("job left to the reconciler", tenant=tenant, job=name, why=str(error))
        finally:
            faulthandler.cancel_dump_traceback_later()

    async def _begin(self, settings: Settings, home: int, note: Note) -> None:
        jobs = RedisJobs(connect(settings.redis_url, REPLY_S, REPLY_S), settings.terms, note=note)
        channel = channels.channel(settings.gateway, health_service=_ROUTER, credentials=_tls(settings))
        self._runner = JobRunner(jobs, channel, settings.key, note=note)
        self._still_s = max(STILL_S, settings.terms.lease_s)
        self._leave = asyncio.Event()
        loop = asyncio.get_running_loop()

        def sent_home() -> None:
            loop.remove_reader(home)
            self._leave.set()

        loop.add_reader(home, sent_home)

    async def _watched(self, run: Coroutine[Any, Any, None]) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await run
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        """The watch needs no Python to run: what holds the interpreter is ended as well."""
        while True:
            faulthandler.dump_traceback_later(self._still_s, exit=True)
            await asyncio.sleep(self._still_s / 4)


class Whistle:
    """Sends a runner's children home, when nobody holds it any more."""

    def __init__(self) -> None:
        self.heard_at, self._held_at = os.pipe()
        self._held = True

    def let_go(self) -> None:
        """The parent does it to send them home, and each child at once, for its own copy."""
        if self._held:
            self._held = False
            os.close(self._held_at)


def build(settings: Settings, whistle: Whistle, note: Note) -> celery.Celery:
    """The app; its children connect to what the settings say, and go home with the whistle.

    `note` is theirs: it must reach whoever counts from within a child.
    """
    app = job_queue.make_app(settings.broker_url)
    here: dict[str, Child] = {}

    @app.task(name=job_queue.TASK)  # type: ignore[untyped-decorator]
    def run(tenant: str, name: str) -> None:
        if not (isinstance(tenant, str) and isinstance(name, str)):
            _LOG.warning("dropped a task that names no job")
            return
        here["child"].run(tenant, name)

    def begin(**_: Any) -> None:
        # The parent's handler writes with a thread that the fork did not take along.
        logging.getLogger().handlers.clear()
        logs.setup(settings.log_level)
        whistle.let_go()
        traces.setup(settings.telemetry, "headgate-runner", lambda lost: note(_LOST_SPANS, value=lost))
        here["child"] = Child(settings, whistle.heard_at, note)

    def end(**_: Any) -> None:
        traces.close()

    signals.worker_process_init.connect(begin, weak=False)
    signals.worker_process_shutdown.connect(end, weak=False)
    signals.setup_logging.connect(_set_up_logs, weak=False)
    return app


def _set_up_logs(**_: Any) -> None:
    """Called in place of what Celery would do, which is to have handlers of its own."""
    for name in ("celery", "kombu", "amqp"):
        # Below a warning they tell of themselves only.
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of processes that died: else it would write past the logs.
    get_logger().propagate = True


def _tls(settings: Settings) -> grpc.ChannelCredentials | None:
    return grpc.ssl_channel_credentials(settings.authority) if settings.authority else None
