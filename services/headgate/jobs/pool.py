"""Celery's pool of processes, where one that dies is replaced at once."""

from __future__ import annotations

import time
from typing import Any, Final

from celery.concurrency import asynpool, prefork

DYING_S: Final = 1.0
"""Far longer than the end of a process takes, once it has closed its files."""


class Processes(asynpool.AsynPool):  # type: ignore[misc]
    """Celery's, which misses one death in three on a busy machine.

    It is told of a death by a pipe, which closes a moment before the process can be waited for. It looks
    once, finds the process alive, and looks again after five seconds.
    """

    def _event_process_exit(self, hub: Any, process: Any) -> None:
        end = time.monotonic() + DYING_S
        while process.exitcode is None and time.monotonic() < end:
            time.sleep(0.001)
        super()._event_process_exit(hub, process)


class Pool(prefork.TaskPool):  # type: ignore[misc]
    """Celery's, of such processes."""

    Pool = Processes
