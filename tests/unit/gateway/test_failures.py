from __future__ import annotations

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.adapters.status_map import ContextTooLongError, InvalidRequestError, ServiceError, Violation
from headgate.gateway import failures
from headgate.gateway.admission import Caller
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.workers import Worker
from headgate.v1 import types_pb2


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        (InvalidRequestError("x", [Violation("sampling.seed", "no")]), ["query.sampling.seed"]),
        (InvalidRequestError("x"), []),
        (ContextTooLongError("x", [Violation("messages", "too long")]), ["query.messages"]),
        (ContextTooLongError("x"), ["query.messages"]),
    ],
)
async def test_fields_that_a_worker_refuses_are_named_as_the_query_s(
    said: InvalidRequestError, fields: list[str]
) -> None:
    status = status_map.to_status(said)
    trailing = grpc.aio.Metadata((status_map.DETAILS_KEY, status.SerializeToString()))
    failed = grpc.aio.AioRpcError(grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(), trailing, "x")
    worker = Worker("small", "127.0.0.1:1", None)
    told: ServiceError = failures.of_call(worker, failed)
    assert type(told) is type(said)
    assert isinstance(told, InvalidRequestError)
    assert [violation.field for violation in told.violations] == fields
    await worker.close()


@pytest.mark.parametrize(
    ("code", "seconds", "again"),
    [
        (grpc.StatusCode.UNAVAILABLE, 0.01, True),
        (grpc.StatusCode.CANCELLED, 0.01, True),
        (grpc.StatusCode.UNAVAILABLE, 30.0, False),
        (grpc.StatusCode.FAILED_PRECONDITION, 0.01, False),
        (grpc.StatusCode.NOT_FOUND, 0.01, False),
    ],
)
def test_only_a_quick_failure_is_worth_repeating(code: grpc.StatusCode, seconds: float, again: bool) -> None:
    attempt = types_pb2.Attempt(model="small", code=code.value[0])
    attempt.duration.FromNanoseconds(round(seconds * 1e9))
    journey = Journey(Arrival(Caller("acme"), 0.0, 60.0), types_pb2.Query(), "r", attempts=[attempt])
    assert failures.worth_repeating(journey) is again
