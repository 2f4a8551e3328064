from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
import torch
import transformers

from headgate.worker.backends.base import (
    BackendError,
    BackendSettings,
    ContextTooLongError,
    DeadlinePassedError,
    FinishReason,
    NotLoadableError,
    Price,
    RequestRejectedError,
    Role,
    Sampling,
    Turn,
    UpstreamUnavailableError,
)
from headgate.worker.backends.hf import lanes, sampling
from headgate.worker.backends.hf.answer import Detokeniser
from headgate.worker.backends.hf.backend import HfBackend
from tests import tiny_models
from tests.unit.worker.hf_asking import (
    GREEDY,
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


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = tiny_models.tokenizer(template=tiny_models.CHAT)
    return tiny_models.save(tmp_path_factory.mktemp("llama"), tiny_models.llama(len(words)), words)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = tiny_models.tokenizer()
    return tiny_models.save(tmp_path_factory.mktemp("gpt2"), tiny_models.gpt2(len(words)), words)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
async def test_says_what_the_bare_model_says(model: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(model)
    reference = Reference(source)
    async with opened(source) as backend:
        for query in QUERIES:
            chunks = await answer(backend, ask(query, Sampling(max_tokens=30), top=0))
            assert ids(chunks) == reference.greedy(query, 30)
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.prompt_tokens == len(reference.prompt(query))


@pytest.mark.parametrize("model", ["llama", "gpt2"])
async def test_an_answer_among_others_is_token_for_token_the_one_alone(
    model: str, request: pytest.FixtureRequest
) -> None:
    # Prompts of all lengths that come and go at different steps: rows join, leave, and are padded.
    source, chance = request.getfixturevalue(model), random.Random(5)
    queries = [f"{query} {'x' * chance.randrange(60)}" for query in QUERIES * 3]
    requests = [Sampling(max_tokens=chance.randrange(2, 60)) for _ in queries]
    async with opened(source) as backend:
        alone = [
            ids(await answer(backend, ask(*pair, top=0))) for pair in zip(queries, requests, strict=True)
        ]

        # At most nine at a time, so that rows leave and join all the while.
        places = asyncio.Semaphore(9)

        async def among_others(pair: tuple[str, Sampling]) -> list[int]:
            async with places:
                return ids(await answer(backend, ask(*pair, top=0)))

        together = await asyncio.gather(*map(among_others, zip(queries, requests, strict=True)))
    assert together == alone


async def test_requests_in_work_at_the_same_time_share_forward_passes(llama: str) -> None:
    async with opened(llama) as backend:
        passes = _counted(backend)
        await asyncio.gather(*(answer(backend, ask(query, Sampling(max_tokens=20))) for query in QUERIES))
        assert max(passes) > len(QUERIES) // 2
        assert len(passes) < len(QUERIES) * 20 / 2


def _counted(backend: HfBackend) -> list[int]:
    """Rows of every forward pass from now on."""
    passes: list[int] = []
    model = backend._engine._decoder._target.model  # type: ignore[union-attr]
    model.register_forward_pre_hook(lambda _, arguments: passes.append(len(arguments[0])))
    return passes


@pytest.mark.parametrize("kind", tiny_models.KINDS)
async def test_every_kind_of_model_says_among_others_what_it_says_bare(kind: str, tmp_path: Path) -> None:
    words = tiny_models.tokenizer(template=tiny_models.CHAT)
    source = tiny_models.save(tmp_path, tiny_models.of_kind(kind, len(words)), words)
    queries = [f"{query}{'x' * 5 * place}" for place, query in enumerate(QUERIES[:5])]
    reference, how = Reference(source), Sampling(max_tokens=20)
    async with opened(source) as backend:
        passes = _counted(backend)
        together = await asyncio.gather(*(answer(backend, ask(query, how, top=0)) for query in queries))
    assert [ids(one) for one in together] == [reference.greedy(query, 20) for query in queries]
    assert (max(passes) > 1) == (kind in {"experts", "slopes for positions"})


async def test_log_probabilities_are_the_models_own_whatever_the_sampling(llama: str) -> None:
    reference = Reference(llama)
    for one in (GREEDY, Sampling(temperature=0.5, seed=3), Sampling(temperature=1.7, top_p=0.6, seed=4)):
        async with opened(llama) as backend:
            told = tokens(await answer(backend, ask(QUERIES[1], replace(one, max_tokens=25), top=4)))
        prompt = reference.prompt(QUERIES[1])
        whole = reference.logprobs([*prompt, *(token.token_id for token in told)])[len(prompt) - 1 :]
        for token, row in zip(told, whole, strict=False):
            assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-4)
            best = row.topk(4)
            assert [other.token_id for other in token.alternatives] == best.indices.tolist()
            assert [other.logprob for other in token.alternatives] == pytest.approx(
                best.values.tolist(), abs=1e-4
            )
            assert token.alternatives[0].text == reference.tokenizer.decode([int(best.indices[0])])


async def test_a_seed_repeats_a_draw_alone_or_among_others_and_another_changes_it(llama: str) -> None:
    hot = [Sampling(temperature=1.2, top_p=0.95, seed=seed, max_tokens=40) for seed in (-1, -1, 2)]
    async with opened(llama) as backend:
        alone = [ids(await answer(backend, ask("go", one, top=0))) for one in hot]
        together = await asyncio.gather(*(answer(backend, ask("go", one, top=0)) for one in hot))
    assert alone[0] == alone[1] != alone[2]
    assert [ids(one) for one in together] == alone


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
@pytest.mark.parametrize("over", ["seeds", "places"])
def test_draws_follow_temperature_and_top_p(temperature: float, top_p: float, over: str, seed: int) -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5, 2.0])
    drawn, n, one = [], 10_000, sampling.Dice(seed, logits.device)
    for number in range(n):
        dice, place = (one, number) if over == "places" else (sampling.Dice(seed + number, logits.device), 3)
        scored = sampling.scores(logits, Sampling(temperature, top_p), dice, place)
        drawn.append(int(scored.argmax()))
    assert chi_square_p(drawn, _nucleus(torch.softmax(logits / temperature, -1), top_p)) > 1e-3
    assert chi_square_p(drawn, torch.softmax(logits / (temperature + 0.3), -1)) < 1e-6


