"""Training of the uncertainty model: one flat seeded loop in torch.

What is read is shared (a table of n-gram embeddings and the surface numbers); what is concluded is not:
each head sees its own bootstrap of the queries and adds frozen random units (a random prior) to its own, so
that heads agree where labels decide and differ where they do not. One more head learns the expected length
of the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from headgate.router.features import BUCKETS, SURFACE
from headgate.router.offline.datasets import Outcomes

Progress = Callable[[int, int, float], None]
"""Told (steps done, steps in all, loss) about twenty times."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that training may vary; the defaults were chosen on worksheets and on MMLU."""

    seed: int = 0
    heads: int = 5
    columns: int = 24
    """Width of an n-gram embedding."""
    units: int = 48
    """Trained hidden units of each head."""
    prior_units: int = 16
    """Frozen hidden units of each head."""
    epochs: float = 10.0
    """Passes over the queries; many more make it sure of what it has memorised."""
    least_steps: int = 300
    """Fewer leave it underfitted, however few the queries."""
    batch: int = 256
    rate: float = 4e-3
    decay: float = 0.02
    dropout: float = 0.4
    """Share of n-grams hidden in each step."""
    default_answer_tokens: float = 256.0
    """Expected length of an answer where the data has no token counts."""

    def steps(self, n: int) -> int:
        """Steps of a training on n queries."""
        return max(self.least_steps, round(self.epochs * n / self.batch))


class Network(nn.Module):
    """(ngrams, surface) → heads (n, H + 1, M): H rows of logits, one row of log tokens."""

    mean: Tensor
    std: Tensor
    prior_in: Tensor
    prior_out: Tensor

    def __init__(self, recipe: Recipe, models: int, surface: Tensor) -> None:
        """`surface` (n, S) of the training queries gives the scale of the inputs."""
        super().__init__()
        blocks, width = recipe.heads + 1, recipe.columns + len(SURFACE)
        self.table = nn.Parameter(torch.randn(BUCKETS, recipe.columns) * 0.1)
        self.hidden = nn.Parameter(torch.randn(width, blocks, recipe.units) * width**-0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(blocks, recipe.units))
        self.out = nn.Parameter(torch.zeros(blocks, recipe.units, models))
        self.out_bias = nn.Parameter(torch.zeros(blocks, models))
        prior_out = torch.randn(blocks, recipe.prior_units, models) * (0.5 * recipe.prior_units**-0.5)
        prior_out[-1] = 0.0  # lengths need no spread
        self.register_buffer("prior_in", torch.randn(width, blocks, recipe.prior_units) * width**-0.5)
        self.register_buffer("prior_out", prior_out)
        self.register_buffer("mean", surface.mean(0))
        self.register_buffer("std", surface.std(0).clamp_min(0.1))

    def forward(self, ngrams: Tensor, offsets: Tensor, surface: Tensor) -> Tensor:
        """`ngrams` of all queries in a row, where each query begins in `offsets` (n,), `surface` (n, S)."""
        bag = functional.embedding_bag(ngrams, self.table, offsets, mode="mean")
        read = torch.cat((bag, (surface - self.mean) / self.std), dim=1)
        units = torch.cat((self.hidden, self.prior_in), dim=2)
        bias = torch.cat((self.hidden_bias, torch.zeros_like(self.prior_in[0])), dim=1)
        active = functional.relu(torch.einsum("ni,ihu->nhu", read, units) + bias)
        return (
            torch.einsum("nhu,hum->nhm", active, torch.cat((self.out, self.prior_out), dim=1)) + self.out_bias
        )


@dataclass(frozen=True, slots=True)
class _Labels:
    score: Tensor
    """(n, M) in [0, 1]"""
    tokens: Tensor
    """(n, M), 0 where unknown"""
    known: Tensor
    """(n, M) 1 where tokens are known"""
    weight: Tensor
    """(n, H) how often each head's bootstrap drew the query"""


def train(outcomes: Outcomes, recipe: Recipe, progress: Progress = lambda done, total, loss: None) -> Network:
    """A network fitted to the outcomes; the same for the same data, recipe and machine."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    steps = recipe.steps(len(outcomes))
    surface = torch.from_numpy(np.stack([one.surface for one in outcomes.features]))
    labels = _labels(outcomes, recipe, rng)
    network = Network(recipe, len(outcomes.models), surface)
    _set_biases(network, labels, recipe)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.rate, betas=(0.9, 0.98), weight_decay=recipe.decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, pct_start=0.1)
    rows = _batches(len(outcomes), recipe, rng)
    for step in range(steps):
        picked = next(rows)
        ngrams, offsets = _bags([outcomes.features[row].ngrams for row in picked], recipe.dropout, rng)
        heads = network(ngrams, offsets, surface[picked])
        loss = _loss(heads, labels, torch.from_numpy(picked))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            progress(step + 1, steps, float(loss.detach()))
    return network.eval()


def _labels(outcomes: Outcomes, recipe: Recipe, rng: np.random.Generator) -> _Labels:
    known = ~np.isnan(outcomes.completion_tokens)
    weight = rng.poisson(1.0, (len(outcomes), recipe.heads))
    arrays = outcomes.score, np.nan_to_num(outcomes.completion_tokens), known, weight
    return _Labels(*(torch.from_numpy(array.astype(np.float32)) for array in arrays))


def _set_biases(network: Network, labels: _Labels, recipe: Recipe) -> None:
    """Start at the base rates; where no length is known, the default stays for good."""
    rate = labels.score.mean(0).clamp(0.02, 0.98)
    known = labels.known.sum(0)
    mean = torch.where(known > 0, labels.tokens.sum(0) / known.clamp_min(1), recipe.default_answer_tokens)
    with torch.no_grad():
        network.out_bias[:-1] = torch.logit(rate)
        network.out_bias[-1] = mean.clamp_min(0.1).log()


def _batches(n: int, recipe: Recipe, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """Rows of one batch after another, every query once before any comes again."""
    while True:
        order = rng.permutation(n)
        for start in range(0, n, recipe.batch):
            yield order[start : start + recipe.batch]


def _bags(ngrams: list[NDArray[np.int32]], dropout: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    kept = [one[rng.random(len(one)) >= dropout] for one in ngrams]
    offsets = np.cumsum([0, *(len(one) for one in kept[:-1])])
    return torch.from_numpy(np.concatenate(kept)), torch.from_numpy(offsets.astype(np.int32))


def _loss(heads: Tensor, labels: _Labels, rows: Tensor) -> Tensor:
    """Bootstrap-weighted log loss of the heads plus Poisson loss of the lengths, which fits their mean."""
    score, weight = labels.score[rows], labels.weight[rows]
    logits, log_tokens = heads[:, :-1], heads[:, -1].clamp(max=12.0)
    target = score[:, None].expand_as(logits)
    answers = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(2)
    tokens, known = labels.tokens[rows], labels.known[rows]
    lengths = (log_tokens.exp() - tokens * log_tokens) / (1.0 + tokens.mean())
    return (answers * weight).mean() + 0.1 * (lengths * known).mean()
