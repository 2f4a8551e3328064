"""What a failed call of a worker is to the caller, and to the cascade."""

from __future__ import annotations

import asyncio
from typing import Final

import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc
import grpc.aio

from headgate.adapters import status_map
from headgate.adapters.status_map import (
    ContextTooLongError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    Violation,
    WorkerUnavailableError,
)
from headgate.gateway.journey import Journey
from headgate.gateway.workers import Worker
from headgate.router.cascade import Failed

COME_BACK_S: Final = 1.0
"""A probe's period: by then it is known whether the worker is back."""
QUICK_S: Final = 2.0
"""A failure that took longer is not tried again on the same model: silence would be met with silence, and the
deadline's rest belongs to the fallback."""
_NO_FAILURE: Final = frozenset(code.value[0] for code in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED))
"""How a draft's call ends: at its own end, or stopped."""
_SETTLED: Final = frozenset(
    code.value[0] for code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)
)
"""What a worker says when asking it again gets the same answer: misconfigured, or not recorded."""


class CutError(Exception):
    """A worker's stream ended without its last chunk."""


def of_call(worker: Worker, error: grpc.aio.AioRpcError) -> ServiceError:
    """The worker's failure in the caller's terms. A transport's words name addresses and stay here."""
    said = status_map.of_call(error)
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError("the deadline passed before the answer was finished")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            pause = status_map.retry_after_s(said) if said else None
            return OverloadedError(
                f"the worker of model {worker.name} is full", retry_after_s=pause or COME_BACK_S
            )
        case grpc.StatusCode.INVALID_ARGUMENT if said:
            return _refused(said)
        case grpc.StatusCode.NOT_FOUND:
            return unreachable(worker)
    worker.breaker.failed()
    return unreachable(worker)


def unreachable(worker: Worker) -> WorkerUnavailableError:
    """Another model may answer, or this one in a moment."""
    sentence = f"the worker of model {worker.name} cannot be reached or failed"
    return WorkerUnavailableError(sentence, retry_after_s=COME_BACK_S)


def left_out(journey: Journey, worker: Worker) -> Failed:
    """What a worker that cannot be called now tells the cascade."""
    journey.failure = journey.failure or unreachable(worker)
    return Failed(worker.name, retryable=True, delivered=False, again=False)


def worth_repeating(journey: Journey) -> bool:
    """Whether the last attempt failed in a way that the same model may not fail in again at once."""
    if not journey.attempts:
        return False
    last = journey.attempts[-1]
    return last.code not in _SETTLED and last.duration.ToNanoseconds() < QUICK_S * 1e9


def called_in_vain(journey: Journey) -> bool:
    """Whether the last call failed: what is called in place of a worker that was left out repeats nothing."""
    return bool(journey.attempts) and journey.attempts[-1].code not in _NO_FAILURE


def cancelled_from_outside() -> bool:
    """Whether the request itself was cancelled, not only its call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refused(said: status_pb2.Status) -> InvalidRequestError:
    """What the worker finds wrong with its request, told of the query, whose fields it was made from."""
    wrong = [Violation(f"query.{one.field}", one.description) for one in status_map.violations_of(said)]
    if status_map.reason_of(said) == status_map.TABLE[ContextTooLongError][1]:
        return ContextTooLongError(said.message, wrong or [Violation("query.messages", said.message)])
    return InvalidRequestError(said.message, wrong)
