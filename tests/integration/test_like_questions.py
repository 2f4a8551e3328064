"""The semantic cache in a running gateway: what is served, under which promise, and what never is."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from headgate.v1 import admin_pb2, router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import Stack, config, generate, key, metrics, query, stack, stub, text_of

ACME, BETA = key("acme"), key("beta")
LIKE = types_pb2.CACHE_STATUS_SEMANTIC_HIT
WRONG_HITS, CONFIDENCE = 0.2, 0.8
Stub = router_pb2_grpc.RouterServiceStub


def settings() -> dict[str, Any]:
    """Answers are the same if the same model gave them: the scripted workers echo the question."""
    made = config()
    semantic = {
        "enabled": True, "wrong_hits": WRONG_HITS, "confidence": CONFIDENCE, "audit": 0.01,
        "answer": "(small|large)",
    }  # fmt: skip
    made["cache"]["semantic"] = semantic
    made["tenants"]["acme"]["semantic_cache"] = True
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory, settings()) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


async def ask(router: Stub, text: str, metadata: Any = ACME, **fields: Any) -> router_pb2.GenerateResponse:
    return await router.Generate(generate(text, model="large", **fields), metadata=metadata, timeout=30)


def asked(place: str, salt: str) -> str:
    return f"What is the weather like in {place} in {salt} today?"


def otherwise(place: str, salt: str) -> str:
    return f"Please tell me what is the weather like in {place} in {salt} today?"


async def taught(router: Stub) -> tuple[str, router_pb2.GenerateResponse]:
    """Asks of Geneva in two ways until one is answered by the other; a word of these two, and the answer.

    Audits must allow it by then, and the question must have come back over the stream.
    """
    pause_s = 0.03
    async with asyncio.timeout(60):
        while True:
            salt = f"zone{uuid.uuid4().hex[:6]}"
            await ask(router, asked("geneva", salt))
            await asyncio.sleep(pause_s)
            answer = await ask(router, otherwise("geneva", salt))
            if answer.decision.cache_status == LIKE:
                return salt, answer
            pause_s = min(1.0, 1.1 * pause_s)


async def test_a_paraphrase_hits_once_audits_allow_it_and_says_why(router: Stub, running: Stack) -> None:
    _, answer = await taught(router)
    decision = answer.decision
    assert decision.cache_status == LIKE
    assert decision.cost_nanousd == 0
    assert not decision.attempts
    assert decision.semantic_hit.similarity >= 0.7
    assert decision.semantic_hit.wrong_hits == WRONG_HITS
    assert decision.semantic_hit.confidence == CONFIDENCE
    assert text_of(answer).startswith("large: What is the weather")
    told = metrics(running.addresses["metrics"])
    assert told['headgate_semantic_total{result="served"}'] >= 1
    assert told['headgate_semantic_total{result="same"}'] >= 5
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as channel:
        status = await running.admin(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=30)
    [standing] = status.semantic
    assert (standing.tenant, standing.heard, standing.serving) == ("acme", True, 1)
    assert standing.audits >= 5
    assert 0 < standing.wrong_at_most <= standing.wrong_hits == WRONG_HITS
    assert standing.similarity >= 0.7


@pytest.mark.parametrize(
    "near",
    [
        "What is the weather like in oslo in {salt} today?",
        "What is the weather not like in geneva in {salt} today?",
        "What is the weather like in geneva in {salt} tomorrow?",
        "What is the weather like in geneva in {salt} in 3 days?",
    ],
)
async def test_a_near_miss_never_does(router: Stub, near: str) -> None:
    salt, _ = await taught(router)
    assert (await ask(router, near.format(salt=salt + "x"))).decision.cache_status != LIKE
    answer = await ask(router, near.format(salt=salt))
    assert text_of(answer) == f"large: {near.format(salt=salt)}"


async def test_who_did_not_ask_for_it_is_not_answered_so(router: Stub) -> None:
    mine = uuid.uuid4().hex[:6]
    await router.Generate(generate(asked("bern", mine), model="small"), metadata=BETA, timeout=30)
    # What would have come over the stream has come by then.
    salt, _ = await taught(router)
    other = generate(otherwise("bern", mine), model="small")
    assert (await router.Generate(other, metadata=BETA, timeout=30)).decision.cache_status != LIKE
    exact = types_pb2.CacheControl(exact_only=True)
    answer = await ask(router, otherwise("geneva", salt), cache=exact)
    assert answer.decision.cache_status != LIKE


async def test_another_conversation_before_it_is_another_question(router: Stub) -> None:
    salt, _ = await taught(router)
    request = generate(otherwise("geneva", salt), model="large")
    system = types_pb2.Message(role=types_pb2.ROLE_SYSTEM, parts=[types_pb2.Part(text="In French.")])
    request.query.messages.insert(0, system)
    answer = await router.Generate(request, metadata=ACME, timeout=30)
    assert answer.decision.cache_status != LIKE


async def test_its_errors_and_the_certificate_s_are_one_promise(router: Stub) -> None:
    """Whether the answer is a hit or not: the budget is spent by all requests together."""
    worksheet = "12 + 30 = ?"
    mine = (await router.Generate(generate(worksheet), metadata=ACME, timeout=30)).decision.certificate
    loose = types_pb2.PolicyOverride(risk_target=0.05)
    request = generate(worksheet, policy_override=loose)
    theirs = (await router.Generate(request, metadata=BETA, timeout=30)).decision.certificate
    assert mine.semantic_wrong_hits == WRONG_HITS
    assert theirs.semantic_wrong_hits == 0
    if mine.id == theirs.id:
        assert mine.risk_target == pytest.approx(theirs.risk_target + WRONG_HITS)
        assert mine.confidence == pytest.approx(max(0, theirs.confidence + CONFIDENCE - 1))
    assert (mine.window, list(mine.slices)) == (0, [])


async def test_who_is_only_told_a_route_is_promised_what_the_policy_promises(router: Stub) -> None:
    """Nobody answers him from a cache. Where drafts are read there is no certificate for a route at all."""
    draftless = types_pb2.PolicyOverride(hold_back_tokens=0)
    question = query("12 + 30 = ?", policy_override=draftless)
    told = (await router.Route(router_pb2.RouteRequest(query=question), metadata=ACME, timeout=30)).decision
    assert told.HasField("certificate")
    assert told.certificate.semantic_wrong_hits == 0
    assert told.certificate.window > 0


async def test_a_purge_takes_the_question_with_the_answer(router: Stub, running: Stack) -> None:
    salt, _ = await taught(router)
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as channel:
        await running.admin(channel).PurgeCache(admin_pb2.PurgeCacheRequest(tenant="acme"), timeout=30)
    answer = await ask(router, otherwise("geneva", salt))
    assert answer.decision.cache_status != LIKE


@pytest.mark.parametrize("whose", ["", "beta"])
async def test_a_purge_deletes_the_stream_of_who_has_it_off_and_keeps_the_audits_of_who_has_it_on(
    router: Stub, running: Stack, whose: str
) -> None:
    await taught(router)
    client = running.valkey.client
    client.xadd("headgate:semantic:beta", {"of": "an earlier config"})
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as channel:
        await running.admin(channel).PurgeCache(admin_pb2.PurgeCacheRequest(tenant=whose), timeout=30)
    assert set(client.scan_iter("headgate:semantic:*")) == {b"headgate:semantic:acme"}
