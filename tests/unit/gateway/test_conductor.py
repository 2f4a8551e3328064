"""What the conductor tells callers and workers; its way as a whole is tried in integration/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from headgate.adapters.breaker import Breaker
from headgate.adapters.config import CascadeConfig
from headgate.adapters.telemetry import Metrics
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.conductor import Conductor
from headgate.gateway.decider import Decider
from headgate.gateway.drain import Drain
from headgate.gateway.journey import Event, Journey
from headgate.gateway.records import Recorder
from headgate.gateway.reuse import Reuse
from headgate.gateway.sessions import Sessions
from headgate.gateway.workers import Workers
from headgate.router.cascade import CallModel, Cascade, Failed
from headgate.router.types import Decision, Pool, Reason
from headgate.v1 import types_pb2
from tests.unit.gateway.three_models import journey, three_workers


def _conductor(workers: Workers, metrics: Metrics | None = None) -> Conductor:
    metrics = metrics or Metrics()
    sessions = Sessions(None)
    decider = Decider(workers, BundleStore(), sessions, metrics, None, CascadeConfig())
    reuse = Reuse(AnswerCache(None, 1), workers, metrics)
    recorder = Recorder(None, lambda _: None)
    return Conductor(workers, decider, reuse, sessions, recorder, metrics, Drain())


async def test_each_switch_names_the_model_that_was_left() -> None:
    workers = three_workers()
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


cascade = Cascade(None, Pool((), ""), now=0.0)


async def test_a_second_call_that_the_budget_forbids_takes_no_trial_of_the_breaker() -> None:
    workers, now = three_workers(), [0.0]
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
    workers = three_workers()
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


def _answered(by: str, **fields: Any) -> tuple[Journey, types_pb2.Decision]:
    done = journey(usage=types_pb2.Usage(prompt_tokens=10, completion_tokens=2), **fields)
    return done, types_pb2.Decision(request_id="r", model=by)


@pytest.mark.parametrize(
    ("fields", "answers", "reference"),
    [
        ({}, 1, 36),
        ({"upgraded": {"changed": "yes"}}, 1, 0),
        ({"cache_status": types_pb2.CACHE_STATUS_RENEWED}, None, 0),
    ],
    ids=("an answer", "an upgrade", "a renewal"),
)
async def test_only_what_the_reference_would_have_been_asked_is_saved(
    fields: dict[str, Any], answers: int | None, reference: int
) -> None:
    workers, metrics = three_workers(priced=True), Metrics()
    one = _conductor(workers, metrics)
    done, final = _answered("small", **fields)
    one._record(done, "OK", final, "small")
    value = metrics.registry.get_sample_value
    assert value("headgate_answer_seconds_count", {"model": "small"}) == answers
    assert value("headgate_reference_cost_nanousd_total", {"source": "model"}) == reference
    await workers.close()


async def test_a_fallback_is_counted_once_for_who_answered_and_not_where_nobody_did() -> None:
    workers, metrics = three_workers(priced=True), Metrics()
    one = _conductor(workers, metrics)
    for code, final in (("OK", "large"), ("UNAVAILABLE", "")):
        on_its_way = journey(model="small")
        for name in ("middle", "large"):
            decision = Decision(name, Reason.POLICY, "", ())
            await one._switch(on_its_way, CallModel(name, decision, attempt=2, fallback=True))
        told = types_pb2.Decision(request_id="r", model=final) if final else None
        one._record(on_its_way, code, told, "large")
    counted = {
        name: metrics.registry.get_sample_value("headgate_fallbacks_total", {"model": name})
        for name in ("middle", "large")
    }
    assert counted == {"middle": None, "large": 1}
    await workers.close()
