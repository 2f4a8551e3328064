"""What the event loop and the engine's thread know of one request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from headgate.worker.backends.base import (
    BackendError,
    Chunk,
    DeadlinePassedError,
    GenerationRequest,
    UpstreamUnavailableError,
)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A request, where its chunks go, and whether its caller has left. `post` may be called in any thread."""

    request: GenerationRequest
    post: Callable[[Chunk | Exception], None] = field(repr=False)
    left: threading.Event = field(default_factory=threading.Event)

    def wanted(self) -> bool:
        """Whether someone still waits for the answer. Raises DeadlinePassedError when it comes too late."""
        if self.left.is_set():
            return False
        if monotonic() >= self.request.deadline:
            raise DeadlinePassedError("the deadline passed before the answer was finished")
        return True


@contextmanager
def told(job: Job) -> Iterator[None]:
    """Posts what goes wrong in the block to the job, faults of the engine as UpstreamUnavailableError."""
    try:
        yield
    except BackendError as error:
        job.post(error)
    except Exception as error:
        job.post(engine_failed(error))


def engine_failed(error: Exception) -> UpstreamUnavailableError:
    """The error in words that hold nothing of a query: a message of torch's may."""
    return UpstreamUnavailableError(f"the model failed ({type(error).__name__})")
