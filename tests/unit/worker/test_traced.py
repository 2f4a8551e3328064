"""What a worker's spans tell of an upstream: numbers, and names that look like names."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from headgate.adapters.traces import Span, Value
from headgate.worker import traced
from headgate.worker.backends.base import Chunk, FinishReason, Usage

LAST = Chunk("the end of an answer", (), FinishReason.STOP, Usage(7, 2))


class Kept(Span):
    """A span that keeps what it is told."""

    def __init__(self) -> None:
        self.recording = True
        self.told: dict[str, Value] = {}

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.told |= attributes


@pytest.mark.parametrize("model", ["gpt-6.1-mini", "Qwen/Qwen3-8B", "llama3:8b", "ft:a@b"])
def test_the_upstream_s_name_of_the_model_is_told(model: str) -> None:
    span = Kept()
    traced.answered(span, LAST, model)
    assert span.told == {
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 2,
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.response.model": model,
    }  # fmt: skip


@pytest.mark.parametrize("model", ["the answer is 42", "x" * 129, "", None, {"a": 1}, "line\nline", "naïve"])
def test_any_other_text_of_an_upstream_is_not_repeated(model: object) -> None:
    span = Kept()
    traced.answered(span, LAST, model)
    assert "gen_ai.response.model" not in span.told
    assert "end of an answer" not in str(span.told)
