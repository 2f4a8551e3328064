"""Who waits for another one's answer loses nothing by it: neither its own answer, nor much time."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2
from tests.integration.gateway_rig import (
    Stack,
    eventually,
    generate,
    key,
    stack,
    streamed,
    stub,
    text_of,
)

ACME = key("acme")
HIT, MISS = types_pb2.CACHE_STATUS_HIT, types_pb2.CACHE_STATUS_MISS
TTL_S = 3
Stub = router_pb2_grpc.RouterServiceStub


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory) as one:
        yield one


@pytest.fixture
async def router(running: Stack) -> AsyncIterator[Stub]:
    async with running.channel() as channel:
        yield stub(channel)


def script(**told: Any) -> tuple[str, str]:
    nonce = uuid.uuid4().hex
    return json.dumps({"say": ["the ", "answer"], "nonce": nonce, **told}), nonce


async def ask(router: Stub, question: str, seconds: float = 30, **fields: Any) -> router_pb2.GenerateResponse:
    return await router.Generate(generate(question, **fields), metadata=ACME, timeout=seconds)


def calls(running: Stack, nonce: str) -> int:
    lines = running.lines()
    return sum(one["event"] == "begun" and one["request_id"].startswith(nonce) for one in lines)


async def led(running: Stack, router: Stub, seconds: float, **told: Any) -> tuple[Any, str, str]:
    """A request that a worker answers already, its question, and how its worker's call is named."""
    question, nonce = script(**told)
    request = generate(question, model="small", request_id=f"{nonce}-first")
    leading = asyncio.ensure_future(router.Generate(request, metadata=ACME, timeout=seconds))
    await eventually(lambda: calls(running, nonce) == 1, what="the first call")
    return leading, question, nonce


async def test_an_answer_that_takes_more_than_half_the_time_is_everybody_s(
    running: Stack, router: Stub
) -> None:
    """The model takes two of three seconds: who began a call of its own after half of them would be late."""
    leading, question, nonce = await led(running, router, 3.5, gap_s=1.0)
    asking = [
        ask(router, question, 3.0, model="small", request_id=f"{nonce}-{number}") for number in range(5)
    ]
    answers = await asyncio.gather(leading, *asking)
    assert {text_of(answer) for answer in answers} == {"the answer"}
    assert [answer.decision.cache_status for answer in answers[1:]] == [HIT] * 5
    for answer in answers[1:]:
        assert answer.decision.overhead.ToMicroseconds() < 1e6, "waiting is not the gateway's work"
        assert {one.code for one in answer.decision.attempts} <= {grpc.StatusCode.CANCELLED.value[0]}


async def test_whose_own_call_is_quicker_does_not_wait_for_who_was_first(
    running: Stack, router: Stub
) -> None:
    leading, question, nonce = await led(running, router, 30, gap_s=20.0, slow="-first")
    answer = await ask(router, question, 3.0, model="small", request_id=f"{nonce}-quick")
    assert text_of(answer) == "the answer"
    leading.cancel()


async def test_a_stream_that_nobody_reads_holds_nobody_up(running: Stack) -> None:
    question, nonce = script(say=["x" * 1000], times=300)
    options = [("grpc.http2.bdp_probe", 0)]
    address = running.addresses["listen"]
    async with grpc.aio.insecure_channel(address, options) as stalled, running.channel() as channel:
        request = streamed(question, model="small", request_id=f"{nonce}-first")
        unread = stub(stalled).StreamGenerate(request, metadata=ACME, timeout=60)
        await unread.read()
        asking = [
            ask(stub(channel), question, 40, model="small", request_id=f"{nonce}-{number}")
            for number in range(5)
        ]
        async with asyncio.timeout(15):
            answers = await asyncio.gather(*asking)
        assert {len(text_of(answer)) for answer in answers} == {300_000}
        assert calls(running, nonce) == 2, "the stalled one, and one for all others"
        unread.cancel()


async def test_a_model_that_was_never_reached_does_not_keep_the_others_answers_out(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with stack(tmp_path_factory) as one:
        one.workers["large"].stop()
        second = one.start_gateway("second")
        try:
            async with grpc.aio.insecure_channel(second.addresses()["listen"]) as channel:
                question, _ = script()
                first = await ask(stub(channel), question, model="small")
                again = await ask(stub(channel), question, model="small")
        finally:
            second.stop()
    assert types_pb2.DEGRADATION_WORKER in first.decision.degraded
    assert again.decision.cache_status == HIT


async def test_a_fallback_s_answer_is_not_kept(running: Stack, router: Stub) -> None:
    chosen = (await ask(router, script()[0])).decision.model
    question, _ = script(fail="UNAVAILABLE", only=chosen)
    for _ in range(2):
        answer = await ask(router, question)
        assert answer.decision.model != chosen
        assert answer.decision.cache_status == MISS
        assert types_pb2.DEGRADATION_WORKER in answer.decision.degraded
