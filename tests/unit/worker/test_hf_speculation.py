"""The hf backend with a draft model: the target's answers in fewer of its passes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
import torch
from structlog.testing import capture_logs

from headgate.worker.backends.base import (
    BackendSettings,
    Chunk,
    DeadlinePassedError,
    FinishReason,
    NotLoadableError,
    Sampling,
    Speculation,
    UpstreamUnavailableError,
)
from headgate.worker.backends.hf.backend import HfBackend
from tests import tiny_models
from tests.unit.worker.hf_asking import (
    QUERIES,
    Reference,
    answer,
    ask,
    chi_square_p,
    ids,
    opened,
    text,
    tokens,
)

CORPUS = ["count spell sort user assistant 0 1 2 3"] * 3
SAMPLED = Sampling(temperature=0.8, top_p=0.9, seed=11)
Drafts = dict[str, str]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = tiny_models.tokenizer(template=tiny_models.CHAT)
    return tiny_models.save(tmp_path_factory.mktemp("target"), tiny_models.llama(len(words)), words)


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Drafts:
    """The target itself, a worse one, one that knows nothing, one with other tokens, one of short context."""
    words = tiny_models.tokenizer(template=tiny_models.CHAT)
    others = tiny_models.tokenizer(CORPUS, merges=9)
    model = tiny_models.llama(len(words))
    made = {
        "itself": (model, words),
        "worse": (tiny_models.shaken(model, 0.08), words),
        "ignorant": (tiny_models.gpt2(len(words), seed=9, context=512), words),
        "foreign": (tiny_models.llama(len(others), seed=3), others),
        "short": (tiny_models.gpt2(len(words), seed=4, context=48), words),
    }
    return {name: tiny_models.save(tmp_path_factory.mktemp(name), *pair) for name, pair in made.items()}


@pytest.fixture
def no_failure() -> Iterator[None]:
    """An answer that goes on without the draft model looks right too: only the log tells."""
    with capture_logs() as logs:
        yield
    assert logs == []


def speculation(chunks: list[Chunk]) -> Speculation:
    assert [chunk.speculation is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    told = chunks[-1].speculation
    assert told is not None
    return told


@pytest.mark.parametrize("name", ["itself", "worse", "ignorant", "foreign", "short"])
@pytest.mark.parametrize("how", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
async def test_the_answer_is_the_targets_own_token_for_token(
    target: str, drafts: Drafts, name: str, how: Sampling, no_failure: None
) -> None:
    how = replace(how, max_tokens=30)
    async with opened(target) as plain, opened(target, draft_source=drafts[name]) as drafted:
        for query in QUERIES[:5]:
            alone, helped = [await answer(one, ask(query, how, top=3)) for one in (plain, drafted)]
            assert ids(helped) == ids(alone)
            assert text(helped) == text(alone)
            assert helped[-1].usage == alone[-1].usage
            assert helped[-1].finish_reason == alone[-1].finish_reason
            for one, other in zip(tokens(helped), tokens(alone), strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
                assert [a.token_id for a in one.alternatives] == [a.token_id for a in other.alternatives]


@pytest.mark.parametrize("how", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
async def test_a_good_draft_model_saves_passes_and_the_counts_add_up(
    target: str, drafts: Drafts, how: Sampling
) -> None:
    how = replace(how, max_tokens=40)
    passes: dict[str, float] = {}
    for name in ("itself", "worse", "ignorant"):
        async with opened(target, draft_source=drafts[name]) as backend:
            told, written = [], 0
            for query in QUERIES[:5]:
                chunks = await answer(backend, ask(query, how, top=0))
                told.append(speculation(chunks))
                written += len(ids(chunks))
                assert told[-1].accepted_tokens + told[-1].target_forwards == len(ids(chunks))
                assert 0 <= told[-1].accepted_tokens <= told[-1].drafted_tokens
            passes[name] = sum(one.target_forwards for one in told) / written
    print("target passes per token:", passes)
    assert passes["itself"] < 0.25
    assert passes["itself"] < passes["worse"] < 0.9 < passes["ignorant"] <= 1


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.7, seed=5)], ids=["greedy", "sampled"])
async def test_a_draft_model_with_another_tokenizer_saves_passes_too(how: Sampling, no_failure: None) -> None:
    taught = (
        ("count", " one two three four five six seven eight nine"),
        ("greet", " good morning to you all"),
    )
    source, draft = tiny_models.taught(taught, merges=4), tiny_models.taught(taught, merges=60, width=32)
    told, written = [], 0
    async with opened(source) as plain, opened(source, draft_source=draft) as backend:
        for asked, whole in taught:
            chunks = await answer(backend, ask(asked, how, top=0))
            assert ids(chunks) == ids(await answer(plain, ask(asked, how, top=0)))
            assert how.temperature > 0 or text(chunks) == whole
            told.append(speculation(chunks))
            written += len(ids(chunks))
    forwards = sum(one.target_forwards for one in told)
    print(f"target passes per token: {forwards / written:.3f} of {written}")
    assert forwards < written / 2


async def test_sampled_answers_follow_the_targets_distribution_and_not_the_draft_models(
    tmp_path: Path, seed: int
) -> None:
    words = tiny_models.words(5)
    model = tiny_models.llama(len(words), seed=2, width=16, spread=0.3)
    source = tiny_models.save(tmp_path / "target", model, words)
    draft = tiny_models.save(tmp_path / "draft", tiny_models.shaken(model, 0.8), words)
    drawn, n = [], 500
    async with opened(source, draft_source=draft) as backend:
        for number in range(n):
            how = Sampling(temperature=1.0, seed=seed + number, max_tokens=3)
            drawn.append(tuple(ids(await answer(backend, ask("w1 w2", how, top=0)))))
    p, q = (_chi_square(drawn, _exact(Reference(one), "w1 w2", 3)) for one in (source, draft))
    print(f"n={n}: target p = {p:.3g}, draft model p = {q:.3g}")
    assert p > 1e-3
    assert q < 1e-6


def _exact(reference: Reference, query: str, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of up to `length` tokens; token 0 ends one."""
    whole: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        grown = {
            (*begun, token): share * float(probability)
            for begun, share in open_.items()
            for token, probability in enumerate(
                reference.logprobs([*reference.prompt(query), *begun])[-1].exp()
            )
        }
        whole |= {answer: share for answer, share in grown.items() if answer[-1] == 0}
        open_ = {answer: share for answer, share in grown.items() if answer[-1] != 0}
    return whole | open_


