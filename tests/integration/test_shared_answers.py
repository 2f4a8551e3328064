"""The answer cache among several gateway processes: single-flight, memory, purges, renewal, recalibration."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from headgate.gateway.flights import LEASE_S
from headgate.gateway.purges import SKEW_S
from headgate.v1 import admin_pb2, admin_pb2_grpc, router_pb2, types_pb2
from tests.integration import many_gateways
from tests.integration.gateway_rig import (
    Process,
    Stack,
    eventually,
    generate,
    key,
    refusal,
    stack,
    streamed,
    text_of,
)
from tests.integration.many_gateways import PROCESSES, Gateways, Stub, one_more, purge, reached

ACME, BETA = key("acme"), key("beta")
HIT, MISS = types_pb2.CACHE_STATUS_HIT, types_pb2.CACHE_STATUS_MISS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, list[Process]]]:
    with stack(tmp_path_factory) as one, many_gateways.running(one) as processes:
        yield one, processes


@pytest.fixture
async def fleet(running: tuple[Stack, list[Process]]) -> AsyncIterator[Gateways]:
    async with reached(*running) as gateways:
        yield gateways


@pytest.fixture(autouse=True)
async def settled(fleet: Gateways) -> None:
    """An order to purge takes what begins within two seconds after it as well."""
    for metadata in (ACME, BETA):
        async with asyncio.timeout(30):
            question = script()[0]
            while not await is_hit(fleet.stubs[0], question, metadata=metadata):
                await asyncio.sleep(0.05)


def script(**told: Any) -> tuple[str, str]:
    """A question that scripts its answer, and what is unique in it."""
    nonce = uuid.uuid4().hex
    return json.dumps({"say": ["the ", "answer"], "nonce": nonce, **told}), nonce


def named(question: str) -> str:
    """A request's name, by which the workers' journal knows what it asked."""
    return f"{json.loads(question)['nonce']}-{uuid.uuid4().hex}"


async def ask(
    router: Stub, question: str, metadata: Any = ACME, **fields: Any
) -> router_pb2.GenerateResponse:
    request = generate(question, request_id=named(question), **fields)
    return await router.Generate(request, metadata=metadata, timeout=30)


async def is_hit(router: Stub, question: str, **fields: Any) -> bool:
    return (await ask(router, question, **fields)).decision.cache_status == HIT


async def all_have(fleet: Gateways, question: str) -> None:
    """Waits until every process gives the answer from its memory."""
    for router in fleet.stubs:
        async with asyncio.timeout(30):
            while not (await is_hit(router, question) and await is_hit(router, question)):
                await asyncio.sleep(0.02)


# Single-flight.


async def test_a_stampede_on_four_processes_is_one_call(fleet: Gateways) -> None:
    question, nonce = script(gap_s=0.4)
    asking = [ask(fleet.stubs[n % PROCESSES], question) for n in range(500)]
    answers = await asyncio.gather(*asking)
    assert fleet.calls(nonce) == 1
    assert Counter(answer.decision.cache_status for answer in answers) == {HIT: 499, MISS: 1}
    assert {text_of(answer) for answer in answers} == {"the answer"}
    assert sum(answer.decision.cost_nanousd > 0 for answer in answers) == 1


async def test_streams_that_wait_for_another_one_s_answer_replay_it(fleet: Gateways) -> None:
    question, nonce = script(gap_s=0.3)

    async def stream(router: Stub) -> list[router_pb2.StreamGenerateResponse]:
        request = streamed(question, request_id=named(question))
        return [event async for event in router.StreamGenerate(request, metadata=ACME, timeout=30)]

    events = await asyncio.gather(*(stream(fleet.stubs[n % PROCESSES]) for n in range(40)))
    assert fleet.calls(nonce) == 1
    for one in events:
        assert one[-1].WhichOneof("event") == "finished"
        assert "".join(event.delta.text for event in one) == "the answer"


async def test_a_leader_that_is_killed_is_replaced_once(fleet: Gateways) -> None:
    question, nonce = script(gap_s=1.0)
    async with one_more(fleet.stack, "doomed") as (doomed, router):
        leading = asyncio.create_task(ask(router, question))
        await eventually(lambda: fleet.calls(nonce) == 1, what="the leader's call")
        waiting = [asyncio.create_task(ask(fleet.stubs[n % PROCESSES], question)) for n in range(200)]
        await fleet.inside(200)
        doomed.popen.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        answers = await asyncio.gather(*waiting)
        took = time.monotonic() - killed
        await asyncio.gather(leading, return_exceptions=True)
    assert fleet.calls(nonce) == 2
    assert {text_of(answer) for answer in answers} == {"the answer"}
    assert took < LEASE_S + 2.0 + 5.0, "the lease, the second call, and what 200 answers take"


async def test_a_leader_whose_caller_leaves_is_replaced_by_one(fleet: Gateways) -> None:
    question, nonce = script(gap_s=1.0)
    leading = asyncio.create_task(ask(fleet.stubs[0], question))
    await eventually(lambda: fleet.calls(nonce) == 1, what="the leader's call")
    waiting = [asyncio.create_task(ask(fleet.stubs[n % PROCESSES], question)) for n in range(40)]
    await fleet.inside(41)
    leading.cancel()
    answers = await asyncio.gather(*waiting)
    assert fleet.calls(nonce) == 2
    assert {text_of(answer) for answer in answers} == {"the answer"}


async def test_followers_that_leave_never_end_the_leader(fleet: Gateways) -> None:
    question, nonce = script(gap_s=1.0)
    leading = asyncio.create_task(ask(fleet.stubs[0], question))
    await eventually(lambda: fleet.calls(nonce) == 1, what="the leader's call")
    waiting = [asyncio.create_task(ask(fleet.stubs[n % PROCESSES], question)) for n in range(40)]
    await fleet.inside(41)
    for one in waiting[::2]:
        one.cancel()
    answers = await asyncio.gather(leading, *waiting[1::2])
    assert fleet.calls(nonce) == 1
    assert {text_of(answer) for answer in answers} == {"the answer"}


@pytest.mark.parametrize("end", [{"finish": "LENGTH"}, {"finish": "DECLINED"}, {"fail": "INTERNAL"}])
async def test_an_answer_that_cannot_be_kept_is_nobody_else_s(fleet: Gateways, end: dict[str, str]) -> None:
    """Neither is a failure: each of them hears of his own."""
    question, nonce = script(gap_s=0.2, **end)
    calls = [ask(fleet.stubs[n % PROCESSES], question) for n in range(12)]
    await asyncio.gather(*calls, return_exceptions=True)
    assert fleet.calls(nonce) >= 12
    assert not any(nonce.encode() in value for value in kept(fleet.stack))


def kept(of: Stack) -> list[bytes]:
    client = of.valkey.client
    return [client.get(one) or b"" for one in client.scan_iter("headgate:answer:*")]


async def test_no_flight_outlives_its_request(fleet: Gateways) -> None:
    await asyncio.gather(*(ask(router, script()[0]) for router in fleet.stubs))
    await eventually(
        lambda: not list(fleet.stack.valkey.client.scan_iter("headgate:flight:*")), what="all to have landed"
    )


# Purges.


@pytest.mark.parametrize("scope", [{"tenant": "acme"}, {"tag": "prices"}, {}])
async def test_a_purge_reaches_every_process_and_leaves_nothing(
    fleet: Gateways, scope: dict[str, str]
) -> None:
    question, nonce = script()
    control = types_pb2.CacheControl(tags=["prices", "eu"])
    await ask(fleet.stubs[0], question, cache=control)
    await all_have(fleet, question)
    assert await purge(fleet.admin(1), **scope) >= 1
    assert not any(nonce.encode() in value for value in kept(fleet.stack))
    # What begins this soon after an order falls as well, so a hit could only be the old answer.
    async with asyncio.timeout(SKEW_S):
        for router in fleet.stubs:
            while await is_hit(router, question, cache=control):
                await asyncio.sleep(0.01)
    assert fleet.calls(nonce) >= 1 + PROCESSES


async def test_a_purge_spares_what_it_does_not_name(fleet: Gateways) -> None:
    question, _ = script()
    await ask(fleet.stubs[0], question, cache=types_pb2.CacheControl(tags=["weather"]))
    await all_have(fleet, question)
    other = (
        {"model": "small"}
        if (await ask(fleet.stubs[0], question)).decision.model == "large"
        else {"model": "large"}
    )
    for scope in ({"tenant": "beta"}, {"tag": "prices"}, other, {"tenant": "acme", "tag": "eu"}):
        await purge(fleet.admin(0), **scope)
    for router in fleet.stubs:
        assert await is_hit(router, question)


async def test_who_asks_with_a_tag_gets_only_what_a_purge_of_it_takes(fleet: Gateways) -> None:
    question, nonce = script()

    async def asked(*tags: str) -> types_pb2.CacheStatus.ValueType:
        answer = await ask(fleet.stubs[0], question, cache=types_pb2.CacheControl(tags=tags))
        return answer.decision.cache_status

    assert [await asked(), await asked("prices"), await asked()] == [MISS, MISS, HIT]
    assert [await asked("prices"), await asked("eu"), await asked("eu", "prices")] == [HIT, MISS, HIT]
    assert fleet.calls(nonce) == 3
    assert await purge(fleet.admin(0), tag="prices") == 1
    assert [await asked(), await asked("eu")] == [MISS, MISS]


async def test_a_purge_that_redis_does_not_take_is_refused(fleet: Gateways) -> None:
    valkey = fleet.stack.valkey
    valkey.popen.send_signal(signal.SIGSTOP)
    try:
        async with grpc.aio.insecure_channel(fleet.admin(0)) as channel:
            admin = admin_pb2_grpc.AdminServiceStub(channel)
            error = await refusal(admin.PurgeCache(admin_pb2.PurgeCacheRequest(tenant="acme"), timeout=30))
    finally:
        valkey.popen.send_signal(signal.SIGCONT)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "give it again" in (error.details() or "")


@pytest.mark.parametrize(
    ("scope", "named"),
    [
        ({"tenant": "*"}, "tenant: "),
        ({"tag": "no spaces"}, "tag: "),
        ({"tenant": "acem"}, "no tenant 'acem', only acme, beta, old"),
        ({"tenant": "acme", "model": "lagre"}, "no model 'lagre', only small, large"),
    ],
)
async def test_a_purge_with_a_slip_of_the_pen_is_refused_and_does_nothing(
    fleet: Gateways, scope: dict[str, str], named: str
) -> None:
    """It would read as if nothing had been there."""
    orders = fleet.stack.valkey.client.hgetall("headgate:purges")
    async with grpc.aio.insecure_channel(fleet.admin(0)) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        error = await refusal(admin.PurgeCache(admin_pb2.PurgeCacheRequest(**scope), timeout=30))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert named in (error.details() or "")
    assert fleet.stack.valkey.client.hgetall("headgate:purges") == orders


async def test_a_tenant_that_was_removed_can_still_be_purged_and_leaves_no_stream(fleet: Gateways) -> None:
    """Its semantic cache was on once; that of nobody here is."""
    client = fleet.stack.valkey.client
    for tenant in ("removed", "beta"):
        client.xadd(f"headgate:semantic:{tenant}", {"of": "an earlier config"})
    client.set("headgate:answer:removed:00", "of no use to anybody")
    assert await purge(fleet.admin(0), tenant="removed", unknown=True) == 1
    assert set(client.scan_iter("headgate:semantic:*")) == {b"headgate:semantic:beta"}
    await purge(fleet.admin(0), tenant="nobody", unknown=True)
    assert set(client.scan_iter("headgate:semantic:*")) == {b"headgate:semantic:beta"}
    await purge(fleet.admin(0))
    assert not set(client.scan_iter("headgate:semantic:*"))


# What a query says of the cache.


async def test_a_query_that_goes_past_the_cache_neither_takes_nor_leaves_anything(fleet: Gateways) -> None:
    question, nonce = script()
    past = types_pb2.CacheControl(bypass=True)
    for _ in range(2):
        answer = await ask(fleet.stubs[0], question, cache=past)
        assert answer.decision.cache_status == types_pb2.CACHE_STATUS_BYPASS
    assert fleet.calls(nonce) == 2
    assert not await is_hit(fleet.stubs[0], question)


# Tenants.


async def test_no_tenant_ever_gets_another_one_s_answer(fleet: Gateways, seed: int) -> None:
    """Both ask the same, pinned to the same model; a worker was called for each of them."""
    draw = random.Random(seed)
    tenants = {"acme": ACME, "beta": BETA}
    questions = [script()[0] for _ in range(20)]
    paid: Counter[tuple[str, str]] = Counter()
    degraded = 0
    limit = asyncio.Semaphore(32)

    async def one() -> None:
        tenant, question = draw.choice(list(tenants)), draw.choice(questions)
        async with limit:
            router = draw.choice(fleet.stubs)
            answer = await ask(router, question, metadata=tenants[tenant], model="small")
        nonlocal degraded
        paid[tenant, question] += answer.decision.cost_nanousd > 0
        degraded += types_pb2.DEGRADATION_CACHE in answer.decision.degraded

    await asyncio.gather(*(one() for _ in range(1000)))
    assert set(paid) == {(tenant, question) for tenant in tenants for question in questions}
    assert all(paid.values()), "each tenant paid for its own answer to each question"
    assert sum(paid.values()) - len(paid) <= degraded, "nobody pays twice, unless Redis did not say in time"
