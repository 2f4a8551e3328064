"""Sequences that share forward passes, each with its part of one key-value cache.

A row is padded on the left up to the longest; the mask hides the padding and positions are counted without
it, so that a sequence reads the same alone and among others, but for the rounding of floating-point sums.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from headgate.worker.backends.hf.checkpoint import cache_argument

_LENGTH_BOUND_ROPES = frozenset({"dynamic", "longrope"})
"""These turn positions by the longest sequence of a pass: a row would depend on its neighbours."""

_ROUNDING = 0.2
"""Of the spread of the logits: far above what a short data type rounds, far below what a lost cache does."""


class Lanes:
    """One or more sequences of one model. A new one is a prompt alone; `join` brings lanes together."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = transformers.DynamicCache(config=model.config)
        self._cache_argument = cache_argument(model)
        self._takes = inspect.signature(model.forward).parameters
        self._mask = torch.ones((1, 0), dtype=torch.long, device=model.device)
        self._padded = False

    def read(self, prompt: Sequence[int]) -> Tensor:
        """Reads a prompt into fresh lanes; float logits (1, vocabulary) of what follows."""
        return self._forward(torch.tensor([list(prompt)], device=self._model.device))

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Appends a token to each sequence; float logits (sequences, vocabulary) of what follows."""
        return self._forward(torch.tensor(tokens, device=self._model.device)[:, None])

    @torch.inference_mode()
    def _forward(self, ids: Tensor) -> Tensor:
        self._mask = torch.cat([self._mask, torch.ones_like(ids)], dim=1)
        arguments: dict[str, Any] = {self._cache_argument: self._cache, "use_cache": True}
        if "position_ids" in self._takes:
            arguments["position_ids"] = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._takes:
            arguments["logits_to_keep"] = 1
        if self._padded:
            arguments["attention_mask"] = self._mask
        logits: Tensor = self._model(ids, **arguments).logits
        return logits[:, -1].float()

    def can_join(self) -> bool:
        """Whether sequences of this model may share passes; told from lanes that have read something.

        Not where the cache is more than keys and values of every position (sliding windows, recurrent
        states), nor where positions cannot be given or hang on the longest row.
        """
        config = self._model.config.get_text_config()
        rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        plain = all(type(layer) is DynamicLayer and layer.is_initialized for layer in self._cache.layers)
        return (
            plain
            and bool(self._cache.layers)
            and "position_ids" in self._takes
            and rope not in _LENGTH_BOUND_ROPES
        )

    @torch.inference_mode()
    def join(self, other: Lanes) -> None:
        """Takes the sequences of `other` in, behind its own; `other` is of no use then."""
        length = max(self._mask.shape[1], other._mask.shape[1])
        self._padded = self._padded or other._padded or self._mask.shape[1] != other._mask.shape[1]
        self._mask = torch.cat([_longer(lanes._mask, length, dim=1) for lanes in (self, other)])
        for ours, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            ours.keys = torch.cat([_longer(layer.keys, length, dim=2) for layer in (ours, theirs)])
            ours.values = torch.cat([_longer(layer.values, length, dim=2) for layer in (ours, theirs)])

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only the sequences at these indices, without the padding that none of them needs."""
        chosen = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[chosen]
        spare = int((mask.cumsum(1) == 0).sum(1).min())
        self._mask = mask[:, spare:]
        self._padded = not bool(self._mask.all())
        for layer in self._cache.layers:
            layer.keys = layer.keys[chosen, :, spare:]
            layer.values = layer.values[chosen, :, spare:]


def works(model: Any) -> bool:
    """Whether a text read at once and one read with a step say the same: a lost cache shows."""
    ids = list(range(min(6, model.config.get_text_config().vocab_size)))
    stepwise, whole = Lanes(model), Lanes(model).read(ids)
    step = stepwise.read(ids[:1])
    for token_id in ids[1:]:
        step = stepwise.step([token_id])
    return bool((step - whole).abs().max() <= _ROUNDING * whole.std())


def _longer(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Padded with zeros at the front of `dim`; keys and values are (sequences, heads, positions, width)."""
    missing = length - tensor.shape[dim]
    behind = tensor.ndim - 1 - dim
    return pad(tensor, (0, 0) * behind + (missing, 0)) if missing else tensor
