"""A job runner with faults of ours that some answers bring out: `python -m tests.faults.poisoned_runner …`.

The arguments are those of `python -m headgate.jobs`. An answer's text says what it does to its process:

    poison:kill     kills it, as the kernel does when memory is short
    poison:eat      takes all the memory that the process may have
    poison:leak     keeps 100 MB for ever, and is answered
    poison:raise    fails as nobody foresaw
    poison:hang     stands still
    poison:spin     stands still where no watch sees it: Celery's limit is the last one
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
from typing import Final

import psutil

from headgate.adapters import diagnosis, job_queue
from headgate.jobs import app, heard, process, runner
from headgate.v1 import router_pb2

KINDS: Final = ("kill", "eat", "raise", "hang", "spin")
"""Each is the end of its job."""
LIMIT_S: Final = 3
"""Celery's, here."""
KILOBYTES: Final = 200_000
"""Of a process that has leaked; others have half of it."""
_MEGABYTE: Final = 1 << 20
_LEAKED: list[bytearray] = []


class PoisonedHeard(heard.Heard):
    """Does what it hears."""

    def add(self, event: router_pb2.StreamGenerateResponse) -> bool:
        """Takes an event in, if it can."""
        kind = event.delta.text.strip()
        if kind.startswith("poison:"):
            globals()[f"_{kind.removeprefix('poison:')}"]()
        return super().add(event)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _eat() -> None:
    """Within a limit, so that nobody else's memory gets short."""
    taken = psutil.Process().memory_info().vms
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + 64 * _MEGABYTE, before[1]))
    try:
        eaten = [bytearray(_MEGABYTE) for _ in range(128)]
        raise AssertionError(f"there was room for {len(eaten)}")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _leak() -> None:
    _LEAKED.append(bytearray(200 * _MEGABYTE))


def _raise() -> None:
    raise RuntimeError("a fault of ours")


def _hang() -> None:
    time.sleep(600)


def _spin() -> None:
    faulthandler.cancel_dump_traceback_later()
    time.sleep(600)


if __name__ == "__main__":
    diagnosis.prepare()
    runner.Heard = PoisonedHeard  # type: ignore[misc]
    runner.FIRST_PAUSE_S = 0.5  # type: ignore[misc]
    app.STILL_S = 1.5
    job_queue._SETTINGS |= {"task_time_limit": LIMIT_S, "worker_max_memory_per_child": KILOBYTES}
    sys.exit(process.main(sys.argv[1:], os.environ))
