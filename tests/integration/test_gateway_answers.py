"""A query's way through a gateway process: methods, streams, failures, cancels, deadlines, cache."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Iterator

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    Stack,
    details,
    eventually,
    generate,
    key,
    query,
    refusal,
    stack,
    streamed,
    stub,
    text_of,
    turn,
    wait_for,
)

ACME, BETA = key("acme"), key("beta")
LOOSE = types_pb2.PolicyOverride(risk_target=0.2)
BUDGET = types_pb2.PolicyOverride(budget_nanousd=5)
Stub = router_pb2_grpc.RouterServiceStub


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


def fresh() -> str:
    return uuid.uuid4().hex


async def test_generate_answers_and_says_how_it_decided(router: Stub) -> None:
    said = fresh()
    answer = await router.Generate(generate(said, request_id="r-1"), metadata=ACME)
    decision = answer.decision
    assert text_of(answer) == f"{decision.model}: {said}"
    assert answer.finish_reason == types_pb2.FINISH_REASON_STOP
    assert decision.request_id == "r-1"
    assert [estimate.model for estimate in decision.estimates] == ["small", "large"]
    assert decision.explanation
    assert decision.reason != types_pb2.REASON_UNSPECIFIED
    assert [attempt.code for attempt in decision.attempts] == [0]
    assert decision.cost_nanousd == decision.attempts[0].cost_nanousd > 0
    assert 0 < decision.overhead.ToMilliseconds() < 2_000 or decision.overhead.nanos > 0


async def test_route_decides_and_calls_nobody(running: Stack, router: Stub) -> None:
    request = router_pb2.RouteRequest(query=query(fresh(), request_id="route-1"))
    decision = (await router.Route(request, metadata=ACME)).decision
    assert decision.model in ("small", "large")
    assert (decision.cost_nanousd, list(decision.attempts)) == (0, [])
    assert running.events("route-1") == []


async def test_a_pinned_model_answers(router: Stub) -> None:
    answer = await router.Generate(generate(fresh(), model="small"), metadata=ACME)
    assert answer.decision.model == "small"
    assert answer.decision.reason == types_pb2.REASON_PINNED
    assert not answer.decision.HasField("certificate")


async def test_records_and_outcomes_land_in_the_ledger(running: Stack, router: Stub) -> None:
    name = fresh()
    await router.Generate(generate("a question", request_id=name, metadata={"team": "blue"}), metadata=ACME)
    outcome = router_pb2.RecordOutcomeRequest(
        request_id=name, model="small", quality=0.5, source=router_pb2.OUTCOME_SOURCE_JUDGE
    )
    await router.RecordOutcome(outcome, metadata=ACME)
    written = _ledger(running, name)
    assert written["outcome"][b"quality"] == b"0.5"
    request = written["request"]
    assert (request[b"tenant"], request[b"code"], request[b"labels"]) == (b"acme", b"OK", b'{"team": "blue"}')
    assert b"a question" not in b"".join(request.values())


def _ledger(running: Stack, request_id: str) -> dict[str, dict[bytes, bytes]]:
    def both() -> dict[str, dict[bytes, bytes]]:
        records = [fields for _, fields in running.valkey.client.xrange("headgate:ledger")]
        mine = {f[b"kind"].decode(): f for f in records if f[b"request_id"] == request_id.encode()}
        return mine if len(mine) == 2 else {}

    return wait_for(both, what="both records")


async def test_the_first_text_arrives_before_the_worker_has_finished(running: Stack, router: Stub) -> None:
    name = fresh()
    script = {"say": ["first ", "second"], "gap_s": 3, "nonce": name}
    kinds, seen_early = [], False
    async for event in router.StreamGenerate(streamed(script, request_id=name), metadata=ACME):
        kinds.append(event.WhichOneof("event"))
        if kinds[-1] == "delta" and not seen_early:
            seen_early = True
            assert event.delta.text == "first "
            assert running.events(name) == ["begun"]
    assert kinds == ["decision", "delta", "delta", "finished"]


async def test_finished_carries_usage_cost_and_attempts(router: Stub) -> None:
    events = [event async for event in router.StreamGenerate(streamed(fresh()), metadata=ACME)]
    first, last = events[0].decision, events[-1].finished
    assert (first.cost_nanousd, len(first.attempts)) == (0, 0)
    assert last.usage.completion_tokens == 2
    assert last.decision.cost_nanousd > 0
    assert len(last.decision.attempts) == 1
    assert last.decision.model == first.model


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_the_same_status(
    router: Stub, code: str
) -> None:
    name = fresh()
    call = router.StreamGenerate(
        streamed({"say": ["half an "], "fail": code, "nonce": name}, request_id=name), metadata=ACME
    )
    events, error = await _to_the_end(call)
    assert [event.WhichOneof("event") for event in events] == ["decision", "delta", "error"]
    assert events[-1].error.code == error.code().value[0] != 0
    assert events[-1].error == details(error)


async def _to_the_end(
    call: AsyncIterable[router_pb2.StreamGenerateResponse],
) -> tuple[list[router_pb2.StreamGenerateResponse], grpc.aio.AioRpcError]:
    """The events of a stream and the error that it must end with."""
    events = []
    try:
        async for event in call:
            events.append(event)  # noqa: PERF401  (what came before the error counts)
    except grpc.aio.AioRpcError as error:
        return events, error
    raise AssertionError("the stream ended well")


async def test_after_the_first_text_nothing_is_tried_again(running: Stack, router: Stub) -> None:
    name = fresh()
    call = router.StreamGenerate(
        streamed({"say": ["x"], "fail": "UNAVAILABLE", "nonce": name}, request_id=name), metadata=ACME
    )
    await _to_the_end(call)
    assert running.events(name).count("begun") == 1


async def test_a_failure_before_any_text_is_tried_again_and_falls_back(running: Stack, router: Stub) -> None:
    name = fresh()
    script = {"say": [], "fail": "UNAVAILABLE", "only": "large", "nonce": name}
    chosen = (await router.Route(router_pb2.RouteRequest(query=query(script)), metadata=ACME)).decision.model
    script["only"] = chosen
    events = [
        event async for event in router.StreamGenerate(streamed(script, request_id=name), metadata=ACME)
    ]
    kinds = [event.WhichOneof("event") for event in events]
    decision = events[-1].finished.decision
    assert kinds == ["decision", "model_switched", "finished"]
    assert not events[1].model_switched.escalation
    assert [one.model for one in decision.attempts] == [chosen, chosen, decision.model]
    assert decision.model != chosen
    assert types_pb2.DEGRADATION_WORKER in decision.degraded
    assert not decision.HasField("certificate")
    # Once the last chunk is there the gateway lets go of the call; the worker may see that as a cancellation.
    seen = await eventually(lambda: _when_over(running.events(name)), what="the last call to end")
    assert seen.count("begun") == 3


def _when_over(events: list[str]) -> list[str]:
    return events if {"ended", "cancelled"} & set(events) else []


@pytest.mark.parametrize("method", ["StreamGenerate", "Generate"])
async def test_a_client_that_leaves_stops_the_worker(running: Stack, router: Stub, method: str) -> None:
    name = fresh()
    asked = query({"say": ["one ", "two "], "gap_s": 60, "nonce": name}, request_id=name)
    request = {
        "StreamGenerate": router_pb2.StreamGenerateRequest(query=asked),
        "Generate": router_pb2.GenerateRequest(query=asked),
    }[method]
    call = getattr(router, method)(request, metadata=ACME)
    reading = asyncio.ensure_future(_drained(call))
    await eventually(lambda: running.events(name), what="the call to begin")
    left_at = time.monotonic()
    call.cancel()
    await eventually(lambda: "cancelled" in running.events(name), 5, "the worker to be cancelled")
    assert time.monotonic() - left_at < 2
    await asyncio.wait({reading})


async def _drained(call: object) -> None:
    if isinstance(call, AsyncIterable):
        [event async for event in call]
    else:
        await call  # type: ignore[misc]


async def test_a_deadline_reaches_the_worker_smaller_and_ends_the_call(running: Stack, router: Stub) -> None:
    name = fresh()
    began = time.monotonic()
    script = {"say": ["a ", "b "], "gap_s": 60, "nonce": name}
    error = await refusal(router.Generate(generate(script, request_id=name), metadata=ACME, timeout=1.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3
    begun = running.journal(name)[0]
    assert 0 < begun["left_s"] < 1.6  # gRPC rounds timeouts up when it sends them.
    await eventually(lambda: "cancelled" in running.events(name), 5, "the worker to be cancelled")


@pytest.mark.parametrize(("method", "most"), [("Generate", 60), ("StreamGenerate", 300)])
async def test_a_call_without_deadline_gets_one(
    running: Stack, router: Stub, method: str, most: float
) -> None:
    name = fresh()
    if method == "Generate":
        await router.Generate(generate(fresh(), request_id=name), metadata=ACME)
    else:
        [e async for e in router.StreamGenerate(streamed(fresh(), request_id=name), metadata=ACME)]
    assert most - 10 < running.journal(name)[0]["left_s"] < most


async def test_no_deadline_is_longer_than_ten_minutes(running: Stack, router: Stub) -> None:
    name = fresh()
    await router.Generate(generate(fresh(), request_id=name), metadata=ACME, timeout=86_400)
    assert running.journal(name)[0]["left_s"] < 600


async def _again(router: Stub, request: router_pb2.GenerateRequest) -> types_pb2.Decision:
    """The decision on a repeated request, once the first answer has had time to be kept."""
    await router.Generate(request, metadata=ACME)
    for _ in range(50):
        decision = (await router.Generate(request, metadata=ACME)).decision
        if decision.cache_status == types_pb2.CACHE_STATUS_HIT:
            return decision
        await asyncio.sleep(0.05)
    return decision


async def test_a_repeated_query_is_answered_from_the_cache_for_nothing(running: Stack, router: Stub) -> None:
    said = fresh()
    first = await router.Generate(generate(said), metadata=ACME)
    assert first.decision.cache_status == types_pb2.CACHE_STATUS_MISS
    decision = await _again(router, generate(said))
    assert decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert (decision.cost_nanousd, len(decision.attempts)) == (0, 0)
    second = await router.Generate(generate(said, request_id="hit"), metadata=ACME)
    assert (second.message, second.usage) == (first.message, first.usage)
    assert second.decision.request_id == "hit"
    assert running.events("hit") == []


async def test_streams_are_replayed_from_the_cache(router: Stub) -> None:
    said = fresh()
    await _again(router, generate(said))
    events = [event async for event in router.StreamGenerate(streamed(said), metadata=ACME)]
    assert [event.WhichOneof("event") for event in events] == ["decision", "delta", "finished"]
    assert events[0].decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert events[1].delta.text.endswith(said)
    assert events[2].finished.usage.completion_tokens == 2


@pytest.mark.parametrize("finish", ["LENGTH", "DECLINED"])
async def test_an_answer_that_did_not_end_well_is_not_kept(router: Stub, finish: str) -> None:
    decision = await _again(router, generate({"finish": finish, "nonce": fresh()}))
    assert decision.cache_status != types_pb2.CACHE_STATUS_HIT


async def test_sampled_answers_bypass_the_cache(router: Stub) -> None:
    warm = types_pb2.Sampling(temperature=0.5)
    decision = await _again(router, generate(fresh(), sampling=warm))
    assert decision.cache_status == types_pb2.CACHE_STATUS_BYPASS


async def test_tenants_never_see_each_other_s_answers(running: Stack, router: Stub) -> None:
    said = fresh()
    request = generate(said, model="small")
    assert (await _again(router, request)).cache_status == types_pb2.CACHE_STATUS_HIT
    other = await router.Generate(request, metadata=BETA)
    assert other.decision.cache_status == types_pb2.CACHE_STATUS_MISS


async def test_a_session_keeps_its_model(router: Stub) -> None:
    session = fresh()
    await router.Generate(generate(fresh(), session=session, model="large"), metadata=ACME)
    text = "what is 1 + 1"
    decision = (await router.Generate(generate(text, session=session), metadata=ACME)).decision
    assert decision.model == "large"


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"model": "huge"}, grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN"),
        ({"model": "large"}, grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"),
        ({"policy_override": LOOSE}, grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"),
        ({"policy_override": BUDGET}, grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED"),
    ],
)  # fmt: skip
async def test_a_tenant_may_ask_only_what_it_may(
    router: Stub, fields: dict[str, object], code: grpc.StatusCode, reason: str
) -> None:
    error = await refusal(router.Generate(generate(fresh(), **fields), metadata=BETA))
    assert (error.code(), status_map.reason_of(details(error))) == (code, reason)


async def test_an_objective_that_no_certificate_meets_is_refused(router: Stub) -> None:
    asked = types_pb2.PolicyOverride(risk_target=1e-9)
    error = await refusal(router.Generate(generate("3 + 4 = ", policy_override=asked), metadata=ACME))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_conversation_s_earlier_turns_reach_the_worker(router: Stub) -> None:
    messages = [turn("be brief", types_pb2.ROLE_SYSTEM), turn("hello")]
    request = router_pb2.GenerateRequest(query=types_pb2.Query(messages=messages))
    assert text_of(await router.Generate(request, metadata=ACME)).endswith("hello")