def _nucleus(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    order = shares.argsort(descending=True, stable=True).tolist()
    least = next(n for n in range(1, 7) if float(shares[order[:n]].sum()) >= top_p - 1e-6)
    kept = torch.zeros_like(shares)
    kept[order[:least]] = shares[order[:least]]
    return kept / kept.sum()


def test_a_draw_is_of_one_token_however_small_temperature_or_top_p() -> None:
    logits, dice = torch.tensor([0.0, -30.0, 1.0]), sampling.Dice(1, torch.device("cpu"))
    for one in (Sampling(1.0, 1e-9), Sampling(1e-30, 1.0)):
        assert {int(sampling.scores(logits, one, dice, place).argmax()) for place in range(200)} == {2}


def test_text_comes_in_whole_characters_and_adds_up_to_the_text_of_all_tokens(seed: int) -> None:
    words = tiny_models.tokenizer(["naïve café 日本語 🙂🙃 emoji"] * 5, merges=20)
    chance = random.Random(seed)
    for _ in range(300):
        written = "".join(chance.choice(["é", "日", "🙂", "a", " ", "\n", "�"]) for _ in range(12))
        sequence = words(written)["input_ids"]
        if chance.random() < 0.5:
            sequence = [chance.randrange(2, len(words)) for _ in range(20)]
        told = Detokeniser(words.decode)
        pieces = [told.feed(one) for one in sequence]
        assert "".join(pieces) + told.rest() == words.decode(sequence)
        if words.decode(sequence) == written and "�" not in written:
            assert "�" not in "".join(pieces)


async def test_an_answer_cut_within_a_character_shows_it_as_broken_only_at_the_end(tmp_path: Path) -> None:
    words = tiny_models.tokenizer(template=tiny_models.CHAT)
    pupil = tiny_models.llama(len(words), width=48, spread=0.08)
    asked = "[user] smile\n[assistant]🙂🙂🙂<|end|>"
    assert tiny_models.teach(pupil, words, [asked], 60) < 0.2
    async with opened(tiny_models.save(tmp_path, pupil, words)) as backend:
        assert text(await answer(backend, ask("smile"))) == "🙂🙂🙂"
        chunks = await answer(backend, ask("smile", Sampling(max_tokens=6)))
        assert [chunk.text for chunk in chunks if chunk.text] == ["🙂", "�"]
        assert chunks[-1].finish_reason is FinishReason.LENGTH


async def test_an_end_token_that_reads_like_text_is_none(llama: str, tmp_path: Path) -> None:
    async with opened(llama) as backend:
        whole = ids(await answer(backend, ask(sampling=Sampling(max_tokens=30), top=0)))
    shutil.copytree(llama, tmp_path / "ends")
    config = tmp_path / "ends" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": [0, whole[9]]}))
    async with opened(str(tmp_path / "ends")) as backend:
        chunks = await answer(backend, ask(top=0))
    count = whole.index(whole[9])
    assert ids(chunks) == whole[: count + 1]
    assert text(chunks) == Reference(llama).tokenizer.decode(whole[:count])
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_closing_stops_the_work_of_that_request_only(llama: str) -> None:
    async with opened(llama) as backend:
        passes = _counted(backend)
        leaver, stayer = (backend.generate(ask(query, Sampling(max_tokens=200))) for query in ("a", "b"))
        await asyncio.gather(anext(leaver), anext(stayer))
        await leaver.aclose()
        rest = [chunk async for chunk in stayer]
        assert rest[-1].finish_reason is not None
        assert passes.count(2) < passes.count(1)


async def test_a_deadline_in_the_middle_ends_the_answer_and_lets_others_go_on(llama: str) -> None:
    async with opened(llama) as backend:
        started = monotonic()
        whole = await answer(backend, ask("b", Sampling(max_tokens=200)))
        took_s = monotonic() - started
        hurried = backend.generate(ask("a", Sampling(max_tokens=200), within_s=took_s / 4))
        patient = asyncio.create_task(answer(backend, ask("b", Sampling(max_tokens=200))))
        with pytest.raises(DeadlinePassedError):
            async for _ in hurried:
                pass
        assert text(await patient) == text(whole)


async def test_the_context_bounds_conversation_and_answer_together(llama: str) -> None:
    async with opened(llama) as backend:
        assert backend.describe().context_tokens == 256
        with pytest.raises(ContextTooLongError, match=r"has 320 tokens; fewer than 256 fit") as error:
            await answer(backend, ask("7" * 301))
        assert "777" not in str(error.value)
        chunks = await answer(backend, ask("7" * 231, top=0))
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens <= 256


async def test_without_a_template_a_model_does_not_speak_for_the_user(tmp_path: Path) -> None:
    words = tiny_models.tokenizer()
    pupil = tiny_models.gpt2(len(words), width=48, spread=0.08)
    known = "System: Be brief.\nUser: hi\nAssistant: yes\nUser: more\nAssistant:"
    assert tiny_models.teach(pupil, words, [known], 80) < 0.2
    turns = (Turn(Role.SYSTEM, "Be brief."),)
    async with opened(tiny_models.save(tmp_path, pupil, words)) as backend:
        chunks = await answer(backend, ask("hi", turns=turns))
    assert text(chunks) == " yes"
    assert chunks[-1].finish_reason is FinishReason.STOP


async def test_what_a_template_does_not_take_is_the_requests_fault_and_not_repeated(tmp_path: Path) -> None:
    words = tiny_models.tokenizer(template="{{ raise_exception('secret: ' + messages[0]['content']) }}")
    source = tiny_models.save(tmp_path, tiny_models.llama(len(words)), words)
    async with opened(source) as backend:
        with pytest.raises(RequestRejectedError, match="chat template") as error:
            await answer(backend, ask("my secret"))
    assert "secret" not in str(error.value)


async def test_a_model_that_fails_says_so_without_the_query_and_answers_the_next(llama: str) -> None:
    async with opened(llama) as backend:
        model = backend._engine._decoder._target.model  # type: ignore[union-attr]

        def fail(_: object, arguments: tuple[torch.Tensor, ...]) -> None:
            if arguments[0].shape[1] == 1:
                raise RuntimeError("out of memory while answering: my secret")

        hook = model.register_forward_pre_hook(fail)
        with pytest.raises(UpstreamUnavailableError, match=r"the model failed \(RuntimeError\)"):
            await answer(backend, ask("my secret"))
        hook.remove()
        assert text(await answer(backend, ask()))


async def test_closing_the_backend_ends_answers_in_work_with_an_error(llama: str) -> None:
    backend = HfBackend(BackendSettings(source=llama))
    await backend.load()
    chunks = backend.generate(ask(sampling=Sampling(max_tokens=200)))
    await anext(chunks)
    await backend.close()
    with pytest.raises(BackendError):
        async for _ in chunks:
            pass
    with pytest.raises(NotLoadableError):
        await answer(backend, ask())


async def _version(source: Path) -> str:
    async with opened(str(source)) as backend:
        return backend.describe().version


async def test_the_version_changes_with_weights_config_template_and_type_and_not_with_the_folder(
    llama: str, tmp_path: Path
) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(llama, tmp_path / name))

    def edited(name: str, file: str, **values: object) -> Path:
        path = copied(name) / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return path.parent

    retrained = copied("weights")
    model = transformers.AutoModelForCausalLM.from_pretrained(retrained)
    with torch.no_grad():
        model.lm_head.weight.add_(1e-3)
    model.save_pretrained(retrained)
    half = copied("half")
    model = transformers.AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16)
    model.save_pretrained(half)
    template = copied("template")
    (template / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    folders = [
        Path(llama), retrained, half, template,
        edited("config", "config.json", rms_norm_eps=1e-3),
        edited("ends", "generation_config.json", eos_token_id=[0, 5]),
    ]  # fmt: skip
    versions = [await _version(folder) for folder in folders]
    assert len(set(versions)) == len(folders)
    assert await _version(copied("moved")) == versions[0]


async def test_the_price_is_the_operators(llama: str) -> None:
    async with opened(llama, price=Price(3, 4)) as backend:
        assert backend.describe().price == Price(3, 4)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, "there is no such folder"),
        ({"config.json": "{}"}, "there is no such folder|cannot load it"),
        ({"config.json": '{"model_type": "vit"}'}, "cannot load it|there is no such folder"),
    ],
)
async def test_a_source_that_cannot_be_used_is_one_sentence(
    files: dict[str, str] | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (files or {}).items():
        (tmp_path / name).write_text(content)
    source = tmp_path if files else tmp_path / "none"
    with pytest.raises(NotLoadableError, match=sentence) as error:
        await HfBackend(BackendSettings(source=str(source))).load()
    assert "\n" not in str(error.value)


async def test_no_source_is_one_sentence() -> None:
    with pytest.raises(NotLoadableError, match="source: the hf backend needs"):
        await HfBackend(BackendSettings(source="")).load()


async def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    words = tiny_models.tokenizer()
    tiny_models.save(tmp_path, tiny_models.llama(len(words)), words)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotLoadableError, match="are missing"):
        await HfBackend(BackendSettings(source=str(tmp_path))).load()


async def test_a_model_whose_cache_would_be_passed_over_is_refused(
    llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "cache_argument", lambda _: "no_such_cache")
    with pytest.raises(NotLoadableError, match="its cache is not one"):
        await HfBackend(BackendSettings(source=llama)).load()


def test_the_worker_imports_neither_torch_nor_transformers_before_a_model_is_loaded() -> None:
    program = (
        "import sys; from headgate.worker.backends import registry; registry.find('hf');"
        "import headgate.worker.process; print({'torch', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_missing_extra_is_one_sentence() -> None:
    program = (
        "import asyncio, sys; sys.modules['transformers'] = None\n"
        "from headgate.worker.backends.base import BackendSettings, NotLoadableError\n"
        "from headgate.worker.backends.hf.backend import HfBackend\n"
        "try: asyncio.run(HfBackend(BackendSettings(source='x')).load())\n"
        "except NotLoadableError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "backend 'hf' needs the module 'transformers', which is not installed; "
        'pip install "headgate[hf]" brings it\n'
    )
