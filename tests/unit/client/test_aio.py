from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headgate.client import (
    Answer,
    AsyncClient,
    DeadlineExceeded,
    Decision,
    Delta,
    InvalidRequest,
    ModelSwitched,
    StreamCut,
    Unavailable,
)
from headgate.v1 import router_pb2


@pytest.fixture
async def client(gateway) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(gateway.address, key="web.s3cret", timeout_s=20) as opened:
        yield opened


async def test_the_same_answers_as_for_threads(client, gateway):
    answer = await client.generate("40 + 2 = ?", model="small")
    assert (answer.text, answer.decision.model) == ("42", "small")
    assert (await client.route("hi")).model == "small"
    assert gateway.metadata["authorization"] == "Bearer web.s3cret"
    assert 15 < gateway.remaining_s < 21  # gRPC rounds the timeout up


async def test_a_stream_is_decision_text_answer(client):
    async with client.stream("switch") as stream:
        events = [event async for event in stream]
    assert [type(event) for event in events] == [Decision, ModelSwitched, Delta, Delta, Answer]
    assert stream.answer.text == "42"


async def test_a_watched_stream_tells_log_probabilities_and_the_draft(client, gateway):
    async with client.stream("switch", watch=True) as stream:
        _, switched, first, *_ = [event async for event in stream]
    assert gateway.seen[-1].watch
    assert switched == ModelSwitched("small", "large", True, "It is doubtful.", (Delta("5", (-2.0, -1.0)),))
    assert first == Delta("4", (-0.5,))


async def test_text_arrives_while_the_server_still_works(client, gateway):
    async with client.stream("hold") as stream:
        texts = stream.texts()
        assert await anext(texts) == "4"
        gateway.go_on.set()
        assert [text async for text in texts] == ["2"]


async def test_leaving_a_stream_cancels_it_upstream(client, gateway):
    async with client.stream("hold") as stream:
        await anext(aiter(stream))
    assert await asyncio.to_thread(gateway.cancelled.wait, 10)


async def test_errors_are_the_same_types(client):
    with pytest.raises(InvalidRequest) as caught:
        await client.generate("INVALID_ARGUMENT")
    assert caught.value.fields[0].field == "query.messages"
    with pytest.raises(DeadlineExceeded):
        await client.generate("hang", timeout_s=0.2)
    for question in ("cut", "UNAVAILABLE"):
        with pytest.raises(StreamCut) as cut:
            [event async for event in client.stream(question)]
        assert cut.value.partial == "4"


async def test_nobody_there_is_unavailable():
    async with AsyncClient("127.0.0.1:1", timeout_s=5) as client:
        with pytest.raises(Unavailable):
            await client.generate("hi")


async def test_many_calls_share_one_connection(client, gateway):
    answers = await asyncio.gather(*(client.generate(f"question {number}") for number in range(40)))
    assert {answer.text for answer in answers} == {"42"}
    assert len(gateway.seen) == 40


async def test_outcomes(client, gateway):
    await client.record_outcome("r-1", "small", 1.0)
    assert gateway.seen[0].source == router_pb2.OUTCOME_SOURCE_USER
