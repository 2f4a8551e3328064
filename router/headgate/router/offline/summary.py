"""What is shown of a recipe and its rivals: one flat object of numbers, ready for JSON and for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router import certify, decide
from headgate.router.bundle import Bundle, Estimates
from headgate.router.calibrate import brier, expected_calibration_error
from headgate.router.offline import curve
from headgate.router.offline.courses import courses, regrets
from headgate.router.offline.crossval import Told
from headgate.router.offline.datasets import Outcomes
from headgate.router.policy import Policy
from headgate.router.types import Model, Objective, Pool, Price, Query

CERTIFIED_N = (200, 500, 2000)
CERTIFIED_LEVELS = (0.02, 0.05, 0.10)
DELTA = 0.10
DRAWS = 500
_POINTS = 51
_TIMED = 400
_WARM = 50

_Array = NDArray[np.float64]


def pair(told: Told, seed: int) -> dict[str, Any]:
    """Of two models, small and large in this order. `auc`, `ece` and `brier` are of "small is right"."""
    score = told.outcomes.score
    rivals = {name: _of(p, score) for name, p in told.rivals.items()}
    gain = _gain(told.expected.p_correct)
    apgr = curve.interval(lambda rows: curve.apgr(gain[rows], score[rows]), len(score), seed)
    return {
        "n": len(score),
        "labels": told.labels,
        "quality": {"small": float(score[:, 0].mean()), "large": float(score[:, 1].mean())},
        **_of(told.expected.p_correct, score),
        "apgr_ci95": [apgr.low, apgr.high],
        "brier": brier(told.expected.p_correct[:, 0], score[:, 0]),
        "baselines": rivals,
        "apgr_above": {name: _above(gain, _gain(p), score, seed) for name, p in told.rivals.items()},
        "oracle": _oracle(score),
    }


def drafts(told: Told, seed: int, draft_cost: float) -> dict[str, Any]:
    """What reading the small model's recorded drafts adds, of two models.

    `above` is the difference of APGR over shares of large calls, where every query has a draft and none is
    paid for; `priced` counts drafts, each at `draft_cost` of a large call, against routing that pays only for
    whom it asks.
    """
    score, reading = told.outcomes.score, told.readings[0]
    before, after = _gain(told.expected.p_correct), _gain(reading.p_correct)
    return {
        "with_drafts": _with_interval(reading.p_correct, score, seed),
        "query_only": _with_interval(told.expected.p_correct, score, seed),
        "above": _above(after, before, score, seed),
        "priced": {
            "draft_cost": draft_cost,
            "with_drafts": _priced(after, score, 0.0, draft_cost),
            "query_only": _priced(before, score, draft_cost, 0.0),
        },
    }


def _with_interval(p: _Array, score: _Array, seed: int) -> dict[str, Any]:
    gain = _gain(p)
    apgr = curve.interval(lambda rows: curve.apgr(gain[rows], score[rows]), len(score), seed)
    return {**_of(p, score), "apgr_ci95": [apgr.low, apgr.high], "brier": brier(p[:, 0], score[:, 0])}


def _priced(gain: _Array, score: _Array, kept: float, every: float) -> dict[str, Any]:
    """Quality over cost in large calls: `kept` for a query that stays small, `every` for all of them.

    `cost50` and `cost80` are the least costs at which that part of the gap is recovered; None where it never
    is.
    """
    pgr = curve.recovered(gain, score)
    shares = np.arange(len(pgr)) / (len(pgr) - 1)
    cost = shares + kept * (1 - shares) + every
    quality = score[:, 0].mean() + pgr * (score[:, 1].mean() - score[:, 0].mean())
    points = np.unique(np.linspace(0, len(pgr) - 1, _POINTS).round().astype(int))
    reached = {f"cost{part}": np.flatnonzero(pgr >= part / 100) for part in (50, 80)}
    return {
        **{name: float(cost[rows[0]]) if len(rows) else None for name, rows in reached.items()},
        "curve": [[float(cost[one]), float(quality[one])] for one in points],
    }


def _of(p: _Array, score: _Array) -> dict[str, float]:
    gain = _gain(p)
    return {
        "apgr": curve.apgr(gain, score),
        "cpt50": curve.cpt(gain, score, 0.5),
        "cpt80": curve.cpt(gain, score, 0.8),
        "auc": curve.auc(p[:, 0], score[:, 0] >= 0.5),
        "ece": expected_calibration_error(p[:, 0], score[:, 0]),
    }


def _gain(p: _Array) -> _Array:
    return np.asarray(p[:, 1] - p[:, 0])


def _above(ours: _Array, theirs: _Array, score: _Array, seed: int) -> list[float]:
    """Difference of APGR with its 95 % interval, the same queries drawn for both."""
    found = curve.interval(
        lambda rows: curve.apgr(ours[rows], score[rows]) - curve.apgr(theirs[rows], score[rows]),
        len(score), seed,
    )  # fmt: skip
    return [found.value, found.low, found.high]


def _oracle(score: _Array) -> dict[str, float]:
    """Whoever sees the outcomes, luck included: large only where it alone is better."""
    gain = score[:, 1] - score[:, 0]
    return {
        "quality": float(score.max(axis=1).mean()),
        "large_share": float((gain > 0).mean()),
        "apgr": curve.apgr(gain, score),
        "cpt50": curve.cpt(gain, score, 0.5),
        "cpt80": curve.cpt(gain, score, 0.8),
    }


def certificates(told: Told, policy: Policy, seed: int, draws: int = DRAWS) -> list[dict[str, float]]:
    """Certificates on `draws` calibration sets drawn anew from the told queries, whose regret is the truth.

    `violation_share` of the draws have a true regret above α, with standard error `se`; `cheap_share` is the
    mean share that leaves the reference, `best_share` the largest that any threshold on the same score could
    reach in hindsight.
    """
    expected = _cost_of_a_call(told.expected)
    chosen = courses(policy, expected, told.readings).answered
    regret = regrets(policy, chosen, told.outcomes.score)
    cheap = (chosen != policy.reference_index).mean(axis=0)
    rng = np.random.default_rng(seed)
    return [
        _cell(regret, cheap, n, alpha, rng, draws, _best_share(policy, expected, told.outcomes, alpha))
        for n in CERTIFIED_N
        for alpha in CERTIFIED_LEVELS
    ]


def _cost_of_a_call(expected: Estimates) -> Estimates:
    """The same cost for every query: calls are counted here, and most data does not say what one costs."""
    mean = expected.relative_cost.mean(axis=0)
    return replace(expected, relative_cost=np.broadcast_to(mean, expected.relative_cost.shape))


def _cell(
    regret: NDArray[np.bool_],
    cheap: _Array,
    n: int,
    alpha: float,
    rng: np.random.Generator,
    draws: int,
    best: float,
) -> dict[str, float]:
    truth, shares, violated = regret.mean(axis=0), [], 0
    for _ in range(draws):
        found = certify.fixed_sequence(regret[rng.integers(0, len(regret), n)], (alpha,), DELTA)
        shares.append(cheap[found[0].index] if found else 0.0)
        violated += bool(found) and bool(truth[found[0].index] > alpha)
    share = violated / draws
    return {
        "n": n,
        "alpha": alpha,
        "delta": DELTA,
        "violation_share": share,
        "se": float(np.sqrt(DELTA * (1 - DELTA) / draws)),
        "cheap_share": float(np.mean(shares)),
        "best_share": best,
    }


def _best_share(policy: Policy, expected: Estimates, outcomes: Outcomes, alpha: float) -> float:
    """Largest share that may leave the reference, in the order of its value, with a regret of at most α."""
    values = policy.values(expected.p_correct, expected.spread, np.zeros_like(expected.p_correct), 1.0)
    reference = policy.reference_index
    others = np.delete(np.arange(values.shape[1]), reference)
    rival = others[values[:, others].argmax(axis=1)]
    rows = np.arange(len(values))
    order = np.argsort(values[:, reference] - values[rows, rival], kind="stable")
    worse = outcomes.score[rows, rival] < outcomes.score[:, reference]
    within = np.flatnonzero(np.cumsum(worse[order]) / len(order) <= alpha)
    return float((within[-1] + 1) / len(order)) if len(within) else 0.0


def decision_us(bundle: Bundle, texts: Sequence[str]) -> dict[str, float]:
    """Microseconds of a whole decision on these texts, one after the other, in this process."""
    pool = Pool(tuple(Model(name, Price(1, 1)) for name in bundle.models), bundle.policy.reference)
    queries = [Query(text, Objective(risk_target=0.5)) for text in texts[:_TIMED]]
    for query in queries[:_WARM]:
        decide.decide(bundle, query, pool, now=0.0)
    taken = []
    for query in queries:
        began = perf_counter_ns()
        decide.decide(bundle, query, pool, now=0.0)
        taken.append((perf_counter_ns() - began) / 1000)
    return {"p50": float(np.quantile(taken, 0.5)), "p99": float(np.quantile(taken, 0.99))}
