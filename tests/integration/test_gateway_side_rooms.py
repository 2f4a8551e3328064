"""Cache and ledger may fail, freeze and come back; answers go on, and say what was missing."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from statistics import median

import grpc
import pytest

from headgate.v1 import admin_pb2, router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    Stack,
    eventually,
    generate,
    key,
    metrics,
    refusal,
    stack,
    stub,
    without_memory,
)

ACME = key("acme")
Stub = router_pb2_grpc.RouterServiceStub
OUTCOME = router_pb2.RecordOutcomeRequest(
    request_id="r", model="small", quality=1, source=router_pb2.OUTCOME_SOURCE_USER
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory, without_memory()) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


async def degraded(running: Stack) -> set[int]:
    async with grpc.aio.insecure_channel(running.addresses["admin"]) as channel:
        return set((await running.admin(channel).GetStatus(admin_pb2.GetStatusRequest())).degraded)


def breaker_open(running: Stack) -> float:
    return metrics(running.addresses["metrics"])["headgate_redis_breaker_open"]


async def kept(router: Stub, request: router_pb2.GenerateRequest) -> None:
    """Waits until the request is answered from the cache."""
    async with asyncio.timeout(60):
        while True:
            answer = await router.Generate(request, metadata=ACME)
            if answer.decision.cache_status == types_pb2.CACHE_STATUS_HIT:
                return
            await asyncio.sleep(0.05)


async def settled(router: Stub) -> None:
    """Waits until the cache works again."""
    await kept(router, generate(f"recovery {uuid.uuid4()}"))


async def test_a_dead_redis_costs_nobody_an_answer(running: Stack, router: Stub) -> None:
    await settled(router)
    running.valkey.stop()
    try:
        answers = [await router.Generate(generate(f"dead {i}"), metadata=ACME) for i in range(30)]
        last = answers[-1].decision
        assert last.cache_status == types_pb2.CACHE_STATUS_UNAVAILABLE
        assert types_pb2.DEGRADATION_CACHE in last.degraded
        assert types_pb2.DEGRADATION_CACHE in await degraded(running)
        error = await refusal(router.RecordOutcome(OUTCOME, metadata=ACME))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert breaker_open(running) == 1
        turn = generate("dead", session="s", sampling=types_pb2.Sampling(temperature=0.7))
        assert types_pb2.DEGRADATION_CACHE in (await router.Generate(turn, metadata=ACME)).decision.degraded
    finally:
        running.valkey.start()
    await settled(router)
    await router.RecordOutcome(OUTCOME, metadata=ACME)
    assert breaker_open(running) == 0


async def test_the_status_of_an_idle_process_says_what_a_request_would_miss_now(
    running: Stack, router: Stub
) -> None:
    side_rooms = {types_pb2.DEGRADATION_CACHE, types_pb2.DEGRADATION_LEDGER}
    await settled(router)
    running.valkey.stop()
    try:
        assert side_rooms <= await degraded(running)
    finally:
        running.valkey.start()
    async with asyncio.timeout(60):
        while side_rooms & await degraded(running):
            await asyncio.sleep(0.05)


async def test_a_frozen_redis_slows_nobody_much(running: Stack, router: Stub) -> None:
    """The library's own timeouts would hold every request for most of a minute."""
    await settled(router)
    running.valkey.popen.send_signal(signal.SIGSTOP)
    try:
        answers = [await router.Generate(generate(f"frozen {i}"), metadata=ACME) for i in range(60)]
    finally:
        running.valkey.popen.send_signal(signal.SIGCONT)
    overheads = [answer.decision.overhead.ToMilliseconds() for answer in answers]
    assert all(a.decision.cache_status == types_pb2.CACHE_STATUS_UNAVAILABLE for a in answers[10:])
    assert median(overheads) < 100, overheads
    await settled(router)


async def test_records_that_waited_are_written_when_redis_is_back(running: Stack, router: Stub) -> None:
    await settled(router)
    name = uuid.uuid4().hex
    running.valkey.popen.send_signal(signal.SIGSTOP)
    try:
        await router.Generate(generate("kept", request_id=name), metadata=ACME)
        async with asyncio.timeout(60):
            while types_pb2.DEGRADATION_LEDGER not in await degraded(running):
                await asyncio.sleep(0.05)
    finally:
        running.valkey.popen.send_signal(signal.SIGCONT)

    def written() -> bool:
        ids = [fields[b"request_id"] for _, fields in running.valkey.client.xrange("headgate:ledger")]
        return name.encode() in ids

    await eventually(written, what="the record")


async def test_every_key_expires_and_names_its_tenant(running: Stack, router: Stub) -> None:
    await settled(router)
    keys = list(running.valkey.client.scan_iter("headgate:answer:*"))
    assert keys
    for one in keys:
        assert one.startswith(b"headgate:answer:acme:")
        assert 0 < running.valkey.client.pttl(one) <= 600_000 * 1.1


async def test_a_foreign_value_under_a_key_is_not_an_answer(running: Stack, router: Stub) -> None:
    """As after a mixed-up reply: the value does not carry the key's digest."""
    await settled(router)
    others = answers_kept(running)
    request = generate(f"poisoned {uuid.uuid4()}")
    await kept(router, request)
    text = request.query.messages[0].parts[0].text
    read = running.valkey.client.get
    own = next(one for one in answers_kept(running) - others if text.encode() in (read(one) or b""))
    running.valkey.client.set(own, read(next(iter(others))), px=600_000)
    answer = await router.Generate(request, metadata=ACME)
    assert answer.decision.cache_status != types_pb2.CACHE_STATUS_HIT
    assert answer.message.parts[0].text.endswith(text)


def answers_kept(running: Stack) -> set[bytes]:
    return set(running.valkey.client.scan_iter("headgate:answer:*"))
