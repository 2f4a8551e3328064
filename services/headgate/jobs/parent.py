"""The parent of a runner's processes: it takes tasks, watches that it does, and ends without losing any."""

from __future__ import annotations

import gc
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from celery import signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker import state

from headgate.adapters import job_queue, serving
from headgate.adapters.telemetry import RunnerMetrics
from headgate.jobs import app
from headgate.jobs.hearing import LOOK_S, Hearing
from headgate.jobs.pool import Pool
from headgate.jobs.tally import Tally

STUCK_S: Final = 10.0
"""What a runner that is to end may take beyond its children's time. What is not written then is run again."""
_LOG = structlog.get_logger("headgate.jobs")


class Parent:
    """One job runner, from its start to its end."""

    def __init__(
        self,
        settings: app.Settings,
        classes: Sequence[str],
        places: int,
        drain_s: float,
        ready_file: Path | None,
        metrics_listen: str,
    ) -> None:
        self._whistle = app.Whistle()
        self._tally = Tally()
        self._metrics = RunnerMetrics()
        for one in classes:
            # From nothing to the first one is no increase to Prometheus, however many they are.
            self._metrics.runs_begun.labels(one)
            self._metrics.runs_ended.labels(one, "lost")
        self._metrics_listen = metrics_listen
        self._app = app.build(settings, self._whistle, self._tally.note)
        self._classes = classes
        self._places = places
        self._drain_s = drain_s
        self._ready_file = ready_file
        self._hearing = Hearing(places)
        self._deaf = False

    def run(self) -> int:
        """Until SIGTERM: 0 then, 1 when it ended by itself. Raises PortInUseError."""
        self._metrics_listen = self._metrics.serve(self._metrics_listen)
        # It warns root of pickles, which are not taken.
        warnings.filterwarnings("ignore", module="celery.platforms")
        worker = self._app.Worker(
            hostname=f"headgate-{os.getpid()}@runner", pool=Pool, concurrency=self._places, quiet=True,
            queues=[job_queue.queue_of(one) for one in self._classes],
            without_gossip=True, without_mingle=True, without_heartbeat=True,
        )  # fmt: skip
        signals.worker_process_init.connect(self._forked)
        signals.worker_ready.connect(self._ready)
        signals.worker_shutting_down.connect(self._leaves)
        signals.task_received.connect(self._took)
        worker.start()
        _LOG.info("stopped")
        return 1 if self._deaf else int(worker.exitcode or 0)

    def _forked(self, **_: Any) -> None:
        self._metrics.leave()

    def _ready(self, **_: Any) -> None:
        # Celery has just asked to be warned of tasks that go on while the broker is away. They are meant to.
        warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
        # Celery collects garbage before each fork, and what is here now is none.
        gc.freeze()
        threading.Thread(target=self._listen, name="hearing", daemon=True).start()
        threading.Thread(
            target=self._tally.listen, args=(self._metrics.note,), name="tally", daemon=True
        ).start()
        _LOG.info("taking jobs", classes=",".join(self._classes), concurrency=self._places)
        if self._ready_file is not None:
            told = {"program": "runner", "classes": ",".join(self._classes), "metrics": self._metrics_listen}
            serving.announce(self._ready_file, told)

    def _took(self, **_: Any) -> None:
        self._hearing.took()

    def _leaves(self, how: str = "Warm", **_: Any) -> None:
        # In a signal handler, where nothing may wait: Celery takes no more tasks now and waits for its
        # children, and those go home by the whistle.
        drain_s = self._drain_s if how == "Warm" else 0.0
        _after(drain_s, self._whistle.let_go)
        _after(drain_s + STUCK_S, lambda: os._exit(1))

    def _listen(self) -> None:
        while not self._hearing.deaf(self._waiting(), len(state.reserved_requests)):
            threading.Event().wait(LOOK_S)
        _LOG.error("tasks wait and none comes: this runner hears nothing, and ends")
        self._deaf = True
        # A loop that hangs hears no signal either.
        _after(self._drain_s + STUCK_S, lambda: os._exit(1))
        os.kill(os.getpid(), signal.SIGTERM)

    def _waiting(self) -> int | None:
        """Tasks that it could take; None where the broker cannot be asked."""
        try:
            with self._app.connection_for_read() as connection:
                found = sum(job_queue.waiting(connection, one) for one in self._classes)
        except Exception as error:
            _LOG.warning("the broker does not say what waits", because=type(error).__name__)
            found = None
        self._metrics.broker_away.set(found is None)
        return found


def _after(seconds: float, work: Any) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()
