"""From the logits of one position to a token and its log probabilities."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from headgate.worker.backends.base import Alternative, GenerationRequest, Sampling, Token

TextOf = Callable[[int], str]


def draw(logits: Tensor, sampling: Sampling, chance: float) -> int:
    """The token id that `chance` in [0, 1) falls on, of logits (vocabulary,); temperature 0 is greedy."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    shares = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    order = None
    if sampling.top_p < 1:
        shares, order = shares.sort(descending=True, stable=True)
        shares = shares.masked_fill(shares.cumsum(-1) - shares >= sampling.top_p, 0.0)
    edges = shares.cumsum(-1)
    # Rounding must not reach the tokens without a share behind the last one that has any.
    last = torch.searchsorted(edges, edges[-1:])
    place = torch.minimum(torch.searchsorted(edges, chance * edges[-1:], right=True), last)
    return int(place if order is None else order[place])


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
