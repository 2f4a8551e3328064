from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from numpy.typing import NDArray

from headgate.worker.backends.base import (
    BackendSettings,
    Chunk,
    ContextTooLongError,
    DeadlinePassedError,
    FinishReason,
    GenerationRequest,
    NotLoadableError,
    Price,
    Role,
    Sampling,
    Turn,
    Usage,
)
from headgate.worker.backends.builtin.backend import DECLINED, BuiltinBackend
from headgate.worker.backends.builtin.engine import Engine, Frame, Lanes
from headgate.worker.backends.builtin.tokens import END
from headgate.worker.backends.builtin.worksheets import batch

GREEDY = Sampling()
LONG = "Go from 352 to 547 in steps of 5"


@pytest.fixture
async def backend() -> AsyncIterator[BuiltinBackend]:
    opened = BuiltinBackend(BackendSettings(source="small"))
    await opened.load()
    yield opened
    await opened.close()


@pytest.fixture
async def speculating() -> AsyncIterator[BuiltinBackend]:
    opened = BuiltinBackend(BackendSettings(source="large", draft_source="small"))
    await opened.load()
    yield opened
    await opened.close()


def ask(text: str, sampling: Sampling = GREEDY, *, within_s: float = 10, top: int = 0) -> GenerationRequest:
    conversation = (Turn(Role.USER, "earlier"), Turn(Role.ASSISTANT, "yes"), Turn(Role.USER, text))
    return GenerationRequest(
        conversation, monotonic() + within_s, sampling, logprobs=top > 0, top_logprobs=top
    )


