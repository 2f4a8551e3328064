"""From outcomes to a certified bundle.

The queries are split once, by text, into three parts that never meet:
    train        the network, the cost model, which neighbourhoods are familiar
    calibration  the calibrators, the policy's caution, the out-of-distribution limit, the usage
                 behind budgets
    threshold    the certificates, and nothing else
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from headgate.router import bundle as bundles
from headgate.router import calibrate, certify, features
from headgate.router.bundle import Bundle, Contents, Estimates
from headgate.router.calibrate import Calibrator
from headgate.router.cost import CostModel, ModelCost
from headgate.router.features import CONTEXT_BUCKETS, Familiarity
from headgate.router.model import Heads, UncertaintyModel
from headgate.router.offline.datasets import DataError, Listed, Outcomes
from headgate.router.offline.export import export
from headgate.router.offline.train import Progress, Recipe, train
from headgate.router.policy import GRID, Policy
from headgate.router.types import Certificate

SHARES = {"train": 0.55, "calibration": 0.15, "threshold": 0.30}
_CAUTIONS = (0.0, 0.5, 1.0, 2.0)
_RELUCTANCE = 0.5
_FAMILIAR_QUERIES = 3
"""A neighbourhood is familiar if this many training queries have it; fewer may be chance."""
_OUTSIDE_SHARE = 0.001
"""Share of calibration queries that may lie outside the limit."""
_LONGER_PROMPTS = 1.25
_BATCH = 512

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the maker of a bundle chooses; the rest follows from data."""

    reference: str
    listed: Mapping[str, Listed]
    created: float
    """POSIX seconds, written into the certificates."""
    recipe: Recipe = field(default_factory=Recipe)
    calibrator: calibrate.Kind = "platt"
    risk_target: float = 0.05
    """The bundle's default risk target."""
    delta: float = 0.05
    levels: tuple[float, ...] = certify.LEVELS
    window: int = 300
    """Requests over which a certificate can be checked; fewer would cost more of the saving."""
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """The three parts of the outcomes."""

    train: Outcomes
    calibration: Outcomes
    threshold: Outcomes


def build(parts: Parts, plan: Plan, progress: Progress = lambda done, total, loss: None) -> Contents:
    """A bundle's contents with every certificate that the threshold part supports.

    DataError if a model has no price or the reference is not among the models.
    """
    costs = _costs(parts.train, plan)
    network = train(parts.train, plan.recipe, progress)
    graph, golden = export(network)
    heads = _heads(UncertaintyModel(graph, len(parts.train.models)), parts.calibration)
    contents = Contents(
        graph=graph,
        calibrators=_calibrators(heads, parts.calibration, plan.calibrator),
        costs=costs,
        familiarity=_familiarity(parts.train),
        policy=_first_policy(parts.train, plan),
        golden=golden,
        notes=_notes(parts, plan),
    )
    contents = replace(contents, policy=_fitted_policy(contents, parts.calibration, plan))
    return replace(contents, certificates=certificates(loaded(contents), parts.threshold, plan))


def loaded(contents: Contents) -> Bundle:
    """The bundle as a gateway would load it."""
    return bundles.load(bundles.dump(contents))


