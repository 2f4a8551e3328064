"""From outcomes to a bundle without a certificate.

What a calibrator or a policy is fitted on must not have trained the model. So the model is trained several
times, each time without one fold of the question stems, and what it says of that fold stands for what it will
say of new queries; the served model is trained on all of them. Certificates come from other queries still:
see `certify`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from headgate.router import bundle as bundles
from headgate.router import calibrate, features
from headgate.router.bundle import Bundle, Contents, Estimates
from headgate.router.cost import CostModel, ModelCost
from headgate.router.features import CONTEXT_BUCKETS, Familiarity
from headgate.router.model import Heads, UncertaintyModel
from headgate.router.offline import datasets
from headgate.router.offline.courses import Readings, courses, regrets
from headgate.router.offline.datasets import DataError, Listed, Outcomes
from headgate.router.offline.difficulty import Difficulty
from headgate.router.offline.graph import export
from headgate.router.offline.readers import Window, learn
from headgate.router.offline.train import Progress, Recipe, train
from headgate.router.policy import GRID, Policy

FOLDS = 5
"""Of the question stems, in which the model is trained without what it is judged on."""
_CAUTIONS = (0.0, 0.5, 1.0, 2.0)
_AS_CHEAP = 0.01
"""Of a reference call: a difference in cost that is noise."""
_RELUCTANCE = 0.5
_FAMILIAR_QUERIES = 3
"""A neighbourhood is familiar if this many training queries have it; fewer may be chance."""
_SURFACE_NOISE = 0.05
"""Variance that a surface number has even where the training data had none."""
_OUTSIDE_SHARE = 0.005
"""Share of queries that may lie outside the out-of-distribution limit."""
_BATCH = 512
_LEAST_UNIT = 1e-9

_Array = NDArray[np.float64]
Sharing = Callable[..., Difficulty | None]
"""(*folds) → difficulty that knows nothing of these folds of the queries' stems."""


def nothing_shared(*folds: int) -> None:
    """For outcomes that stand alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the maker of a bundle chooses; the rest follows from data."""

    reference: str
    listed: Mapping[str, Listed]
    recipe: Recipe = field(default_factory=Recipe)
    calibrator: calibrate.Kind = "beta"
    risk_target: float = 0.05
    """The bundle's default risk target."""
    hold_backs: tuple[int, ...] = ()
    """Tokens that drafts are held back for, where that is asked, beside whole drafts and none; each above
    0."""


def build(
    outcomes: Outcomes,
    plan: Plan,
    sharing: Sharing = nothing_shared,
    progress: Progress = lambda doing: None,
) -> Contents:
    """A bundle's contents; no certificate is among them. `sharing` tells what other models' outcomes say.

    DataError if a model has no price or the reference is not among the models.
    """
    costs = _costs(outcomes, plan)
    folds = datasets.folds(outcomes, plan.recipe.seed, FOLDS)
    heads, strange = _cross_fitted(outcomes, plan, folds, sharing, progress)
    calibrators = calibrate.fit_all(plan.calibrator, heads.logits, outcomes.score)
    expected = Estimates.of(heads, calibrators, costs, outcomes.estimated_tokens, strange)
    asked = (plan.reference, plan.recipe, plan.calibrator, folds, expected, plan.hold_backs)
    learnt = learn(outcomes, *asked, progress)
    policy, *shorter = [_policy(expected, window, outcomes, costs, plan) for window in learnt.windows]
    progress("training on all queries")
    graph, golden = export(train(outcomes, plan.recipe, sharing(), folds))
    return Contents(
        graph=graph,
        calibrators=calibrators,
        costs=costs,
        familiarity=_familiarity(outcomes),
        policy=policy,
        golden=golden,
        readers=learnt.readers,
        shorter=tuple(shorter),
        notes={
            "seed": plan.recipe.seed,
            "queries": len(outcomes),
            "fingerprint": outcomes.fingerprint,
        },
    )


def loaded(contents: Contents) -> Bundle:
    """The bundle as a gateway would load it."""
    return bundles.load(bundles.dump(contents))


def estimates(bundle: Bundle, outcomes: Outcomes) -> Estimates:
    """The bundle's estimates for all queries of a table."""
    found = [
        bundle.estimate(features.pack(outcomes.features[rows]), outcomes.estimated_tokens[rows])
        for rows in _batches(outcomes)
    ]
    return Estimates.joined(found)


def _cross_fitted(
    outcomes: Outcomes, plan: Plan, folds: NDArray[np.intp], sharing: Sharing, progress: Progress
) -> tuple[Heads, _Array]:
    """What models that have not seen a query say of it, and how unlike their data it is (n,)."""
    n, m = outcomes.score.shape
    heads, strange = Heads(*np.empty((3, n, m))), np.empty(n)
    for fold in np.unique(folds).tolist():
        progress(f"training without fold {fold + 1} of {FOLDS}")
        kept, rows = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        rest = outcomes.take(kept)
        graph, _ = export(train(rest, plan.recipe, sharing(fold), folds[kept]))
        told = read(UncertaintyModel(graph, m), outcomes.take(rows))
        heads.logits[rows], heads.deviation[rows], heads.tokens[rows] = (
            told.logits,
            told.deviation,
            told.tokens,
        )
        known = _familiarity(rest)
        strange[rows] = known.out_of_distribution_all(features.pack([outcomes.features[row] for row in rows]))
    return heads, strange


