"""How good a bundle's policy is on queries that nothing of it has seen.

Always beside the simplest rivals: each model alone, a random mix of equal cost, and the oracle that knows
every score and takes the cheapest of the best. Costs are the data's tokens at the bundle's prices,
estimates where it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router import certify
from headgate.router.bundle import Bundle, Estimates
from headgate.router.calibrate import brier, expected_calibration_error
from headgate.router.offline.build import estimates
from headgate.router.offline.certify import covered
from headgate.router.offline.courses import Courses, Readings, courses, one_course, readings, regrets
from headgate.router.offline.curve import Interval, apgr, auc
from headgate.router.offline.datasets import Outcomes

_DRAWS = 500
_Array = NDArray[np.float64]
_Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Row:
    """One way to choose. `cost` is relative to always using the reference; `share` of each model."""

    name: str
    quality: Interval
    cost: float
    share: tuple[float, ...]
    regret: float | None = None
    above_random: Interval | None = None
    """Quality minus that of a random mix of equal cost."""
    pgr: Interval | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """A level over re-drawn certification data: how often it was certified, how often it held."""

    level: float
    seeds: int
    certified: int
    held: int
    mean_regret: float
    mean_cost: float


@dataclass(frozen=True, slots=True)
class Estimation:
    """How well one model's p_correct does."""

    model: str
    accuracy: float
    auc: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that a report shows."""

    n: int
    models: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    apgr: Interval
    estimation: tuple[Estimation, ...]
    holds: tuple[Hold, ...]
    uncovered: float


@dataclass(frozen=True, slots=True)
class _Case:
    """A bundle's estimates for a table and what each answer cost, relative to the mean reference call."""

    bundle: Bundle
    score: _Array
    cost: _Array
    expected: Estimates
    readings: Readings
    inside: NDArray[np.bool_]

    @property
    def reference(self) -> int:
        return self.bundle.policy.reference_index

    def chosen(self, lam: float) -> tuple[_Rows, NDArray[np.bool_]]:
        """Who answers every query, the reference where no certificate reaches; whose drafts are
        wasted."""
        answered, wasted = one_course(self.bundle.policy, self.expected, self.readings, lam)
        return np.where(self.inside, answered, self.reference), wasted & self.inside[:, None]


def evaluate(bundle: Bundle, outcomes: Outcomes, seed: int, redrawn: int = 50) -> Evaluation:
    """Frontier, estimation and hold rates on `outcomes`, whose models must be the bundle's, in any order.

    `redrawn` is the number of re-drawn certification sets for the hold rates.
    """
    case = _case(bundle, outcomes)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(outcomes), (_DRAWS, len(outcomes)))
    levels = [(f"Headgate, risk target {c.risk_target:g}", c.lam) for c in bundle.certificates]
    rows = [*_baselines(case, draws), *(_policy_row(name, case, lam, draws) for name, lam in levels)]
    return Evaluation(
        n=len(outcomes),
        models=bundle.models,
        reference=bundle.policy.reference,
        rows=tuple(rows),
        apgr=_interval(_apgr_of(case), draws),
        estimation=tuple(_estimation(case, m) for m in range(len(bundle.models))),
        holds=hold_rates(case, rng, redrawn),
        uncovered=1 - float(case.inside.mean()),
    )


def _case(bundle: Bundle, outcomes: Outcomes) -> _Case:
    outcomes = outcomes.with_models(bundle.models)
    expected = estimates(bundle, outcomes)
    read, written = outcomes.prompt_tokens, outcomes.completion_tokens
    ratios = np.array([model.prompt_ratio for model in bundle.costs.models])
    read = np.where(np.isnan(read), outcomes.estimated_tokens[:, None] * ratios, read)
    written = np.where(np.isnan(written), expected.completion_tokens, written)
    prices = [(m.price.input_nanousd, m.price.output_nanousd) for m in bundle.costs.models]
    price_in, price_out = np.array(prices, dtype=np.float64).T
    cost = read * price_in + written * price_out
    cost /= cost[:, bundle.policy.reference_index].mean()
    found = readings(bundle, outcomes, expected)
    return _Case(bundle, outcomes.score, cost, expected, found, covered(bundle.policy, expected))


def _baselines(case: _Case, draws: _Rows) -> list[Row]:
    n = len(case.score)
    rows = [_row(f"always {name}", case, np.full(n, m), draws) for m, name in enumerate(case.bundle.models)]
    best = case.score >= case.score.max(axis=1, keepdims=True)
    rows.append(_row("oracle", case, np.where(best, case.cost, np.inf).argmin(axis=1), draws))
    return rows


def _row(name: str, case: _Case, chosen: _Rows, draws: _Rows) -> Row:
    quality = _pick(case.score, chosen)
    share = tuple(float((chosen == m).mean()) for m in range(case.score.shape[1]))
    return Row(
        name, _interval(lambda rows: float(quality[rows].mean()), draws), _mean(case.cost, chosen), share
    )


