"""What the conductor tells of workers' failures; its way as a whole is tried in integration/."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.adapters.breaker import Breaker
from headgate.adapters.config import CascadeConfig, ModelConfig
from headgate.adapters.status_map import (
    ContextTooLongError,
    InvalidRequestError,
    ModelUnknownError,
    ServiceError,
    Violation,
)
from headgate.adapters.telemetry import Metrics
from headgate.gateway import conductor
from headgate.gateway.admission import Caller
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.conductor import Arrival, Conductor, Event, Journey
from headgate.gateway.drain import Drain
from headgate.gateway.records import Recorder
from headgate.gateway.sessions import Sessions
from headgate.gateway.workers import Worker, Workers
from headgate.router.cascade import CallModel, Cascade, Failed
from headgate.router.types import Decision, Pool, Reason
from headgate.v1 import types_pb2

NAMES = ("small", "middle", "large")


def journey(**fields: Any) -> Journey:
    now = time.perf_counter()
    return Journey(Arrival(Caller("acme"), now, now + 60), types_pb2.Query(), "r", **fields)


def _workers() -> Workers:
    async def changed(_worker: Worker) -> None: ...

    return Workers(dict.fromkeys(NAMES, ModelConfig()), dict.fromkeys(NAMES, "127.0.0.1:1"), None, changed)


def _conductor(workers: Workers) -> Conductor:
    return Conductor(
        workers, BundleStore(), AnswerCache(None, 1), Sessions(None), Recorder(None, lambda _: None),
        Metrics(), None, CascadeConfig(), Drain(),
    )  # fmt: skip


async def test_each_switch_names_the_model_that_was_left() -> None:
    workers = _workers()
    one = _conductor(workers)
    told: list[Event] = []

    async def deliver(event: Event) -> None:
        told.append(event)

    on_its_way = journey(deliver=deliver, model="small")
    for name in ("middle", "large"):
        decision = Decision(name, Reason.POLICY, "", ())
        await one._switch(on_its_way, CallModel(name, decision, attempt=2, fallback=True))
    switches = [(event.model_switched.from_model, event.model_switched.to_model) for event in told]
    assert switches == [("small", "middle"), ("middle", "large")]
    await workers.close()


async def test_an_unknown_model_is_answered_with_the_names_that_the_tenant_may_use() -> None:
    workers = _workers()
    for caller, names in (
        (Caller("acme"), "small, middle, large"),
        (Caller("beta", frozenset(["large"])), "large"),
    ):
        asked = Journey(Arrival(caller, 0.0, 60.0), types_pb2.Query(model="hugest"), "r")
        with pytest.raises(ModelUnknownError) as caught:
            _conductor(workers)._pool(asked)
        assert str(caught.value) == f"query.model: the pool has no such model; there are: {names}"
    await workers.close()


cascade = Cascade(None, Pool((), ""), now=0.0)


async def test_a_second_call_that_the_budget_forbids_takes_no_trial_of_the_breaker() -> None:
    workers, now = _workers(), [0.0]
    small = workers["small"]
    small.serving = True
    small.breaker = _opened(lambda: now[0])
    while small.retries.spend():
        pass
    now[0] = 10
    attempted = journey(attempts=[types_pb2.Attempt(model="small", code=14)])
    forbidden = await _conductor(workers)._perform(attempted, _again("small"), cascade)
    assert forbidden == Failed("small", retryable=False, delivered=False)
    assert small.breaker.allows(), "the trial is still there for a call that is made"
    await workers.close()


async def test_a_call_that_the_breaker_forbids_costs_no_budget() -> None:
    workers = _workers()
    small = workers["small"]
    small.serving = True
    small.breaker = _opened(lambda: 0.0)
    for _ in range(100):
        attempted = journey(attempts=[types_pb2.Attempt(model="small", code=14)])
        forbidden = await _conductor(workers)._perform(attempted, _again("small"), cascade)
        assert forbidden == Failed("small", retryable=True, delivered=False, again=False)
    assert small.retries.spend()
    await workers.close()


def _opened(clock: Callable[[], float]) -> Breaker:
    breaker = Breaker(failures=1, open_s=1, clock=clock)
    breaker.failed()
    return breaker


def _again(model: str) -> CallModel:
    decision = Decision(model, Reason.POLICY, "", ())
    return CallModel(model, decision, attempt=2, fallback=False)


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
    told: ServiceError = conductor._failure(worker, failed)
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
    assert conductor._worth_repeating(journey(attempts=[attempt])) is again
