from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

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
from headgate.worker.backends.builtin.engine import Engine
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