def _policy_row(name: str, case: _Case, lam: float, draws: _Rows) -> Row:
    chosen, wasted = case.chosen(lam)
    plain = _row(name, case, chosen, draws)
    spent = Courses(chosen[:, None], wasted[:, None]).cost(case.cost)[:, 0]
    regret = regrets(case.bundle.policy, chosen[:, None], case.score).mean()

    def above(rows: _Rows) -> float:
        mixed = _random_mix(
            case.score[rows].mean(axis=0), case.cost[rows].mean(axis=0), float(spent[rows].mean())
        )
        return float(_pick(case.score[rows], chosen[rows]).mean() - mixed)

    def recovered(rows: _Rows) -> float:
        return _pgr(case.score[rows], _pick(case.score[rows], chosen[rows]).mean(), case.reference)

    return Row(name, plain.quality, float(spent.mean()), plain.share, float(regret),
               _interval(above, draws), _interval(recovered, draws))  # fmt: skip


def _random_mix(quality: _Array, cost: _Array, spend: float) -> float:
    """Best quality of a random mix of two models (M,) with mean cost `spend`."""
    best = max(
        (q for q, c in zip(quality, cost, strict=True) if c <= spend), default=float(quality[cost.argmin()])
    )
    for a in range(len(cost)):
        for b in range(len(cost)):
            if cost[a] <= spend < cost[b]:
                weight = (spend - cost[a]) / (cost[b] - cost[a])
                best = max(best, (1 - weight) * quality[a] + weight * quality[b])
    return float(best)


def _pgr(score: _Array, quality: float, reference: int) -> float:
    """Share of the gap between the worst model and the reference that is recovered."""
    means = score.mean(axis=0)
    gap = means[reference] - means.min()
    return float((quality - means.min()) / gap) if gap > 0 else float("nan")


def _apgr_of(case: _Case) -> Callable[[_Rows], float]:
    """Mean PGR over shares of reference calls from 0 to 1, choosing by the gain that the bundle expects."""
    p = case.expected.p_correct
    others = np.delete(np.arange(p.shape[1]), case.reference)
    rival = others[p[:, others].argmax(axis=1)]
    gain = p[:, case.reference] - _pick(p, rival)

    pair = np.stack((_pick(case.score, rival), case.score[:, case.reference]), axis=1)
    return lambda rows: apgr(gain[rows], pair[rows])


def _estimation(case: _Case, m: int) -> Estimation:
    p, score = case.expected.p_correct[:, m], case.score[:, m]
    return Estimation(
        case.bundle.models[m],
        float(score.mean()),
        auc(p, score >= 0.5),
        brier(p, score),
        expected_calibration_error(p, score),
    )


def hold_rates(case: _Case, rng: np.random.Generator, seeds: int, delta: float = 0.05) -> tuple[Hold, ...]:
    """Certify on queries drawn anew from these, `seeds` times, and hold each λ against a fresh window.

    The queries are the population: certification draws as many as the bundle was certified on, the traffic
    that follows draws one window (all of them where the certificates have none), both with replacement.
    """
    policy = case.bundle.policy
    taken = courses(policy, case.expected, case.readings)
    inside = np.flatnonzero(case.inside)
    regret = regrets(policy, taken.answered, case.score)[inside]
    truth, cost = regret.mean(axis=0), taken.cost(case.cost)[inside].mean(axis=0)
    n = max((c.n for c in case.bundle.certificates), default=len(inside))
    window = max((c.window for c in case.bundle.certificates), default=0)
    seen: dict[float, list[int]] = {level: [] for level in certify.LEVELS}
    broken = dict.fromkeys(certify.LEVELS, 0)
    for _ in range(seeds):
        labels = regret[rng.integers(0, len(inside), n)]
        traffic = regret[rng.integers(0, len(inside), window)].mean(axis=0) if window else truth
        for found in certify.fixed_sequence(labels, certify.LEVELS, delta, window):
            seen[found.level].append(found.index)
            broken[found.level] += int(traffic[found.index] > found.level)
    return tuple(
        Hold(
            level=level,
            seeds=seeds,
            certified=len(indices),
            held=seeds - broken[level],
            mean_regret=_mean_of(truth[indices]),
            mean_cost=_mean_of(cost[indices]),
        )
        for level, indices in seen.items()
    )


def _mean_of(values: _Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _pick(table: _Array, chosen: _Rows) -> _Array:
    return np.asarray(np.take_along_axis(table, chosen[:, None], axis=1)[:, 0])


def _mean(table: _Array, chosen: _Rows) -> float:
    return float(_pick(table, chosen).mean())


def _interval(statistic: Callable[[_Rows], float], draws: _Rows) -> Interval:
    values = np.array([statistic(rows) for rows in draws])
    known = values[~np.isnan(values)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return Interval(statistic(np.arange(draws.shape[1])), float(low), float(high))
