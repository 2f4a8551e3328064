"""What the conductor tells callers and workers; its way as a whole is tried in integration/."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from headgate.adapters.breaker import Breaker
from headgate.adapters.config import CascadeConfig, ModelConfig
from headgate.adapters.status_map import (
    ModelUnknownError,
)
from headgate.adapters.telemetry import Metrics
from headgate.adapters.traces import Span
from headgate.gateway.admission import Caller
from headgate.gateway.answer_cache import AnswerCache
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.conductor import Conductor
from headgate.gateway.drain import Drain
from headgate.gateway.journey import Arrival, Event, Journey
from headgate.gateway.looks import Looks
from headgate.gateway.records import Recorder
from headgate.gateway.reuse import Reuse
from headgate.gateway.sessions import Sessions
from headgate.gateway.workers import Worker, Workers
from headgate.router.accept import Look
from headgate.router.cascade import CallModel, Cascade, Failed, Finished
from headgate.router.types import Decision, Draft, Model, Objective, Pool, Price, Query, Reason
from headgate.v1 import types_pb2, worker_pb2

NAMES = ("small", "middle", "large")


def journey(**fields: Any) -> Journey:
    now = time.perf_counter()
    return Journey(Arrival(Caller("acme"), now, now + 60), types_pb2.Query(), "r", **fields)


def _workers() -> Workers:
    async def changed(_worker: Worker) -> None: ...

    return Workers(dict.fromkeys(NAMES, ModelConfig()), dict.fromkeys(NAMES, "127.0.0.1:1"), None, changed)


def _conductor(workers: Workers, metrics: Metrics | None = None) -> Conductor:
    metrics = metrics or Metrics()
    reuse = Reuse(AnswerCache(None, 1), workers, metrics)
    return Conductor(
        workers, BundleStore(), reuse, Sessions(None), Recorder(None, lambda _: None), metrics, None,
        CascadeConfig(), Drain(),
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


class Scripted:
    """A call that brings these chunks."""

    def __init__(self, chunks: Sequence[worker_pb2.WorkerServiceGenerateResponse]) -> None:
        self._chunks = list(chunks)

    async def read(self) -> worker_pb2.WorkerServiceGenerateResponse:
        return self._chunks.pop(0)


class Accepting(Cascade):
    """A cascade that accepts a draft after two tokens."""

    hold_back = 2

    def look(self, draft: Draft, *, overdue: bool = False) -> Look:
        return Look.ACCEPT


async def test_the_end_of_a_draft_whose_beginning_was_accepted_is_read_with_all_its_log_probabilities() -> (
    None
):
    workers = _workers()
    told = [-0.1, -0.2, -3.0, -4.0]
    chunks = [
        worker_pb2.WorkerServiceGenerateResponse(
            text=f"{number} ", tokens=[worker_pb2.Token(token_id=-1, logprob=logprob)]
        )
        for number, logprob in enumerate(told)
    ]
    chunks[-1].finish_reason = types_pb2.FINISH_REASON_STOP
    chunks[-1].usage.completion_tokens = len(told)

    async def deliver(_event: Event) -> None: ...

    drafting = journey(deliver=deliver, model="small", holding=True)
    looks = Looks(Accepting(None, Pool((), ""), now=0.0), drafting, "small")
    await _conductor(workers)._read(drafting, Scripted(chunks), looks)  # type: ignore[arg-type]
    assert not drafting.holding, "its beginning was delivered"
    assert list(drafting.hold("small").logprobs) == told
    await workers.close()


def _counts(workers: Workers) -> tuple[Conductor, Metrics]:
    """A conductor that knows what its models cost, and what it counts."""
    models = tuple(Model(name, Price(3_000_000, 3_000_000), 8_000) for name in NAMES)
    workers._pool = Pool(models, "large")
    metrics = Metrics()
    return _conductor(workers, metrics), metrics


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
    workers = _workers()
    one, metrics = _counts(workers)
    done, final = _answered("small", **fields)
    one._record(done, "OK", final, "small")
    value = metrics.registry.get_sample_value
    assert value("headgate_answer_seconds_count", {"model": "small"}) == answers
    assert value("headgate_reference_cost_nanousd_total", {"source": "model"}) == reference
    await workers.close()


async def test_a_fallback_is_counted_once_for_who_answered_and_not_where_nobody_did() -> None:
    workers = _workers()
    one, metrics = _counts(workers)
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


class Events(Span):
    """A span that keeps the names of its events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def event(self, name: str, attributes: object = None) -> None:
        self.names.append(name)


async def test_a_stream_s_first_text_is_timed_and_traced_once_and_not_what_is_held_back() -> None:
    workers = _workers()
    one, metrics = _counts(workers)
    span = Events()

    async def deliver(_event: Event) -> None: ...

    on_its_way = journey(deliver=deliver, model="small", holding=True, span=span)
    name, labels = "headgate_time_to_first_token_seconds_count", {"model": "small"}
    await one._deliver(on_its_way, "a draft")
    assert metrics.registry.get_sample_value(name, labels) is None
    assert span.names == []
    on_its_way.holding = False
    for text in ("", "a ", "b "):
        await one._deliver(on_its_way, text)
    assert metrics.registry.get_sample_value(name, labels) == 1
    assert span.names == ["headgate.first_text"]
    collected = journey(model="small")
    await one._deliver(collected, "in one piece")
    assert metrics.registry.get_sample_value(name, labels) == 1
    await workers.close()


class Fails:
    """A brain with a fault."""

    def feed(self, event: object) -> object:
        if isinstance(event, Finished):
            raise ZeroDivisionError
        return event


async def test_a_brain_that_fails_is_counted_over_a_decision_and_over_a_draft() -> None:
    workers = _workers()
    one, metrics = _counts(workers)
    value = metrics.registry.get_sample_value
    assert [value("headgate_brain_failures_total", {"over": what}) for what in ("decision", "draft")] == [
        0,
        0,
    ]
    draft = Draft("small", "2 + 2 = 4", finished=True, declined=False, tokens=2, logprobs=())
    one._next(journey(), Fails(), Finished("small", draft))  # type: ignore[arg-type]
    one._decided.decide = lambda *_, **__: 1 / 0  # type: ignore[assignment,method-assign]
    query = Query(text="2 + 2", objective=Objective(risk_target=0.05))
    one._first_command(journey(), query, workers.pool or Pool((), ""))
    assert [value("headgate_brain_failures_total", {"over": what}) for what in ("decision", "draft")] == [
        1,
        1,
    ]
    await workers.close()