def read(model: UncertaintyModel, outcomes: Outcomes) -> Heads:
    """The model's raw output for all queries of a table."""
    runs = [model.run(features.pack(outcomes.features[rows])) for rows in _batches(outcomes)]
    names = ("logits", "deviation", "tokens")
    return Heads(*(np.concatenate([getattr(run, name) for run in runs]) for name in names))


def _batches(outcomes: Outcomes) -> Sequence[slice]:
    return [slice(start, start + _BATCH) for start in range(0, len(outcomes), _BATCH)]


def _familiarity(outcomes: Outcomes) -> Familiarity:
    counts = np.zeros(CONTEXT_BUCKETS, dtype=np.int64)
    for one in outcomes.features:
        counts[np.unique(one.contexts)] += 1
    surface = np.stack([one.surface for one in outcomes.features]).astype(np.float64)
    covariance = np.cov(surface.T, bias=True) + _SURFACE_NOISE * np.eye(surface.shape[1])
    whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T
    bits, centre = np.packbits(counts >= _FAMILIAR_QUERIES), surface.mean(axis=0)
    return Familiarity(bits, centre.astype(np.float32), whitening.astype(np.float32))


def _costs(outcomes: Outcomes, plan: Plan) -> CostModel:
    if plan.reference not in outcomes.models:
        raise datasets.unknown("the table of outcomes", "model", plan.reference, outcomes.models)
    unpriced = [name for name in outcomes.models if name not in plan.listed]
    if unpriced:
        raise DataError(f"the price table has no model {unpriced[0]!r}; add it or leave it out with --models")
    models = tuple(_model_cost(outcomes, m, plan) for m in range(len(outcomes.models)))
    reference = models[outcomes.models.index(plan.reference)]
    unit = CostModel((reference,), 1.0).relative(
        np.array([outcomes.estimated_tokens.mean()]), np.array([[reference.mean_completion]])
    )
    return CostModel(models, max(float(unit[0, 0]), _LEAST_UNIT))


def _model_cost(outcomes: Outcomes, m: int, plan: Plan) -> ModelCost:
    prompt, answer = outcomes.prompt_tokens[:, m], outcomes.completion_tokens[:, m]
    known = ~np.isnan(prompt)
    ratio = float(prompt[known].sum() / outcomes.estimated_tokens[known].sum()) if known.any() else 1.0
    mean = float(np.nanmean(answer)) if not np.isnan(answer).all() else plan.recipe.default_answer_tokens
    return ModelCost(plan.listed[outcomes.models[m]].price, ratio, mean)


def _policy(expected: Estimates, window: Window, outcomes: Outcomes, costs: CostModel, plan: Plan) -> Policy:
    """Out-of-distribution limit, caution and usage."""
    readings = window.readings
    limit = float(np.quantile(expected.out_of_distribution, 1 - _OUTSIDE_SHARE, method="higher"))
    usage = np.zeros((len(GRID), len(outcomes.models), 2))
    policy = Policy(
        models=outcomes.models,
        reference=plan.reference,
        caution=0.0,
        reluctance=_RELUCTANCE,
        grid=GRID,
        usage=usage,
        max_out_of_distribution=limit,
        default_risk_target=plan.risk_target,
        resolution=window.resolution,
        hold_back=window.hold_back,
    )
    options = [replace(policy, caution=caution) for caution in _CAUTIONS]
    policy = _best([(option, *_at_target(option, expected, readings, outcomes)) for option in options])
    return replace(policy, usage=_usage(policy, expected, readings, outcomes, costs))


def _best(options: Sequence[tuple[Policy, float, float]]) -> Policy:
    """The best of (policy, cost, quality) among those that are as cheap as the cheapest."""
    least = min(cost for _, cost, _ in options)
    return max((one for one in options if one[1] <= least + _AS_CHEAP), key=lambda one: one[2])[0]


def _at_target(
    policy: Policy, expected: Estimates, readings: Readings, outcomes: Outcomes
) -> tuple[float, float]:
    """Mean relative cost and quality at the largest λ before regret is above the default risk target."""
    taken = courses(policy, expected, readings)
    within = regrets(policy, taken.answered, outcomes.score).mean(axis=0) <= policy.default_risk_target
    index = max(int(np.argmin(within)) - 1, 0) if not within.all() else len(within) - 1
    quality = np.take_along_axis(outcomes.score, taken.answered[:, index, None], axis=1).mean()
    return float(taken.cost(expected.relative_cost)[:, index].mean()), float(quality)


def _usage(
    policy: Policy, expected: Estimates, readings: Readings, outcomes: Outcomes, costs: CostModel
) -> _Array:
    """(G, M, 2) mean tokens read and written by each model per request, at every λ.

    Those that were written, where the table says: an expected answer is the likeliest length, and the
    mean is longer.
    """
    ratios = np.array([model.prompt_ratio for model in costs.models])
    prompts, written = outcomes.estimated_tokens[:, None] * ratios, outcomes.completion_tokens
    tokens = np.stack((prompts, np.where(np.isnan(written), expected.completion_tokens, written)), axis=2)
    taken, every = courses(policy, expected, readings), np.arange(len(policy.models))
    takes = (taken.answered[:, :, None] == every) | taken.wasted
    return np.asarray(np.einsum("ngm,nmk->gmk", takes.astype(np.float64), tokens) / len(outcomes))
