"""The engine, on whatever weights are shipped: one question, many, greedy and drawn."""

from __future__ import annotations

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from headgate.worker.backends.builtin.engine import MODELS, Engine, QuestionTooLongError, Sampling, choose
from headgate.worker.backends.builtin.tokens import CONTEXT, END
from headgate.worker.backends.builtin.worksheets import Worksheet, batch


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest) -> Engine:
    return Engine.load(request.param)


@pytest.fixture(scope="module")
def sheets(seed: int) -> list[Worksheet]:
    return batch(seed, 48)


def test_greedy_answers_are_the_same_every_time(engine: Engine, sheets: list[Worksheet]) -> None:
    for sheet in sheets[:8]:
        assert list(engine.decode(sheet.question)) == list(engine.decode(sheet.question))


def test_a_batch_answers_like_single_questions(engine: Engine, sheets: list[Worksheet]) -> None:
    questions = [sheet.question for sheet in sheets]
    together = engine.answer_batch(questions, max_tokens=80, batch=16)
    for question, batched in zip(questions, together, strict=True):
        alone = engine.answer(question, Sampling(max_tokens=80))
        assert alone.text == batched.text
        assert alone.finish_reason == batched.finish_reason
        assert alone.prompt_tokens == batched.prompt_tokens == len(question) + 1
        assert alone.logprobs == pytest.approx(batched.logprobs, abs=1e-3)


def test_steps_carry_their_evidence(engine: Engine, sheets: list[Worksheet]) -> None:
    for step in engine.decode(sheets[0].question, Sampling(max_tokens=12)):
        ids, logprobs = zip(*step.alternatives, strict=True)
        assert len(set(ids)) == 8
        assert list(logprobs) == sorted(logprobs, reverse=True)
        assert (step.token_id, step.logprob) == (ids[0], logprobs[0])
        assert sum(map(math.exp, logprobs)) <= 1 + 1e-5


def test_it_stops_at_the_end_byte_or_when_told(engine: Engine, sheets: list[Worksheet]) -> None:
    for completion in engine.answer_batch([sheet.question for sheet in sheets], max_tokens=5):
        assert completion.completion_tokens == len(completion.logprobs) <= 5
        stopped = completion.finish_reason == "stop"
        assert stopped == (len(completion.text) == completion.completion_tokens - 1)
        assert stopped or completion.completion_tokens == 5
    assert len(list(engine.decode("1 + 1 = ?", Sampling(max_tokens=1)))) == 1


def test_the_context_is_a_wall(engine: Engine) -> None:
    longest = "x" * (CONTEXT - 2)
    assert len(list(engine.decode(longest))) == 1
    assert engine.answer_batch([longest])[0].completion_tokens == 1
    with pytest.raises(QuestionTooLongError, match="319 bytes; at most 318 fit"):
        next(engine.decode(longest + "x"))


def test_a_seed_repeats_a_drawn_answer(engine: Engine, sheets: list[Worksheet]) -> None:
    hot = Sampling(temperature=1.5, seed=7, max_tokens=20)
    assert list(engine.decode(sheets[0].question, hot)) == list(engine.decode(sheets[0].question, hot))
    other = Sampling(temperature=1.5, seed=8, max_tokens=20)
    texts = [
        engine.answer(sheet.question, sampling).text for sheet in sheets[:6] for sampling in (hot, other)
    ]
    assert texts[::2] != texts[1::2]


def test_leaving_early_does_not_disturb_the_next_question(engine: Engine, sheets: list[Worksheet]) -> None:
    expected = engine.answer(sheets[1].question)
    for stop in range(1, 4):
        steps = engine.decode(sheets[0].question)
        list(islice(steps, stop))
        steps.close()
        assert engine.answer(sheets[1].question) == expected


def test_threads_and_interleaved_streams_do_not_mix(engine: Engine, sheets: list[Worksheet]) -> None:
    questions = [sheet.question for sheet in sheets[:12]]
    expected = [engine.answer(question, Sampling(max_tokens=30)) for question in questions]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: engine.answer(text, Sampling(max_tokens=30)), questions))
    assert found == expected
    streams = [engine.decode(question, Sampling(max_tokens=2)) for question in questions]
    first = [next(stream).logprob for stream in streams]
    assert first == [engine.answer(question).logprobs[0] for question in questions]


def test_drawing_keeps_to_the_likeliest(seed: int) -> None:
    logprobs = np.log(np.array([0.5, 0.25, 0.15, 0.1] + [1e-9] * 124, np.float32))
    rng = np.random.default_rng(seed)

    def drawn(**settings: float) -> set[int]:
        sampling = Sampling(temperature=1.0, **settings)  # type: ignore[arg-type]
        return {choose(logprobs, sampling, rng) for _ in range(300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {0, 1}
    assert drawn(top_p=0.7) == {0, 1}
    assert drawn(top_p=0.4) == {0}


def test_drawing_follows_the_shares(seed: int) -> None:
    logprobs = np.full(128, -50.0, np.float32)
    logprobs[[3, 9]] = np.log([0.8, 0.2])
    rng = np.random.default_rng(seed)
    draws = [choose(logprobs, Sampling(temperature=1.0), rng) for _ in range(4000)]
    assert draws.count(3) / 4000 == pytest.approx(0.8, abs=0.03)
    cold = [choose(logprobs, Sampling(temperature=0.5), rng) for _ in range(4000)]
    assert cold.count(3) / 4000 == pytest.approx(0.64 / 0.68, abs=0.03)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Engine.load(tmp_path / "none.onnx")


def test_answers_are_one_line_of_ascii(engine: Engine, sheets: list[Worksheet]) -> None:
    for completion in engine.answer_batch([sheet.question for sheet in sheets]):
        assert completion.text.isascii()
        assert chr(END) not in completion.text


def test_serving_imports_no_torch() -> None:
    code = "import sys, headgate.worker.backends.builtin.engine as e; e.Engine.load('small')"
    check = f"{code}; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
