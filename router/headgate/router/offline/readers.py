"""Readers, learnt from recorded drafts: one for whole drafts, one for drafts that are still being written.

Both are stacked on what models without a query's fold said of it (Wolpert 1992), as a served one is on
what it has not seen either. What is told of them here, for calibrators and the policy, is told by readers
that were trained without the draft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from headgate.router import calibrate
from headgate.router.bundle import Estimates
from headgate.router.evidence import Evidence
from headgate.router.model import Heads, UncertaintyModel
from headgate.router.offline import drafts
from headgate.router.offline.courses import Readings
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.graph import Weights, export
from headgate.router.offline.train import Progress, Recipe, train_reader
from headgate.router.reader import ReaderContents, Reading, pack
from headgate.router.types import WHOLE

_BATCH = 512
_LEAST_UNIT = 1e-9
_CUTS = (0.1, 0.95)
"""Least and largest part of a draft that is shown of it while it is being written."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """What is told of drafts that are held back for so many tokens.

    `resolution` is the policy's; it and `readings` are empty where no draft is read.
    """

    hold_back: int
    readings: Readings
    resolution: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """Readers, and a window for every hold-back, from the longest on; one and no reader where no drafts are
    recorded."""

    readers: tuple[ReaderContents, ...]
    windows: tuple[Window, ...]


def learn(
    outcomes: Outcomes,
    reference: str,
    recipe: Recipe,
    calibrator: calibrate.Kind,
    folds: NDArray[np.intp],
    expected: Estimates,
    hold_backs: Sequence[int],
    progress: Progress,
) -> Learnt:
    """Two readers of every model but the reference whose drafts are recorded.

    The windows are that of whole drafts, `hold_backs`, and that of none.
    """
    reading = [one for one in outcomes.models if one in outcomes.drafts and one != reference]
    if not reading:
        return Learnt((), (Window(WHOLE, {}, ()),))
    lengths = sorted({WHOLE, *hold_backs}, reverse=True)
    found: list[ReaderContents] = []
    told: dict[int, dict[int, Reading]] = {tokens: {} for tokens in lengths}
    resolution = {tokens: [0.0] * len(outcomes.models) for tokens in lengths}
    for name in reading:
        progress(f"learning from drafts of {name}")
        index, logprobs = outcomes.models.index(name), drafts.have_logprobs(outcomes, name)
        gap = (outcomes.models.index(reference), index)
        stack = _Stack(outcomes, drafts.seen(outcomes, name, logprobs), expected, index, recipe)
        lines, [whole] = stack.told(folds, calibrator)
        found.append(stack.contents(name, lines, logprobs, None))
        beginning = replace(stack, seen=_anywhere(outcomes, name, logprobs, recipe.seed))
        at_ends = [_at(outcomes, name, logprobs, tokens) for tokens in lengths[1:]]
        lines, [early, *ends] = beginning.told(folds, calibrator, *at_ends)
        left = _told_more(early.p_correct, whole.p_correct, *gap)
        found.append(beginning.contents(name, lines, logprobs, left))
        written = np.array([one.tokens for one in outcomes.drafts[name]])
        for tokens, end in zip(lengths, [whole, *ends], strict=True):
            told[tokens][index] = Reading.where(written >= tokens, end, whole)
            shown = told[tokens][index].p_correct
            resolution[tokens][index] = _told_more(expected.p_correct, shown, *gap)
    windows = [Window(tokens, told[tokens], tuple(resolution[tokens])) for tokens in lengths]
    return Learnt(tuple(found), (*windows, Window(0, {}, ())))


def _told_more(before: _Array, after: _Array, reference: int, index: int) -> float:
    """Standard deviation of the change of the reference's gain, in units of √(p (1 - p)) of the draft
    model."""
    change = (after - before)[:, reference] - (after - before)[:, index]
    unit = float(np.mean(before[:, index] * (1 - before[:, index])))
    return min(1.0, float(change.std()) / math.sqrt(max(unit, _LEAST_UNIT)))


def _anywhere(outcomes: Outcomes, name: str, logprobs: bool, seed: int) -> list[Evidence]:
    """Of every draft a beginning, whose length is drawn."""
    parts = np.random.default_rng(seed).uniform(*_CUTS, len(outcomes))
    whole = np.array([one.tokens for one in outcomes.drafts[name]])
    tokens = np.maximum(1, (parts * whole).astype(np.intp))
    return drafts.seen(drafts.begun(outcomes, name, tokens), name, logprobs)


def _at(outcomes: Outcomes, name: str, logprobs: bool, tokens: int) -> list[Evidence]:
    """Of every draft what is written after so many tokens."""
    begun = drafts.begun(outcomes, name, np.full(len(outcomes), tokens))
    return drafts.seen(begun, name, logprobs)


@dataclass(frozen=True)
class _Stack:
    """Drafts of the model at `index`, as far as they are `seen`, on what was expected of their queries."""

    outcomes: Outcomes
    seen: Sequence[Evidence]
    expected: Estimates
    index: int
    recipe: Recipe

    def told(
        self, folds: NDArray[np.intp], calibrator: calibrate.Kind, *others: Sequence[Evidence]
    ) -> tuple[tuple[calibrate.Calibrator, ...], list[Reading]]:
        """Calibrators, and what readers say that were trained without a draft's fold: of what is seen, and
        of `others` in its place."""
        found = self._cross_fitted(folds, (self.seen, *others))
        lines = calibrate.fit_all(calibrator, found[0].logits, self.outcomes.score)
        return lines, [_calibrated(lines, heads) for heads in found]

    def contents(
        self, name: str, lines: tuple[calibrate.Calibrator, ...], logprobs: bool, left: float | None
    ) -> ReaderContents:
        """The reader that is served, trained on all drafts."""
        graph, golden = export(self._trained(np.arange(len(self.outcomes))))
        return ReaderContents(name, graph, lines, golden, logprobs, left)

    def _trained(self, rows: NDArray[np.intp]) -> Weights:
        seen = [self.seen[row] for row in rows.tolist()]
        return train_reader(self.outcomes.take(rows), seen, *self._known(rows), self.recipe)

    def _cross_fitted(self, folds: NDArray[np.intp], shown: Sequence[Sequence[Evidence]]) -> list[Heads]:
        n, m = self.outcomes.score.shape
        found = [Heads(*np.empty((3, n, m))) for _ in shown]
        for fold in np.unique(folds).tolist():
            graph, _ = export(self._trained(np.flatnonzero(folds != fold)))
            rows, model = np.flatnonzero(folds == fold), UncertaintyModel(graph, m)
            for part in np.array_split(rows, -(-len(rows) // _BATCH)):
                for heads, seen in zip(found, shown, strict=True):
                    told = model.run(pack([seen[row] for row in part.tolist()], *self._known(part)))
                    heads.logits[part], heads.deviation[part] = told.logits, told.deviation
        return found

    def _known(self, rows: NDArray[np.intp]) -> tuple[_Array, _Array]:
        return self.expected.logits[rows], self.expected.completion_tokens[rows, self.index]


def _calibrated(lines: tuple[calibrate.Calibrator, ...], heads: Heads) -> Reading:
    p_correct = calibrate.apply_all(lines, heads.logits)
    return Reading(p_correct, calibrate.spreads(lines, heads.logits, heads.deviation, p_correct))
