"""The recipe and its rivals on queries that they have not seen: every fold is told by models of the others.

Question stems stay together, in every source alike, so that no question is on both sides; what other models'
outcomes say (`difficulty`) is fitted without the fold too. Nothing is tuned on a fold that is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.bundle import Estimates
from headgate.router.offline import build, courses, datasets
from headgate.router.offline.baselines import rivals
from headgate.router.offline.build import Plan, Sharing, nothing_shared
from headgate.router.offline.courses import Readings
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.offline.train import Progress
from headgate.router.reader import Reading

_Array = NDArray[np.float64]
_Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Told:
    """What was said of the queries of a table by models that had not seen them."""

    outcomes: Outcomes
    """The queries that were told."""
    expected: Estimates
    """By the shipped recipe."""
    rivals: Mapping[str, _Array]
    """p_correct (n, M) by every rival."""
    labels: int
    """Labelled queries that a model was trained on, least over the folds."""
    readings: Readings = field(default_factory=dict)
    """What their recorded drafts say, by models that had not seen those either."""


def cross_validate(
    outcomes: Outcomes,
    plan: Plan,
    folds: int,
    labels: int | None = None,
    sharing: Sharing = nothing_shared,
    progress: Progress = lambda doing: None,
) -> Told:
    """Every query told by the other folds, of which at most `labels` queries are used, drawn by seed."""
    fold = datasets.folds(outcomes, plan.recipe.seed, folds)
    found = []
    for number in range(folds):
        progress(f"fold {number + 1} of {folds}")
        train, test = (outcomes.take(np.flatnonzero(mask)) for mask in (fold != number, fold == number))
        if not len(train) or not len(test):
            raise DataError(f"{len(set(outcomes.stems))} different questions are too few for {folds} folds")
        found.append(tell(capped(train, labels, plan), test, plan, lambda *f, n=number: sharing(n, *f)))
    return _joined(found)


def tell(train: Outcomes, test: Outcomes, plan: Plan, sharing: Sharing = nothing_shared) -> Told:
    """The queries of `test` told by models of `train`."""
    bundle = build.loaded(build.build(train, plan, sharing))
    by_rival = {name: rival(train, test) for name, rival in rivals(plan.recipe.seed).items()}
    expected = build.estimates(bundle, test)
    return Told(test, expected, by_rival, len(train), courses.readings(bundle, test, expected))


def capped(train: Outcomes, labels: int | None, plan: Plan) -> Outcomes:
    """At most `labels` of the queries, drawn with the plan's seed."""
    if labels is None or labels >= len(train):
        return train
    drawn = np.random.default_rng(plan.recipe.seed).permutation(len(train))[:labels]
    return train.take(np.sort(drawn))


def _joined(parts: Sequence[Told]) -> Told:
    texts, arrays = ("ids", "texts", "subjects"), ("score", "prompt_tokens", "completion_tokens")
    joined: dict[str, Any] = {
        name: tuple(chain.from_iterable(getattr(part.outcomes, name) for part in parts)) for name in texts
    }
    joined |= {name: np.concatenate([getattr(part.outcomes, name) for part in parts]) for name in arrays}
    expected = Estimates.joined([part.expected for part in parts])
    by_rival = {name: np.concatenate([part.rivals[name] for part in parts]) for name in parts[0].rivals}
    joined["drafts"] = {
        model: tuple(chain.from_iterable(part.outcomes.drafts[model] for part in parts))
        for model in parts[0].outcomes.drafts
    }
    readings = {
        index: Reading.joined([part.readings[index] for part in parts]) for index in parts[0].readings
    }
    labels = min(part.labels for part in parts)
    return Told(replace(parts[0].outcomes, **joined), expected, by_rival, labels, readings)
