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
from headgate.router.types import Draft

_BATCH = 512
_LEAST_UNIT = 1e-9
_CUTS = (0.1, 0.95)
"""Least and largest part of a draft that is shown of it while it is being written."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Learnt:
    """`resolution` is the policy's; both are empty where no drafts are recorded."""

    readers: tuple[ReaderContents, ...]
    readings: Readings
    """Of whole drafts."""
    resolution: tuple[float, ...]


def learn(
    outcomes: Outcomes,
    reference: str,
    recipe: Recipe,
    calibrator: calibrate.Kind,
    folds: NDArray[np.intp],
    expected: Estimates,
    progress: Progress,
) -> Learnt:
    """Two readers of every model but the reference whose drafts are recorded."""
    found, readings, resolution = [], dict[int, Reading](), [0.0] * len(outcomes.models)
    for name in (one for one in outcomes.models if one in outcomes.drafts and one != reference):
        progress(f"learning from drafts of {name}")
        index, logprobs = outcomes.models.index(name), drafts.have_logprobs(outcomes, name)
        stack = _Stack(outcomes, drafts.seen(outcomes, name, logprobs), expected, index, recipe)
        lines, whole = stack.told(folds, calibrator)
        found.append(stack.contents(name, lines, logprobs, None))
        gap = (outcomes.models.index(reference), index)
        readings[index], resolution[index] = whole, _told_more(expected.p_correct, whole.p_correct, *gap)
        beginning = replace(stack, seen=_begun(outcomes, name, logprobs, recipe.seed))
        lines, early = beginning.told(folds, calibrator)
        left = _told_more(early.p_correct, whole.p_correct, *gap)
        found.append(beginning.contents(name, lines, logprobs, left))
    return Learnt(tuple(found), readings, tuple(resolution) if readings else ())


def _told_more(before: _Array, after: _Array, reference: int, index: int) -> float:
    """Standard deviation of the change of the reference's gain, in units of √(p (1 - p)) of the draft
    model."""
    change = (after - before)[:, reference] - (after - before)[:, index]
    unit = float(np.mean(before[:, index] * (1 - before[:, index])))
    return min(1.0, float(change.std()) / math.sqrt(max(unit, _LEAST_UNIT)))


def _begun(outcomes: Outcomes, name: str, logprobs: bool, seed: int) -> list[Evidence]:
    """Of every draft a beginning, whose length is drawn."""
    parts = np.random.default_rng(seed).uniform(*_CUTS, len(outcomes))
    beginnings = [begun(*one) for one in zip(outcomes.drafts[name], parts.tolist(), strict=True)]
    return drafts.seen(replace(outcomes, drafts={name: tuple(beginnings)}), name, logprobs)


def begun(draft: Draft, part: float) -> Draft:
    """The draft when so large a part of its tokens was written."""
    tokens = max(1, int(draft.tokens * part))
    chars = math.ceil(len(draft.text) * tokens / max(draft.tokens, 1))
    return replace(
        draft, text=draft.text[:chars], finished=False, tokens=tokens, logprobs=draft.logprobs[:tokens]
    )


@dataclass(frozen=True)
class _Stack:
    """Drafts of the model at `index`, as far as they are `seen`, on what was expected of their queries."""

    outcomes: Outcomes
    seen: Sequence[Evidence]
    expected: Estimates
    index: int
    recipe: Recipe

    def told(
        self, folds: NDArray[np.intp], calibrator: calibrate.Kind
    ) -> tuple[tuple[calibrate.Calibrator, ...], Reading]:
        """What readers say that were trained without a draft's fold, and their calibrators."""
        heads = self._cross_fitted(folds)
        lines = calibrate.fit_all(calibrator, heads.logits, self.outcomes.score)
        p_correct = calibrate.apply_all(lines, heads.logits)
        return lines, Reading(p_correct, calibrate.spreads(lines, heads.logits, heads.deviation, p_correct))

    def contents(
        self, name: str, lines: tuple[calibrate.Calibrator, ...], logprobs: bool, left: float | None
    ) -> ReaderContents:
        """The reader that is served, trained on all drafts."""
        graph, golden = export(self._trained(np.arange(len(self.outcomes))))
        return ReaderContents(name, graph, lines, golden, logprobs, left)

    def _trained(self, rows: NDArray[np.intp]) -> Weights:
        seen = [self.seen[row] for row in rows.tolist()]
        return train_reader(self.outcomes.take(rows), seen, *self._known(rows), self.recipe)

    def _cross_fitted(self, folds: NDArray[np.intp]) -> Heads:
        n, m = self.outcomes.score.shape
        heads = Heads(*np.empty((3, n, m)))
        for fold in np.unique(folds).tolist():
            graph, _ = export(self._trained(np.flatnonzero(folds != fold)))
            rows, model = np.flatnonzero(folds == fold), UncertaintyModel(graph, m)
            for part in np.array_split(rows, -(-len(rows) // _BATCH)):
                told = model.run(pack([self.seen[row] for row in part.tolist()], *self._known(part)))
                heads.logits[part], heads.deviation[part] = told.logits, told.deviation
        return heads

    def _known(self, rows: NDArray[np.intp]) -> tuple[_Array, _Array]:
        return self.expected.logits[rows], self.expected.completion_tokens[rows, self.index]
