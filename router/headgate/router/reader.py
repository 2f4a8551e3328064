"""A reader says, from a draft, who is right: of every model of the pool, the draft's own included.

It predicts that, and not how confident the draft is: a draft may be doubtful and the dearer model no
better (Jitkrittum et al., arXiv 2307.02764, NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from headgate.router.calibrate import Calibrator, apply_all, sigmoid, spreads
from headgate.router.evidence import Evidence
from headgate.router.features import Batch
from headgate.router.model import Golden, UncertaintyModel

_Array = NDArray[np.float64]
_OF_BOTH = 0.8
"""Of what two drafts add: drafts that are independent given who is right would have 1. Fitted on none of
a bundle's data (docs/reference/ideas.md)."""
_LEAST = 1e-6
"""A probability that log-odds are still taken of."""


@dataclass(frozen=True, slots=True)
class ReaderContents:
    """What was trained on drafts of one model.

    The graph is that of an uncertainty model. In the place of a surface it reads `evidence.NUMBERS`, then
    what the query alone had said: M logits, and the logarithm of the draft's expected tokens.
    """

    model: str
    graph: bytes
    calibrators: tuple[Calibrator, ...]
    """In the order of the policy's models."""
    golden: Golden
    logprobs: bool
    """Whether it was trained with the tokens' log-probabilities, and therefore needs them."""
    left: float | None = None
    """None of a reader of whole drafts. One of drafts that are still being written has in it how much more
    the rest tells: as the policy's `resolution`, from what is written to the whole draft."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What n drafts say of M models: `p_correct` and its `spread`, (n, M) each."""

    p_correct: _Array
    spread: _Array

    def take(self, rows: NDArray[np.intp]) -> Reading:
        """The given rows, in that order."""
        return Reading(self.p_correct[rows], self.spread[rows])

    @classmethod
    def joined(cls, parts: Sequence[Reading]) -> Reading:
        """Those of all parts, in their order."""
        return cls(
            np.concatenate([one.p_correct for one in parts]), np.concatenate([one.spread for one in parts])
        )

    @classmethod
    def where(cls, rows: NDArray[np.bool_], these: Reading, those: Reading) -> Reading:
        """`these` in the marked rows (n,), `those` in the others."""
        return cls(
            np.where(rows[:, None], these.p_correct, those.p_correct),
            np.where(rows[:, None], these.spread, those.spread),
        )


def both(before: _Array, one: Reading, other: Reading) -> Reading:
    """What two drafts say together, of n queries whose p_correct was `before` (n, M).

    What each adds to the log-odds adds up, less what both are likely to say; the larger spread counts.
    """
    known, *said = (_logit(p) for p in (before, one.p_correct, other.p_correct))
    added = sum(each - known for each in said)
    return Reading(sigmoid(known + _OF_BOTH * added), np.maximum(one.spread, other.spread))


class Reader:
    """A loaded reader."""

    def __init__(self, contents: ReaderContents, model: UncertaintyModel) -> None:
        self.contents = contents
        self._model = model

    def read(self, seen: Sequence[Evidence], logits: _Array, tokens: _Array) -> Reading:
        """At n drafts; `logits` (n, M) and the draft's expected `tokens` (n,) are the query's.

        EstimateError if the model fails.
        """
        heads = self._model.run(pack(seen, logits, tokens))
        p_correct = apply_all(self.contents.calibrators, heads.logits)
        return Reading(
            p_correct, spreads(self.contents.calibrators, heads.logits, heads.deviation, p_correct)
        )

    def read_one(
        self, seen: Evidence, logits: Sequence[float], tokens: float
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """As `read` for one draft, in plain numbers: p_correct and spread of every model."""
        numbers = np.concatenate((seen.numbers, logits, (log(tokens),))).astype(np.float32)
        found, deviation, _ = self._model.run_one(Batch(seen.ngrams[None], numbers[None], ()))
        p_correct, spread = zip(
            *map(Calibrator.one, self.contents.calibrators, found, deviation), strict=True
        )
        return p_correct, spread


def _logit(p: _Array) -> _Array:
    known = np.clip(p, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(known / (1 - known)))


def pack(seen: Sequence[Evidence], logits: _Array, tokens: _Array) -> Batch:
    """What the graph reads."""
    ngrams = np.zeros((len(seen), max(len(one.ngrams) for one in seen)), dtype=np.int32)
    for row, one in zip(ngrams, seen, strict=True):
        row[: len(one.ngrams)] = one.ngrams
    numbers = np.column_stack((np.stack([one.numbers for one in seen]), logits, np.log(tokens)))
    return Batch(ngrams, numbers.astype(np.float32), ())
