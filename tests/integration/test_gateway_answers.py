"""A query's way through a gateway process: methods, streams, failures, cancels, deadlines, cache."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator

import grpc
import grpc.aio
import pytest

from headgate.adapters import status_map
from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    Stack,
    details,
    eventually,
    fields,
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
Metadata = tuple[tuple[str, str], ...]


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


async def test_a_conversation_that_no_context_holds_names_its_field(router: Stub) -> None:
    """The scripted models have a context of 100,000 tokens."""
    parts = [types_pb2.Part(text="word " * 50_000) for _ in range(3)]
    long = types_pb2.Query(messages=[types_pb2.Message(role=types_pb2.ROLE_USER, parts=parts)])
    error = await refusal(router.Generate(router_pb2.GenerateRequest(query=long), metadata=ACME))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (status_map.reason_of(details(error)), fields(error)) == ("CONTEXT_TOO_LONG", ["query.messages"])


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
    await _well_again(router, chosen)
    events = [
        event async for event in router.StreamGenerate(streamed(script, request_id=name), metadata=ACME)
    ]
    kinds = [event.WhichOneof("event") for event in events]
    decision = events[-1].finished.decision
    assert kinds == ["decision", "model_switched", "finished"]
    assert not events[1].model_switched.escalation
    assert [one.model for one in decision.attempts] == [chosen, chosen, decision.model]
    assert (events[1].model_switched.from_model, events[1].model_switched.to_model) == (
        chosen, decision.model,
    )  # fmt: skip
    assert decision.model != chosen
    assert types_pb2.DEGRADATION_WORKER in decision.degraded
    assert not decision.HasField("certificate")
    # Once the last chunk is there the gateway lets go of the call; the worker may see that as a cancellation.
    seen = await eventually(lambda: _when_over(running.events(name)), what="the last call to end")
    assert seen.count("begun") == 3


@pytest.mark.parametrize(
    "fault",
    [
        {"fail": "FAILED_PRECONDITION"},
        {"fail": "NOT_FOUND"},
        {"fail": "UNAVAILABLE", "say": [""], "gap_s": 2.1},
    ],
    ids=["misconfigured", "not recorded", "silent"],
)
async def test_what_would_fail_again_is_left_for_another_model_at_once(
    router: Stub, fault: dict[str, object]
) -> None:
    script = {"say": [], "nonce": fresh(), **fault, "only": "large"}
    chosen = (await router.Route(router_pb2.RouteRequest(query=query(script)), metadata=ACME)).decision.model
    await _well_again(router, chosen)
    answer = await router.Generate(generate({**script, "only": chosen}), metadata=ACME)
    assert [one.model for one in answer.decision.attempts] == [chosen, answer.decision.model]
    assert answer.decision.model != chosen


async def _well_again(router: Stub, model: str) -> None:
    """Waits until the model is no longer left alone for what it did in other tests."""
    async with asyncio.timeout(60):
        while True:
            try:
                await router.Generate(generate(fresh(), model=model), metadata=ACME)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  (any other ends the wait)
                await asyncio.sleep(0.05)
            else:
                return


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
    call.cancel()
    await eventually(lambda: "cancelled" in running.events(name), what="the worker to be cancelled")
    await asyncio.wait({reading})


async def _drained(call: object) -> None:
    if isinstance(call, AsyncIterable):
        [event async for event in call]
    else:
        await call  # type: ignore[misc]


async def test_a_deadline_reaches_the_worker_smaller_and_ends_the_call(running: Stack, router: Stub) -> None:
    name = fresh()
    script = {"say": ["a ", "b "], "gap_s": 300, "nonce": name}
    async with asyncio.timeout(60):
        error = await refusal(router.Generate(generate(script, request_id=name), metadata=ACME, timeout=5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: "cancelled" in running.events(name), what="the worker to be cancelled")
    begun = running.journal(name)[0]
    assert 0 < begun["left_s"] < 5.1  # gRPC rounds timeouts up when it sends them.


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


async def _looked_up(
    router: Stub, request: Callable[[], router_pb2.GenerateRequest], tenant: Metadata = ACME
) -> router_pb2.GenerateResponse:
    """The answer to a request that the cache could be asked about: a stall leaves it alone for a second."""
    async with asyncio.timeout(60):
        while True:
            answer = await router.Generate(request(), metadata=tenant)
            if answer.decision.cache_status != types_pb2.CACHE_STATUS_UNAVAILABLE:
                return answer
            await asyncio.sleep(0.05)


async def _hit(router: Stub, request: router_pb2.GenerateRequest) -> router_pb2.GenerateResponse:
    """The answer from the cache; a request that never gets one runs into the time limit."""
    async with asyncio.timeout(60):
        while True:
            answer = await router.Generate(request, metadata=ACME)
            if answer.decision.cache_status == types_pb2.CACHE_STATUS_HIT:
                return answer
            await asyncio.sleep(0.05)


async def test_a_repeated_query_is_answered_from_the_cache_for_nothing(running: Stack, router: Stub) -> None:
    first = await _looked_up(router, lambda: generate(fresh()))
    assert first.decision.cache_status == types_pb2.CACHE_STATUS_MISS
    said = text_of(first).rpartition(" ")[2]
    decision = (await _hit(router, generate(said))).decision
    assert (decision.cost_nanousd, len(decision.attempts)) == (0, 0)
    tried: list[str] = []

    def again() -> router_pb2.GenerateRequest:
        tried.append(fresh())
        return generate(said, request_id=tried[-1])

    second = await _looked_up(router, again)
    assert second.decision.cache_status == types_pb2.CACHE_STATUS_HIT
    assert (second.message, second.usage) == (first.message, first.usage)
    assert second.decision.request_id == tried[-1]
    assert running.events(tried[-1]) == []


async def test_streams_are_replayed_from_the_cache(router: Stub) -> None:
    said = fresh()
    await _hit(router, generate(said))
    async with asyncio.timeout(60):
        while True:
            events = [event async for event in router.StreamGenerate(streamed(said), metadata=ACME)]
            if events[0].decision.cache_status != types_pb2.CACHE_STATUS_UNAVAILABLE:
                break
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
    await _hit(router, request)
    other = await _looked_up(router, lambda: request, BETA)
    assert other.decision.cache_status == types_pb2.CACHE_STATUS_MISS


async def _model_in(router: Stub, session: str) -> str:
    """The model of a query that goes to small outside of sessions."""
    await _well_again(router, "small")
    asked = router_pb2.RouteRequest(query=query("1 + 1 = ?", session=session))
    return (await router.Route(asked, metadata=ACME)).decision.model


async def _comes_to(router: Stub, session: str, model: str, request: router_pb2.GenerateRequest) -> None:
    """Asks until the session has that model: writing it down may fail in a stall of Redis."""
    async with asyncio.timeout(60):
        while await _model_in(router, session) != model:
            await router.Generate(request, metadata=ACME)


async def test_a_session_keeps_its_model(router: Stub) -> None:
    session = fresh()
    assert await _model_in(router, "") == await _model_in(router, session) == "small"
    await _comes_to(router, session, "large", generate(fresh(), session=session, model="large"))


async def test_an_answer_from_the_cache_keeps_the_session_s_model_too(router: Stub) -> None:
    said = fresh()
    await _hit(router, generate(said, model="large"))
    kept = []
    for session in (fresh() for _ in range(10)):
        answer = await router.Generate(generate(said, model="large", session=session), metadata=ACME)
        if answer.decision.cache_status == types_pb2.CACHE_STATUS_HIT:
            kept.append(await _model_in(router, session))
    assert "large" in kept, kept


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
