"""One thread that decodes for everybody.

Nothing else touches model or tokenizer, so neither has to be safe to share.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from contextlib import suppress
from typing import Protocol

from headgate.worker.backends.base import BackendSettings, ModelDescription, NotLoadableError
from headgate.worker.backends.hf import checkpoint, lanes
from headgate.worker.backends.hf.batch import Batch
from headgate.worker.backends.hf.checkpoint import Checkpoint
from headgate.worker.backends.hf.job import Job, told
from headgate.worker.backends.hf.speculation import Speculative


class Decoder(Protocol):
    """Answers jobs a step at a time, all in one thread."""

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""

    def begin(self, job: Job) -> None:
        """Takes a job. What it raises is the job's outcome."""

    def step(self) -> None:
        """A token, or a few, for every job that is not over; outcomes are posted."""


def open_engine(settings: BackendSettings) -> tuple[Engine, ModelDescription]:
    """A running engine and what it serves. Raises NotLoadableError."""
    target = checkpoint.read(settings.source)
    draft = checkpoint.read(settings.draft_source, "draft_source") if settings.draft_source else None
    _check(target, settings.source)
    decoder = Batch(target) if draft is None else Speculative(target, draft)
    description = ModelDescription(
        version=_version(target, draft),
        context_tokens=target.context_tokens,
        logprobs=True,
        price=settings.price,
    )
    return Engine(decoder), description


def _check(target: Checkpoint, source: str) -> None:
    """Raises NotLoadableError for a model that cannot be driven step by step, rather than write nonsense."""
    why = "its cache is not one that this backend knows"
    try:
        if lanes.works(target.model):
            return
    except Exception as error:
        why = f"a first pass failed ({type(error).__name__})"
    raise NotLoadableError(f"source {source!r}: {why}")


def _version(target: Checkpoint, draft: Checkpoint | None) -> str:
    """With the draft model: passes of several tokens round otherwise, which may tip a tie."""
    whole = target.digest if draft is None else f"{target.digest} {draft.digest}"
    return f"sha256:{hashlib.sha256(whole.encode()).hexdigest()[:16]}"


class Engine:
    """The thread: takes jobs, lets the decoder step while it is busy, ends on `close`."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hf-engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Has it answered; every outcome is posted to the job."""
        self._arrivals.put(job)

    def close(self) -> None:
        """Returns when the thread has ended, after its current step; jobs that are still open stay so."""
        self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._take_in():
            self._decoder.step()

    def _take_in(self) -> bool:
        """Begins what has arrived, waiting if there is nothing else to do; False once closed."""
        with suppress(queue.Empty):
            while True:
                job = self._arrivals.get(block=not self._decoder.busy)
                if job is None:
                    return False
                with told(job):
                    self._decoder.begin(job)
        return True