def estimates(bundle: Bundle, outcomes: Outcomes) -> Estimates:
    """The bundle's estimates for all queries of a table."""
    found = []
    for start in range(0, len(outcomes), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = features.pack(outcomes.features[rows])
        found.append(bundle.estimate(batch, outcomes.estimated_tokens[rows]))
    names = ("p_correct", "spread", "completion_tokens", "relative_cost", "out_of_distribution")
    return Estimates(*(np.concatenate([getattr(one, name) for one in found]) for name in names))


def choices(policy: Policy, expected: Estimates) -> NDArray[np.intp]:
    """Index of the chosen model for every query and every λ of the grid, (n, G)."""
    chosen = [
        policy.choose(expected.p_correct, expected.spread, expected.relative_cost, lam) for lam in policy.grid
    ]
    return np.stack(chosen, axis=1)


def regrets(policy: Policy, chosen: NDArray[np.intp], score: _Array) -> NDArray[np.bool_]:
    """Where the chosen model's answer was worse than the reference's, of the shape of `chosen` (n, G)."""
    got = np.take_along_axis(score, chosen, axis=1)
    return np.asarray(got < score[:, policy.reference_index, None])


def covered(policy: Policy, expected: Estimates) -> NDArray[np.bool_]:
    """Which queries lie inside the out-of-distribution limit, (n,)."""
    return np.asarray(expected.out_of_distribution <= policy.max_out_of_distribution)


def certificates(bundle: Bundle, threshold: Outcomes, plan: Plan) -> tuple[Certificate, ...]:
    """One certificate for each level that the threshold part supports."""
    policy, expected = bundle.policy, estimates(bundle, threshold)
    inside = covered(policy, expected)
    regret = regrets(policy, choices(policy, expected), threshold.score)[inside]
    versions = tuple(_versioned(name, plan.listed[name]) for name in policy.models)
    return tuple(
        Certificate(
            id=f"regret-{found.level:g}-{bundle.policy_version[:6]}-{threshold.fingerprint[:6]}",
            loss="regret",
            risk_target=found.level,
            confidence=1 - plan.delta,
            lam=policy.grid[found.index],
            n=found.n,
            data_fingerprint=threshold.fingerprint,
            created=plan.created,
            reference=policy.reference,
            expires=plan.expires,
            models=versions,
            window=plan.window,
            settings={**_settings(threshold), "max_out_of_distribution": policy.max_out_of_distribution},
        )
        for found in certify.fixed_sequence(regret, plan.levels, plan.delta, plan.window)
    )


def _settings(threshold: Outcomes) -> dict[str, float]:
    """Greedy single turns no longer than the data's, with room for every answer that was worth something."""
    answers = threshold.completion_tokens[(threshold.score > 0) & ~np.isnan(threshold.completion_tokens)]
    return {
        "max_temperature": 0.0,
        "max_prompt_tokens": float(np.ceil(threshold.estimated_tokens.max() * _LONGER_PROMPTS)),
        "max_system_bytes": 0.0,
        "max_history_turns": 0.0,
        "min_max_tokens": float(answers.max(initial=0.0)),
    }


def _versioned(name: str, listed: Listed) -> str:
    return f"{name}@{listed.version}" if listed.version else name


def _costs(train_part: Outcomes, plan: Plan) -> CostModel:
    if plan.reference not in train_part.models:
        raise DataError(
            f"the reference {plan.reference!r} is not among the models {', '.join(train_part.models)}"
        )
    unpriced = [name for name in train_part.models if name not in plan.listed]
    if unpriced:
        raise DataError(f"the price table has no model {unpriced[0]!r}; add it or leave it out with --models")
    models = tuple(_model_cost(train_part, m, plan) for m in range(len(train_part.models)))
    reference = models[train_part.models.index(plan.reference)]
    unit = CostModel((reference,), 1.0).relative(
        np.array([train_part.estimated_tokens.mean()]), np.array([[reference.mean_completion]])
    )
    return CostModel(models, max(float(unit[0, 0]), 1e-9))


def _model_cost(train_part: Outcomes, m: int, plan: Plan) -> ModelCost:
    prompt, answer = train_part.prompt_tokens[:, m], train_part.completion_tokens[:, m]
    known = ~np.isnan(prompt)
    ratio = float(prompt[known].sum() / train_part.estimated_tokens[known].sum()) if known.any() else 1.0
    mean = float(np.nanmean(answer)) if not np.isnan(answer).all() else plan.recipe.default_answer_tokens
    return ModelCost(plan.listed[train_part.models[m]].price, ratio, mean)


def _heads(model: UncertaintyModel, part: Outcomes) -> Heads:
    runs = [model.run(features.pack(part.features[i : i + _BATCH])) for i in range(0, len(part), _BATCH)]
    return Heads(np.concatenate([run.logits for run in runs]), np.concatenate([run.tokens for run in runs]))


def _calibrators(heads: Heads, part: Outcomes, kind: calibrate.Kind) -> tuple[Calibrator, ...]:
    logits = heads.logits.mean(axis=1)
    return tuple(calibrate.fit(kind, logits[:, m], part.score[:, m]) for m in range(logits.shape[1]))


def _familiarity(train_part: Outcomes) -> Familiarity:
    counts = np.zeros(CONTEXT_BUCKETS, dtype=np.int64)
    for one in train_part.features:
        counts[np.unique(one.contexts)] += 1
    return Familiarity(np.packbits(counts >= _FAMILIAR_QUERIES))


def _first_policy(train_part: Outcomes, plan: Plan) -> Policy:
    usage = np.zeros((len(GRID), len(train_part.models), 2))
    return Policy(train_part.models, plan.reference, 0.0, _RELUCTANCE, GRID, usage, 1.0, plan.risk_target)


def _fitted_policy(contents: Contents, calibration: Outcomes, plan: Plan) -> Policy:
    """Out-of-distribution limit, caution and usage, from the calibration part."""
    expected = estimates(loaded(contents), calibration)
    limit = float(np.quantile(expected.out_of_distribution, 1 - _OUTSIDE_SHARE, method="higher"))
    policy = replace(contents.policy, max_out_of_distribution=limit)
    options = [replace(policy, caution=caution) for caution in _CAUTIONS]
    policy = min(options, key=lambda option: _cost_at_target(option, expected, calibration, plan.risk_target))
    return replace(policy, usage=_usage(policy, expected, calibration, contents.costs))


def _cost_at_target(policy: Policy, expected: Estimates, part: Outcomes, target: float) -> float:
    """Mean relative cost at the largest λ whose regret on `part` is within the target."""
    chosen = choices(policy, expected)
    within = regrets(policy, chosen, part.score).mean(axis=0) <= target
    index = max(int(np.argmin(within)) - 1, 0) if not within.all() else len(within) - 1
    return float(np.take_along_axis(expected.relative_cost, chosen[:, index, None], axis=1).mean())


def _usage(policy: Policy, expected: Estimates, part: Outcomes, costs: CostModel) -> _Array:
    """(G, M, 2) mean tokens read and written by each model per request, at every λ."""
    ratios = np.array([model.prompt_ratio for model in costs.models])
    read = part.estimated_tokens[:, None] * ratios
    tokens = np.stack((read, expected.completion_tokens), axis=2)
    chosen = choices(policy, expected)
    takes = chosen[:, :, None] == np.arange(len(policy.models))
    return np.asarray(np.einsum("ngm,nmk->gmk", takes.astype(np.float64), tokens) / len(part))


def _notes(parts: Parts, plan: Plan) -> dict[str, object]:
    sizes = {
        "train": len(parts.train),
        "calibration": len(parts.calibration),
        "threshold": len(parts.threshold),
    }
    return {
        "seed": plan.recipe.seed,
        "epochs": plan.recipe.epochs,
        "queries": sizes,
        "fingerprints": {name: getattr(parts, name).fingerprint for name in sizes},
    }
