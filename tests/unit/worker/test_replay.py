from __future__ import annotations

import hashlib
import json
from pathlib import Path
from time import monotonic

import pytest

from headgate.worker.backends.base import (
    BackendSettings,
    Chunk,
    FinishReason,
    GenerationRequest,
    NotLoadableError,
    NotRecordedError,
    Role,
    Sampling,
    Turn,
    Usage,
)
from headgate.worker.backends.replay import ReplayBackend

GREEDY = Sampling()
TOKENS = [{"text": "4", "logprob": -0.5}, {"text": "2", "logprob": -0.25}]


async def opened(folder: Path, *records: object) -> ReplayBackend:
    file = folder / "answers.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n\n", encoding="utf-8")
    backend = ReplayBackend(BackendSettings(source=str(file)))
    await backend.load()
    return backend


async def answer(
    backend: ReplayBackend, query: str, sampling: Sampling = GREEDY, request_id: str = ""
) -> list[Chunk]:
    request = GenerationRequest((Turn(Role.USER, query),), monotonic() + 5, sampling, request_id=request_id)
    return [chunk async for chunk in backend.generate(request)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_finds_answers_by_text_by_digest_and_by_id(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"seven?").hexdigest()
    backend = await opened(
        tmp_path,
        {"query": "six?", "answer": "by text"},
        {"query_sha256": digest.upper(), "answer": "by digest"},
        {"query_id": "q-8", "answer": "by id"},
    )
    assert text(await answer(backend, "six?")) == "by text"
    assert text(await answer(backend, "seven?")) == "by digest"
    assert text(await answer(backend, "six?", request_id="q-8")) == "by id"


async def test_an_unknown_query_is_an_error_that_does_not_repeat_it(tmp_path: Path) -> None:
    backend = await opened(tmp_path, {"query": "six?", "answer": "6"})
    with pytest.raises(NotRecordedError) as unknown:
        await answer(backend, "canary?")
    assert "canary" not in str(unknown.value)


async def test_recorded_counts_and_reason_are_replayed(tmp_path: Path) -> None:
    record = {"query": "?", "answer": "42", "tokens": TOKENS, "prompt_tokens": 9, "completion_tokens": 3}
    backend = await opened(tmp_path, {**record, "finish_reason": "length"})
    chunks = await answer(backend, "?")
    assert chunks[-1].usage == Usage(9, 3)
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert (await answer(backend, "?", Sampling(max_tokens=1)))[-1].usage == Usage(9, 1)


async def test_what_is_not_recorded_is_estimated_and_marked(tmp_path: Path) -> None:
    backend = await opened(tmp_path, {"query": "how many?", "answer": " two or  three\n"})
    chunks = await answer(backend, "how many?")
    assert text(chunks) == " two or  three\n"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.estimated
    assert not backend.describe().logprobs


async def test_the_version_is_that_of_the_file(tmp_path: Path) -> None:
    first = (await opened(tmp_path, {"query": "?", "answer": "1"})).describe().version
    second = (await opened(tmp_path, {"query": "?", "answer": "2"})).describe().version
    assert first != second


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "7",
        '{"answer": "no query"}',
        '{"query": "?"}',
        '{"query": "?", "answer": 7}',
        '{"query": "?", "answer": "4", "finish_reason": "tired"}',
        '{"query": "?", "answer": "4", "prompt_tokens": -1}',
        '{"query": "?", "answer": "4", "tokens": [{"text": "5", "logprob": -1}]}',
        '{"query": "?", "answer": "4", "tokens": [{"text": "4", "logprob": 0.5}]}',
    ],
)
async def test_a_broken_line_is_named_but_not_shown(tmp_path: Path, line: str) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"query": "!", "answer": "1"}\n' + line, encoding="utf-8")
    with pytest.raises(NotLoadableError, match=r"answers\.jsonl:2: no record of an answer"):
        await ReplayBackend(BackendSettings(source=str(file))).load()


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotLoadableError, match="absent"):
        await ReplayBackend(BackendSettings(source=str(tmp_path / "absent.jsonl"))).load()
