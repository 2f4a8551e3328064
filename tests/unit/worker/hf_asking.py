"""Asks the hf backend, and says what the bare model would have answered."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import torch
import transformers
from scipy.stats import chisquare

from headgate.worker.backends.base import (
    BackendSettings,
    Chunk,
    GenerationRequest,
    Role,
    Sampling,
    Token,
    Turn,
)
from headgate.worker.backends.hf.backend import HfBackend

GREEDY = Sampling()
QUERIES = tuple(f"{word} {n}" for word, n in itertools.product(("count", "spell", "sort"), range(4)))


@asynccontextmanager
async def opened(source: str, **settings: Any) -> AsyncIterator[HfBackend]:
    backend = HfBackend(BackendSettings(source=source, **settings))
    await backend.load()
    try:
        yield backend
    finally:
        await backend.close()


def ask(
    text: str = QUERIES[0],
    sampling: Sampling = GREEDY,
    *,
    within_s: float = 60,
    top: int | None = None,
    turns: tuple[Turn, ...] = (),
) -> GenerationRequest:
    return GenerationRequest(
        (*turns, Turn(Role.USER, text)),
        monotonic() + within_s,
        sampling,
        logprobs=top is not None,
        top_logprobs=top or 0,
    )


async def answer(backend: HfBackend, request: GenerationRequest) -> list[Chunk]:
    return [chunk async for chunk in backend.generate(request)]


def text(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def tokens(chunks: list[Chunk]) -> list[Token]:
    return [token for chunk in chunks for token in chunk.tokens]


def ids(chunks: list[Chunk]) -> list[int]:
    return [token.token_id for token in tokens(chunks)]


class Reference:
    """The model without any cache, batch or backend: one whole forward pass for every token."""

    def __init__(self, source: str) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(source).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(source)

    def prompt(self, query: str) -> list[int]:
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": query}]
            return list(
                self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
            )
        return list(self.tokenizer(f"User: {query}\nAssistant:")["input_ids"])

    @torch.inference_mode()
    def logprobs(self, ids: Sequence[int]) -> torch.Tensor:
        logits = self.model(torch.tensor([list(ids)])).logits[0]
        return torch.log_softmax(logits, dim=-1)

    def greedy(self, query: str, count: int) -> list[int]:
        ids, start = self.prompt(query), len(self.prompt(query))
        while len(ids) < start + count and 0 not in ids[start:]:
            ids.append(int(self.logprobs(ids)[-1].argmax()))
        return ids[start:]


def chi_square_p(drawn: Sequence[int], expected: torch.Tensor) -> float:
    """Of Pearson's test that the draws follow `expected`; 0 where they hit what it rules out."""
    counts = torch.bincount(torch.tensor(drawn), minlength=len(expected)).double()
    possible = expected > 0
    if counts[~possible].sum() > 0:
        return 0.0
    shares = expected[possible].double()
    return float(chisquare(counts[possible], shares / shares.sum() * len(drawn)).pvalue)
