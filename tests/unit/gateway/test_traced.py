"""What spans tell of a request; which hops there are is tried end to end, in integration/."""

from __future__ import annotations

import time
import timeit
from collections.abc import Mapping
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from headgate.adapters import traces
from headgate.adapters.traces import NONE, Span, Value
from headgate.gateway import traced
from headgate.gateway.admission import CALLER, Caller
from headgate.gateway.journey import Arrival, Journey
from headgate.gateway.reuse import NOTHING
from headgate.gateway.visits import _entered
from headgate.router.types import Decision, Reason
from headgate.v1 import types_pb2

CALL_IS = 45
"""So many calls of an empty function, 1 µs on an idle core, is what a request's seams may cost."""


class Kept(Span):
    """A span that keeps what it is told."""

    def __init__(self) -> None:
        self.recording = True
        self.told: dict[str, Value] = {}
        self.events: list[tuple[str, Mapping[str, Value]]] = []
        self.code = ""

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.told |= attributes

    def event(self, name: str, attributes: Mapping[str, Value] | None = None) -> None:
        self.events.append((name, attributes or {}))

    def end(self, code: str = "OK") -> None:
        self.code = code


def journey(span: Span = NONE, **fields: Any) -> Journey:
    now = time.perf_counter()
    wire = types_pb2.Query(**fields)
    return Journey(Arrival(Caller("acme"), now, now + 60), wire, "r-1", span=span)


def decided(model: str = "small") -> Decision:
    return Decision(model=model, reason=Reason.POLICY, explanation="", estimates=())


@pytest.fixture
def root() -> Kept:
    """A request's span."""
    return Kept()


async def test_a_pin_that_the_pool_does_not_have_is_not_repeated(root: Kept) -> None:
    traced.ended(
        journey(root, model="canary"), types_pb2.Decision(request_id="r-1"), "FINISH_REASON_UNSPECIFIED"
    )
    assert root.told == {"gen_ai.operation.name": "chat", "headgate.request_id": "r-1"}


async def test_an_ended_request_names_what_was_asked_for_and_what_was_missing(root: Kept) -> None:
    one = journey(root, model="small", metadata={"note": "canary"})
    one.decision = decided()
    wire = types_pb2.Decision(request_id="r-1", model="large", degraded=[types_pb2.DEGRADATION_CACHE],
                              cache_status=types_pb2.CACHE_STATUS_BYPASS, cost_nanousd=7)  # fmt: skip
    traced.ended(one, wire, "FINISH_REASON_STOP")
    assert (root.told["gen_ai.request.model"], root.told["gen_ai.response.model"]) == ("small", "large")
    assert (root.told["headgate.degraded"], root.told["headgate.cost_nanousd"]) == (["CACHE"], 7)
    assert root.told["headgate.cache.status"] == "BYPASS"
    assert root.told["gen_ai.response.finish_reasons"] == ["stop"]
    assert "canary" not in str(root.told)


async def test_an_attempt_ends_its_span_with_its_code_usage_and_price() -> None:
    one, span = journey(), Kept()
    one.hops["small"] = span
    usage = types_pb2.Usage(prompt_tokens=3, completion_tokens=4)
    attempt = types_pb2.Attempt(model="small", usage=usage, cost_nanousd=9)
    traced.attempted(one, attempt, grpc.StatusCode.UNAVAILABLE)
    assert span.code == "UNAVAILABLE"
    assert (span.told["gen_ai.usage.input_tokens"], span.told["gen_ai.usage.output_tokens"]) == (3, 4)
    assert span.told["headgate.cost_nanousd"] == 9
    assert one.hops == {}
    traced.attempted(one, attempt, grpc.StatusCode.OK)
    assert span.code == "UNAVAILABLE"


async def test_escalation_and_fallback_are_told_apart(root: Kept) -> None:
    one = journey(root)
    one.model = "small"
    traced.switched(one, "large", "doubtful", escalation=True)
    traced.switched(one, "large", "failed", escalation=False)
    assert [name for name, _ in root.events] == ["headgate.escalation", "headgate.fallback"]
    assert root.events[0][1] == {
        "headgate.from_model": "small", "headgate.to_model": "large", "headgate.why": "doubtful",
    }  # fmt: skip


@pytest.mark.parametrize("method", ["WatchJob", "GetJob", "ListJobs", "CancelJob", "ListDeadJobs"])
def test_who_looks_after_jobs_makes_no_trace(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "tracer", SimpleNamespace(span=lambda *_: Kept()))
    CALLER.set(Caller("acme"))
    context: Any = SimpleNamespace(invocation_metadata=lambda: ())

    def tried() -> None:
        assert _entered(method, context) is NONE
        assert _entered("SubmitJob", context).recording

    copy_context().run(tried)


def test_the_seams_of_a_request_cost_a_microsecond_while_nobody_traces() -> None:
    """Those of one that a model answers: door, decision, look-up, a call, its end."""
    one, worker = journey(), SimpleNamespace(name="small", model=None)
    attempt, context = types_pb2.Attempt(model="small"), SimpleNamespace(invocation_metadata=tuple)
    wire = types_pb2.Decision()

    def seams(worker: Any = worker, context: Any = context) -> None:
        span = _entered("Generate", context)
        traces.current()
        traced.decided(traces.begun("internal", "decide"), one)
        traced.looked_up(traces.begun("internal", "look up"), NOTHING)
        _ = traced.begun(one, worker).carried
        traced.attempted(one, attempt, grpc.StatusCode.OK)
        traced.ended(one, wire, "")
        span.end("OK")

    def empty() -> None:
        pass

    def each(work: Any) -> float:
        return min(timeit.repeat(work, number=1_000, repeat=50)) / 1_000

    cost, call = each(seams), each(empty)
    print(f"{cost * 1e9:.0f} ns, as {cost / call:.0f} empty calls")
    assert cost < CALL_IS * call
