"""What a call costs, and what it is expected to cost before it is made.

Money is int nano-dollars. Token counts before a call are estimates: `estimate_tokens` needs no tokenizer, and
each model's `prompt_ratio` turns that common estimate into the model's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from headgate.router.types import Price

_TOKENS_PER_PRICE = 1_000_000
_ASCII_BYTES_PER_TOKEN = 4


def call_cost(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """Cost of one call in nano-dollars, rounded half up."""
    millionths = prompt_tokens * price.input_nanousd + completion_tokens * price.output_nanousd
    return (millionths + _TOKENS_PER_PRICE // 2) // _TOKENS_PER_PRICE


def estimate_tokens(text: str) -> int:
    """Tokens of `text`, at least 1 for a text that is not empty: four ASCII bytes or one other character
    each.

    Subword tokenizers stay within a factor of 2 of it on prose and code, in either direction.
    """
    ascii_bytes = len(text.encode("ascii", "ignore"))
    return -(-ascii_bytes // _ASCII_BYTES_PER_TOKEN) + len(text) - ascii_bytes


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What one model was expected to charge when the bundle was made."""

    price: Price
    prompt_ratio: float
    """The model's own prompt tokens for one token of `estimate_tokens`; above 0."""
    mean_completion: float
    """Mean tokens of an answer, 0 or more."""

    def prompt_tokens(self, estimated: float) -> float:
        """The model's own tokens for a prompt of `estimated` tokens."""
        return self.prompt_ratio * estimated


@dataclass(frozen=True)
class CostModel:
    """The costs a policy was calibrated with, one entry for every model of the bundle.

    They are part of the policy: a later change of price changes what a call is charged, not which model is
    chosen, because the certificate speaks of the choices as they were calibrated.
    """

    models: tuple[ModelCost, ...]
    unit_nanousd: float
    """Mean cost of a call of the reference model, above 0: what λ is measured against."""

    def relative(self, prompt: NDArray[np.float64], completion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cost of each model in units, (n, M), from estimated prompt tokens (n,) and answers (n, M)."""
        read, written = self._rates
        return np.asarray(prompt[:, None] * read + completion * written)

    def relative_one(self, prompt: float, completion: Sequence[float]) -> list[float]:
        """As `relative` for one query, in plain numbers."""
        return [read * prompt + write * tokens
                for (read, write), tokens in zip(self._plain_rates, completion, strict=True)]  # fmt: skip

    @cached_property
    def _plain_rates(self) -> list[tuple[float, float]]:
        read, written = self._rates
        return list(zip(read.tolist(), written.tolist(), strict=True))

    @cached_property
    def _rates(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Units per token of `estimate_tokens`, and per token written, (M,) each."""
        read = [m.prompt_ratio * m.price.input_nanousd for m in self.models]
        written = [m.price.output_nanousd for m in self.models]
        scale = _TOKENS_PER_PRICE * self.unit_nanousd
        return np.array(read, dtype=np.float64) / scale, np.array(written, dtype=np.float64) / scale


def expected_cost(cost: ModelCost | None, price: Price, prompt_tokens: int, completion: float | None) -> int:
    """Expected cost of one call at today's `price`; `prompt_tokens` as `estimate_tokens` counts.

    A model the bundle does not know (`cost` None) is taken to read the estimate and to write nothing.
    """
    if cost is None:
        return call_cost(price, prompt_tokens, 0)
    answer = cost.mean_completion if completion is None else completion
    return call_cost(price, round(cost.prompt_tokens(prompt_tokens)), round(answer))


def mean_costs(prices: Sequence[Price], usage: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean nano-dollars per request, (G,), of usage (G, M, 2): prompt and completion tokens of M models."""
    rates = np.array([(price.input_nanousd, price.output_nanousd) for price in prices], dtype=np.float64)
    return np.asarray((usage * rates).sum(axis=(1, 2)) / _TOKENS_PER_PRICE)
