"""From the logits of one position to a token and its log probabilities.

Tokens are drawn by adding noise to the scores and taking the best: Gumbel's way, an exact draw of the
softmax. The noise hangs on the seed and the position alone, so the answer of a seed is the same however it
was made: alone, among others, or with a draft model, which may try the same noise on its own scores.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import torch
from torch import Tensor

from headgate.worker.backends.base import Alternative, GenerationRequest, Sampling, Token

TextOf = Callable[[int], str]


class Dice:
    """The noise of one answer; `seed` None is a fresh one."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self._seed = secrets.randbits(64) if seed is None else seed
        self._generator = torch.Generator(device)

    def noise(self, place: int, size: int) -> Tensor:
        """Gumbel noise (size,) of position `place`; the same whenever it is asked for, on the same device."""
        # A seed of torch's CPU generator has 32 bits.
        mixed = hashlib.blake2b(f"{self._seed}:{place}".encode(), digest_size=4).digest()
        self._generator.manual_seed(int.from_bytes(mixed, "little"))
        drawn = torch.empty(size, device=self._generator.device)
        return -drawn.exponential_(generator=self._generator).log()


def scores(logits: Tensor, sampling: Sampling, dice: Dice, place: int) -> Tensor:
    """Scores (vocabulary,) whose best is the token drawn of logits (vocabulary,) at position `place`."""
    logits = logits.float()
    if sampling.temperature == 0:
        return logits
    tempered = (logits - logits.max()) / sampling.temperature
    if sampling.top_p < 1:
        tempered = _nucleus(tempered, sampling.top_p)
    return tempered + dice.noise(place, len(logits))


def _nucleus(tempered: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens whose shares reach `top_p`; -inf for the others."""
    shares, order = tempered.softmax(-1).sort(descending=True, stable=True)
    cut = shares.cumsum(-1) - shares >= top_p
    cut[0] = False
    return tempered.masked_fill(torch.zeros_like(cut).scatter(0, order, cut), -torch.inf)


def token(logits: Tensor, token_id: int, request: GenerationRequest, text_of: TextOf) -> Token:
    """A drawn token with what the request wants to know; logits (vocabulary,) are the model's own."""
    if not request.logprobs:
        return Token(token_id, 0.0)
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    best = logprobs.topk(min(request.top_logprobs, len(logprobs)))
    alternatives = tuple(
        Alternative(other, min(0.0, logprob), text_of(other))
        for other, logprob in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
    return Token(token_id, min(0.0, float(logprobs[token_id])), alternatives)