async def answer(backend: BuiltinBackend, request: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in backend.generate(request)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_says_what_the_engine_says(backend: BuiltinBackend, seed: int) -> None:
    engine = Engine.load("small")
    for sheet in batch(seed, 40):
        chunks, whole = (
            await answer(backend, ask(f" {sheet.question}\n", top=1)),
            engine.answer(sheet.question),
        )
        assert text(chunks) == whole.text
        assert chunks[-1].usage == Usage(whole.prompt_tokens, whole.completion_tokens)
        assert chunks[-1].finish_reason == FinishReason(whole.finish_reason)
        tokens = [token for chunk in chunks for token in chunk.tokens]
        assert [token.logprob for token in tokens] == pytest.approx(whole.logprobs, abs=1e-5)
        assert (tokens[-1].token_id == END) == (whole.finish_reason == "stop")


@pytest.mark.parametrize("text_", ["Who are you?", "12 + 30 = ? And a poem, please.", "Ω"])
async def test_declines_what_is_no_worksheet_for_nothing(backend: BuiltinBackend, text_: str) -> None:
    assert await answer(backend, ask(text_)) == [Chunk(DECLINED, (), FinishReason.DECLINED, Usage(0, 0))]


async def test_a_seed_repeats_a_draw_and_another_changes_it(backend: BuiltinBackend) -> None:
    drawn = [
        text(await answer(backend, ask(LONG, Sampling(temperature=1.5, seed=seed)))) for seed in (-1, -1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_room_for_an_answer_is_needed(backend: BuiltinBackend) -> None:
    with pytest.raises(ContextTooLongError, match=r"has 320 tokens; fewer than 320 fit"):
        await answer(backend, ask("7" * 319))
    assert (await answer(backend, ask("7" * 318)))[-1].finish_reason is FinishReason.DECLINED


async def test_a_deadline_in_the_middle_ends_the_answer(backend: BuiltinBackend) -> None:
    engine_s = await _time_of_an_answer(backend)
    with pytest.raises(DeadlinePassedError):
        await answer(backend, ask(LONG, within_s=engine_s / 10))


async def _time_of_an_answer(backend: BuiltinBackend) -> float:
    started = monotonic()
    await answer(backend, ask(LONG))
    return monotonic() - started


async def test_the_version_is_a_digest_of_the_weights(tmp_path: Path, backend: BuiltinBackend) -> None:
    large = BuiltinBackend(BackendSettings(source="large", price=Price(3, 4)))
    await large.load()
    assert large.describe().version != backend.describe().version
    assert large.describe().price == Price(3, 4)
    await large.close()


@pytest.mark.parametrize("content", [None, b"", b"no graph"])
async def test_weights_that_cannot_be_used_are_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "some.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NotLoadableError, match="no such weights" if content is None else "broken: rebuild"):
        await BuiltinBackend(BackendSettings(source=str(file))).load()


SAMPLINGS = (
    GREEDY,
    Sampling(max_tokens=5),
    Sampling(stop=("e", "27")),
    Sampling(temperature=1e-6, seed=3),  # So cold that a draw is the likeliest byte.
)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
async def test_with_a_draft_model_the_answers_are_the_target_s_own(
    speculating: BuiltinBackend, sampling: Sampling, seed: int
) -> None:
    plain = BuiltinBackend(BackendSettings(source="large"))
    await plain.load()
    for sheet in batch(seed, 30):
        request = ask(sheet.question, sampling, top=3)
        found, expected = await answer(speculating, request), await answer(plain, request)
        assert text(found) == text(expected)
        assert (found[-1].finish_reason, found[-1].usage) == (expected[-1].finish_reason, expected[-1].usage)
        told, wanted = ([token for chunk in chunks for token in chunk.tokens] for chunks in (found, expected))
        assert [token.token_id for token in told] == [token.token_id for token in wanted]
        for one, other in zip(told, wanted, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [a.text for a in one.alternatives[:1]] == [a.text for a in other.alternatives[:1]]
    await plain.close()


async def test_the_last_chunk_alone_tells_how_speculation_went(speculating: BuiltinBackend) -> None:
    *others, last = await answer(speculating, ask(LONG))
    assert last.usage is not None
    assert last.speculation is not None
    assert all(chunk.speculation is None for chunk in others)
    told, written = last.speculation, last.usage.completion_tokens
    assert 1 <= told.target_forwards <= 0.8 * written
    assert written - told.target_forwards <= told.accepted_tokens <= min(told.drafted_tokens, written)


async def test_without_a_draft_model_or_an_answer_there_is_no_speculation(
    backend: BuiltinBackend, speculating: BuiltinBackend
) -> None:
    assert (await answer(backend, ask(LONG)))[-1].speculation is None
    assert (await answer(speculating, ask("Who are you?")))[-1].speculation is None


async def test_the_description_is_the_target_s(speculating: BuiltinBackend) -> None:
    plain = BuiltinBackend(BackendSettings(source="large"))
    await plain.load()
    assert speculating.describe() == plain.describe()
    await plain.close()


async def test_a_draft_model_that_cannot_be_used_is_named() -> None:
    settings = BackendSettings(source="large", draft_source="medium")
    with pytest.raises(NotLoadableError, match="draft_source 'medium': there are no such weights"):
        await BuiltinBackend(settings).load()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=5)], ids=["greedy", "drawn"])
async def test_who_leaves_waits_for_one_forward_pass_of_the_target_at_most(
    speculating: BuiltinBackend, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, passes = speculating._engine._session, Counter[str]()
    reached, left, read = threading.Event(), threading.Event(), Lanes.read

    def watched(lane: Lanes, rows: NDArray[np.int32], start: int) -> Frame:
        if lane.session is target:
            passes["after" if left.is_set() else "before"] += 1
            if passes["before"] == 3:
                reached.set()
                left.wait(10)
        return read(lane, rows, start)

    monkeypatch.setattr(Lanes, "read", watched)
    async with aclosing(speculating.generate(ask(LONG, sampling))) as chunks:
        await anext(chunks)
        assert await asyncio.to_thread(reached.wait, 10)
    left.set()
    await speculating.close()
    assert passes == {"before": 3}