def _chi_square(drawn: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Cells that expect fewer than 5 of the draws count as one."""
    counts = Counter(drawn)
    large = [answer for answer, share in expected.items() if share * len(drawn) >= 5]
    cells = [place for place, answer in enumerate(large) for _ in range(counts[answer])]
    cells += [len(large)] * (len(drawn) - len(cells))
    shares = [expected[answer] for answer in large]
    return chi_square_p(cells, torch.tensor([*shares, max(1e-12, 1 - sum(shares))]))


async def test_sampling_defaults_of_a_repository_change_nothing(
    target: str, drafts: Drafts, tmp_path: Path, no_failure: None
) -> None:
    folder = Path(shutil.copytree(target, tmp_path / "opinionated"))
    config = folder / "generation_config.json"
    opinions = {"do_sample": True, "repetition_penalty": 9.0, "top_k": 2, "min_new_tokens": 35}
    config.write_text(json.dumps({**json.loads(config.read_text()), **opinions}))
    how = Sampling(max_tokens=30)
    async with opened(target) as plain, opened(str(folder), draft_source=drafts["worse"]) as backend:
        for query in QUERIES[:3]:
            assert ids(await answer(backend, ask(query, how, top=0))) == ids(
                await answer(plain, ask(query, how, top=0))
            )


async def test_a_stop_string_within_what_was_taken_ends_the_answer_there(target: str, drafts: Drafts) -> None:
    async with opened(target, draft_source=drafts["itself"]) as backend:
        whole = text(await answer(backend, ask(sampling=Sampling(max_tokens=60))))
        for start in range(2, 9):
            stop = whole[start : start + 3]
            chunks = await answer(backend, ask(sampling=Sampling(max_tokens=60, stop=(stop,)), top=0))
            assert text(chunks) == whole[: whole.find(stop)]
            assert chunks[-1].finish_reason is FinishReason.STOP
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == len(ids(chunks))


async def test_requests_wait_for_each_other_and_none_is_lost(target: str, drafts: Drafts) -> None:
    how = Sampling(max_tokens=20)
    async with opened(target, draft_source=drafts["worse"]) as backend:
        alone = [text(await answer(backend, ask(query, how))) for query in QUERIES]
        together = await asyncio.gather(*(answer(backend, ask(query, how)) for query in QUERIES))
    assert [text(chunks) for chunks in together] == alone


def _passes(backend: HfBackend, before: Callable[[int], None] = lambda _: None) -> list[str]:
    """Which model made each forward pass from now on; `before` is called with their number so far."""
    made: list[str] = []
    decoder = backend._engine._decoder  # type: ignore[union-attr]
    for name in ("_target", "_draft"):

        def note(*_: object, name: str = name) -> None:
            before(len(made))
            made.append(name)

        getattr(decoder, name).model.register_forward_pre_hook(note)
    return made


async def test_closing_stops_both_models_within_a_pass(target: str, drafts: Drafts) -> None:
    async with opened(target, draft_source=drafts["ignorant"]) as backend:
        loop, left = asyncio.get_running_loop(), asyncio.Event()

        def pause(number: int) -> None:
            if number == 20:
                loop.call_soon_threadsafe(left.set)
                closed.result(10)

        made = _passes(backend, pause)
        chunks = backend.generate(ask(sampling=Sampling(max_tokens=150)))
        await anext(chunks)

        async def leave() -> None:
            await left.wait()
            await chunks.aclose()

        closed = asyncio.run_coroutine_threadsafe(leave(), loop)
        await asyncio.wrap_future(closed)
        await backend.close()
        assert len(made) == 21


async def test_a_deadline_ends_an_answer_in_work_and_one_that_waits(target: str, drafts: Drafts) -> None:
    async with opened(target, draft_source=drafts["ignorant"]) as backend:
        started = monotonic()
        whole = await answer(backend, ask(sampling=Sampling(max_tokens=150)))
        took_s = monotonic() - started
        ahead = backend.generate(ask(sampling=Sampling(max_tokens=150)))
        begun, asked = await anext(ahead), monotonic()
        with pytest.raises(DeadlinePassedError):
            await answer(backend, ask(within_s=took_s / 10))
        assert monotonic() - asked < took_s / 2, "the error waited for the other answer"
        assert text([begun, *[chunk async for chunk in ahead]]) == text(whole)
        with pytest.raises(DeadlinePassedError):
            await answer(backend, ask(sampling=Sampling(max_tokens=150), within_s=took_s / 5))


async def test_closing_the_backend_ends_answers_in_work_and_in_line(target: str, drafts: Drafts) -> None:
    backend = HfBackend(BackendSettings(source=target, draft_source=drafts["ignorant"]))
    await backend.load()
    begun = asyncio.Event()

    async def consume(query: str) -> None:
        async for _ in backend.generate(ask(query, Sampling(max_tokens=200))):
            begun.set()

    answers = [asyncio.create_task(consume(query)) for query in QUERIES[:3]]
    await begun.wait()
    await backend.close()
    for outcome in await asyncio.gather(*answers, return_exceptions=True):
        assert isinstance(outcome, UpstreamUnavailableError)
        assert "stopping" in str(outcome)


async def test_where_drafting_fails_the_answer_goes_on_without_it(target: str, drafts: Drafts) -> None:
    failed: list[int] = []

    def fail(number: int) -> None:
        if number == 15 and not failed:
            failed.append(number)
            raise RuntimeError("my secret")

    how = Sampling(max_tokens=60)
    async with opened(target) as plain, opened(target, draft_source=drafts["worse"]) as backend:
        made = _passes(backend, fail)
        chunks = await answer(backend, ask(sampling=how))
        assert text(chunks) == text(await answer(plain, ask(sampling=how)))
        assert "_draft" not in made[15:]
        assert speculation(chunks).accepted_tokens < 15


async def test_a_draft_model_with_other_tokens_but_as_many_is_refused(target: str, tmp_path: Path) -> None:
    others = tiny_models.words(255)
    draft = tiny_models.save(tmp_path, tiny_models.llama(len(others)), others)
    with pytest.raises(NotLoadableError, match="draft_source: its vocabulary"):
        await HfBackend(BackendSettings(source=target, draft_source=draft)).load()


async def test_a_model_that_cannot_unread_a_token_is_refused_a_draft_model(
    drafts: Drafts, tmp_path: Path
) -> None:
    words = tiny_models.tokenizer()
    source = tiny_models.save(tmp_path, tiny_models.of_kind("recurrent", len(words)), words)
    with pytest.raises(NotLoadableError, match="draft_source: transformers cannot draft"):
        await HfBackend(BackendSettings(source=source, draft_source=drafts["itself"])).load()


async def test_a_draft_model_that_is_not_there_is_one_sentence(target: str, tmp_path: Path) -> None:
    with pytest.raises(NotLoadableError, match=r"draft_source .*there is no such folder"):
        await HfBackend(BackendSettings(source=target, draft_source=str(tmp_path / "none"))).load()


async def test_the_version_names_the_draft_model_too(target: str, drafts: Drafts) -> None:
    versions = set()
    for name in ("", "worse", "ignorant"):
        async with opened(target, draft_source=drafts[name] if name else "") as backend:
            versions.add(backend.describe().version)
    assert len(versions) == 3
