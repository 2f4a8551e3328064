"""What every backend owes the worker, run against each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.metadata import entry_points
from pathlib import Path
from time import monotonic

import pytest

from headgate.worker.backends.base import (
    Chunk,
    DeadlinePassedError,
    FinishReason,
    GenerationRequest,
    RequestRejectedError,
    Role,
    Sampling,
    Turn,
)
from headgate.worker.backends.registry import GROUP
from tests.contract.backend_rigs import QUESTIONS, RIGS, VARIANTS, Rig

GREEDY = Sampling()


@pytest.fixture(params=[*RIGS, *VARIANTS])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with (RIGS | VARIANTS)[request.param](tmp_path) as opened:
        yield opened


def ask(
    question: str = QUESTIONS[0],
    sampling: Sampling = GREEDY,
    *,
    within_s: float = 10,
    top: int | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        conversation=(Turn(Role.SYSTEM, "Answer."), Turn(Role.USER, question)),
        deadline=monotonic() + within_s,
        sampling=sampling,
        logprobs=top is not None,
        top_logprobs=top or 0,
    )


async def answer(rig: Rig, request: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in rig.backend.generate(request)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_every_registered_backend_is_held_to_this() -> None:
    ours = {entry.name for entry in entry_points(group=GROUP) if entry.value.startswith("headgate.")}
    assert ours == set(RIGS)


async def test_streams_in_pieces_and_ends_with_exactly_one_final_chunk(rig: Rig) -> None:
    chunks = await answer(rig, ask())
    assert len(chunks) > 2
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 0
    assert chunks[-1].usage.completion_tokens >= 20


async def test_temperature_0_is_deterministic(rig: Rig) -> None:
    first, second = text(await answer(rig, ask())), text(await answer(rig, ask()))
    assert first == second != ""


async def test_a_stop_string_ends_the_answer_wherever_chunks_begin(rig: Rig) -> None:
    whole = text(await answer(rig, ask()))
    for start in range(2, 8):
        stop = whole[start : start + 4]
        chunks = await answer(rig, ask(sampling=Sampling(stop=("never said", stop))))
        assert text(chunks) == whole[: whole.find(stop)]
        assert chunks[-1].finish_reason is FinishReason.STOP


async def test_stop_strings_that_are_not_met_change_nothing(rig: Rig) -> None:
    whole = text(await answer(rig, ask()))
    assert text(await answer(rig, ask(sampling=Sampling(stop=(f"{whole}!", "?~?"))))) == whole


async def test_max_tokens_ends_with_length(rig: Rig) -> None:
    whole = text(await answer(rig, ask()))
    chunks = await answer(rig, ask(sampling=Sampling(max_tokens=3)))
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert 0 < len(text(chunks)) < len(whole)
    assert whole.startswith(text(chunks))


async def test_log_probabilities_belong_to_the_tokens(rig: Rig) -> None:
    assert rig.backend.describe().logprobs
    chunks = await answer(rig, ask(top=3))
    tokens = [token for chunk in chunks for token in chunk.tokens]
    assert chunks[-1].usage is not None
    assert len(tokens) == chunks[-1].usage.completion_tokens
    for token in tokens:
        told = [alternative.logprob for alternative in token.alternatives]
        assert token.logprob <= 0
        assert len(told) == 3
        assert told == sorted(told, reverse=True)
        assert told[0] == token.logprob


async def test_log_probabilities_come_only_when_asked_for(rig: Rig) -> None:
    assert not any(chunk.tokens for chunk in await answer(rig, ask()))
    bare = await answer(rig, ask(top=0))
    assert any(chunk.tokens for chunk in bare)
    assert not any(token.alternatives for chunk in bare for token in chunk.tokens)


@pytest.mark.parametrize("conversation", [(), (Turn(Role.SYSTEM, "Answer."),), (Turn(Role.USER, " \n"),)])
async def test_a_conversation_without_a_question_is_rejected(
    rig: Rig, conversation: tuple[Turn, ...]
) -> None:
    request = GenerationRequest(conversation, monotonic() + 10)
    with pytest.raises(RequestRejectedError) as rejected:
        await answer(rig, request)
    assert rejected.value.field == "messages"


async def test_a_conversation_that_does_not_fit_is_rejected_without_repeating_it(rig: Rig) -> None:
    with pytest.raises(RequestRejectedError) as rejected:
        await answer(rig, ask(rig.too_long))
    assert rig.too_long not in str(rejected.value)


async def test_a_deadline_that_has_passed_is_an_error(rig: Rig) -> None:
    with pytest.raises(DeadlinePassedError):
        await answer(rig, ask(within_s=-1))


async def test_closing_the_generator_stops_the_work(rig: Rig) -> None:
    rig.pause()
    async with aclosing(rig.backend.generate(ask())) as chunks:
        await anext(chunks)
    assert await rig.stopped()


async def test_cancelling_the_task_stops_the_work(rig: Rig) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async for _ in rig.backend.generate(ask()):
            begun.set()

    rig.pause()
    task = asyncio.create_task(consume())
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rig.stopped()


async def test_concurrent_requests_are_independent(rig: Rig) -> None:
    alone = {question: text(await answer(rig, ask(question))) for question in QUESTIONS}
    assert len(set(alone.values())) == len(QUESTIONS)
    together = await asyncio.gather(*(answer(rig, ask(question)) for question in QUESTIONS * 3))
    assert [text(chunks) for chunks in together] == [alone[question] for question in QUESTIONS * 3]


async def test_the_description_does_not_change(rig: Rig) -> None:
    before = rig.backend.describe()
    await answer(rig, ask())
    assert rig.backend.describe() == before
    assert before.version
    assert before.context_tokens >= 0


async def test_closing_twice_is_harmless(rig: Rig) -> None:
    await rig.backend.close()
    await rig.backend.close()
