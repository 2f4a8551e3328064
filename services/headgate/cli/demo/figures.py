"""Qualities, intervals, costs and baselines: pure arithmetic over an Exercise.

The baselines, with q a mean quality and c a mean cost over the same worksheets:

    always m      every worksheet answered by m
    random mix    the dearest model with probability w, else the cheapest, with w such that the mix costs what
                  Headgate costs: w = (c_headgate − c_cheapest) / (c_dearest − c_cheapest), within [0, 1];
                  its expected quality is (1 − w)·q_cheapest + w·q_dearest
    oracle        the cheapest model that is right, and the cheapest of all where none is
    PGR           (q_headgate − q_cheapest) / (q_dearest − q_cheapest)

Cheapest and dearest are those of the pinned runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.cli.demo.exercise import ROUTED, Exercise, Marked
from headgate.client import Certificate

Interval = tuple[float, float]
_Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""
RESAMPLES = 2_000
NAMES = {"routing": "routing only", "cascade": "cascade", ROUTED: "Headgate"}
"""Of the policies, for people."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way of answering all worksheets."""

    name: str
    quality: float
    ci95: Interval
    cost_nanousd: int
    """Of all worksheets together."""
    shares: dict[str, float]
    latency_ms: tuple[float, float] | None = None
    """p50 and p99; None for what was not run but computed."""


@dataclass(frozen=True, slots=True)
class Promise:
    """The certificate, and the loss it speaks of, measured on these worksheets."""

    certificate: Certificate | None
    covered: int
    loss: float | None
    """Over the covered requests; None when there are none."""
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything the report prints."""

    queries: int
    failures: dict[str, int]
    seed: int
    cheapest: str
    dearest: str
    always: dict[str, Row]
    random_mix: Row
    mix_weight: float
    policies: dict[str, Row]
    """Routing alone, a cascade, and one with early stop, as far as they were run."""
    oracle: Row
    models: dict[str, tuple[float, float | None]]
    """Share of the answers by each model, and their quality; None where it gave none."""
    pgr: float | None
    gain_over_mix: tuple[float, Interval]
    """Paired difference in quality, Headgate minus random mix, with its bootstrap interval."""
    loss_to_dearest: tuple[float, Interval]
    """Paired difference in quality, Headgate minus always the dearest, with its bootstrap interval."""
    latency_ms: tuple[float, float]
    overhead_ms: tuple[float, float]
    wasted_tokens: dict[str, int]
    """Of drafts that were not accepted, under each policy."""
    cache_hits: int
    """Routed or pinned answers that were not generated; the demo's stack has no cache, so 0."""
    promise: Promise

    @property
    def headgate(self) -> Row:
        """The policy that is in force by default."""
        return self.policies[ROUTED]


def compute(exercise: Exercise, seed: int) -> Figures:
    """The figures of an exercise with at least one worksheet; the bootstrap draws from `seed`."""
    always = {model: _always(model, marks) for model, marks in exercise.pinned.items()}
    order = sorted(always, key=lambda model: always[model].cost_nanousd)
    cheapest, dearest = order[0], order[-1]
    runs = {**exercise.others, ROUTED: exercise.routed}
    policies = {name: _row(NAMES.get(name, name), marks, _shares(marks)) for name, marks in runs.items()}
    headgate = policies[ROUTED]
    weight = mix_weight(*(row.cost_nanousd for row in (always[cheapest], always[dearest], headgate)))
    paired = _Paired(exercise, cheapest, dearest, seed)
    return Figures(
        queries=len(exercise.routed),
        failures=exercise.failures,
        seed=seed,
        cheapest=cheapest,
        dearest=dearest,
        always=always,
        random_mix=_mix(always[cheapest], always[dearest], weight, paired),
        mix_weight=weight,
        policies=policies,
        oracle=_oracle(exercise, order),
        models={model: _by_model(exercise.routed, model) for model in exercise.models},
        pgr=pgr(always[cheapest].quality, always[dearest].quality, headgate.quality),
        gain_over_mix=paired.over_mix(),
        loss_to_dearest=paired.to_dearest(),
        latency_ms=_percentiles_ms([mark.latency_s for mark in exercise.routed if mark.decision]),
        overhead_ms=_percentiles_ms([mark.decision.overhead_s for mark in exercise.routed if mark.decision]),
        wasted_tokens={name: _wasted(marks) for name, marks in runs.items()},
        cache_hits=_hits(exercise),
        promise=_promise(exercise),
    )


def wilson(successes: float, n: int) -> Interval:
    """The 95 % score interval of a share.

    >>> [round(bound, 3) for bound in wilson(9, 10)]
    [0.596, 0.982]
    """
    share = successes / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mix_weight(cheapest: float, dearest: float, target: float) -> float:
    """How often the dearest model must be drawn for the mix to cost `target`; within [0, 1].

    >>> mix_weight(10, 110, 35)
    0.25
    """
    if dearest <= cheapest:
        return 0.0
    return min(1.0, max(0.0, (target - cheapest) / (dearest - cheapest)))


def pgr(cheapest: float, dearest: float, quality: float) -> float | None:
    """The share of the quality gap that is recovered; None where there is no gap."""
    return None if dearest == cheapest else (quality - cheapest) / (dearest - cheapest)


class _Paired:
    """Differences over the same worksheets, resampled together so that their correlation counts."""

    def __init__(self, exercise: Exercise, cheapest: str, dearest: str, seed: int) -> None:
        runs = (exercise.routed, exercise.pinned[cheapest], exercise.pinned[dearest])
        self._quality = np.array([[mark.quality for mark in marks] for marks in runs])
        self._cost = np.array([[mark.cost_nanousd for mark in marks] for marks in runs], dtype=np.float64)
        n = self._quality.shape[1]
        draws = np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))
        # How often each worksheet is drawn, shape (RESAMPLES, n): a mean becomes one product.
        self._weights = np.stack([np.bincount(draw, minlength=n) for draw in draws]) / n

    def over_mix(self) -> tuple[float, Interval]:
        whole = np.full((1, self._quality.shape[1]), 1 / self._quality.shape[1])
        return float(self._over_mix(whole)[0]), _middle95(self._over_mix(self._weights))

    def to_dearest(self) -> tuple[float, Interval]:
        difference = self._quality[0] - self._quality[2]
        return float(difference.mean()), _middle95(self._weights @ difference)

    def mix_ci95(self) -> Interval:
        return _middle95(self._mix(self._weights))

    def _over_mix(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        difference: NDArray[np.float64] = weights @ self._quality[0] - self._mix(weights)
        return difference

    def _mix(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mix's expected quality in each resample, at that resample's own cost."""
        routed, cheapest, dearest = self._cost @ weights.T
        gap = np.where(dearest > cheapest, dearest - cheapest, np.inf)
        share = np.clip((routed - cheapest) / gap, 0, 1)
        _, low, high = self._quality @ weights.T
        mixed: NDArray[np.float64] = (1 - share) * low + share * high
        return mixed


def _middle95(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _always(model: str, marks: Sequence[Marked]) -> Row:
    return _row(f"always {model}", marks, {model: 1.0})


def _row(name: str, marks: Sequence[Marked], shares: dict[str, float]) -> Row:
    right, n = sum(mark.quality for mark in marks), len(marks)
    latencies = _percentiles_ms([mark.latency_s for mark in marks if mark.decision])
    return Row(name, right / n, wilson(right, n), sum(mark.cost_nanousd for mark in marks), shares, latencies)


def _mix(cheapest: Row, dearest: Row, weight: float, paired: _Paired) -> Row:
    shares: dict[str, float] = {}
    for row, share in ((cheapest, 1 - weight), (dearest, weight)):
        shares |= dict.fromkeys(row.shares, share)
    return Row(
        "random mix",
        (1 - weight) * cheapest.quality + weight * dearest.quality,
        paired.mix_ci95(),
        round((1 - weight) * cheapest.cost_nanousd + weight * dearest.cost_nanousd),
        shares,
    )


def _oracle(exercise: Exercise, order: Sequence[str]) -> Row:
    """`order` is from cheap to dear."""
    chosen = [_first_right(exercise, order, number) for number in range(len(exercise.routed))]
    marks = [exercise.pinned[model][number] for number, model in enumerate(chosen)]
    shares = {model: count / len(chosen) for model, count in Counter(chosen).items()}
    right = sum(mark.quality for mark in marks)
    cost = sum(mark.cost_nanousd for mark in marks)
    return Row("oracle", right / len(marks), wilson(right, len(marks)), cost, shares)


def _first_right(exercise: Exercise, order: Sequence[str], number: int) -> str:
    best = max(exercise.pinned[model][number].quality for model in order)
    return next(model for model in order if exercise.pinned[model][number].quality == best)


def _shares(marks: Sequence[Marked]) -> dict[str, float]:
    counts = Counter(mark.decision.model for mark in marks if mark.decision)
    return {model: count / len(marks) for model, count in counts.items()}


def _by_model(marks: Sequence[Marked], model: str) -> tuple[float, float | None]:
    own = [mark.quality for mark in marks if mark.decision and mark.decision.model == model]
    return len(own) / len(marks), sum(own) / len(own) if own else None


def _wasted(marks: Sequence[Marked]) -> int:
    read = [mark.decision for mark in marks if mark.decision and mark.decision.drafted_by]
    beside = [(one, decision.model) for decision in read for one in decision.attempts]
    return sum(attempt.completion_tokens for attempt, answering in beside if attempt.model != answering)


def _hits(exercise: Exercise) -> int:
    runs = (exercise.routed, *exercise.others.values(), *exercise.pinned.values())
    return sum(mark.decision.cache_status == "hit" for marks in runs for mark in marks if mark.decision)


def _promise(exercise: Exercise) -> Promise:
    covered = [
        (mark, mark.decision.certificate, number)
        for number, mark in enumerate(exercise.routed)
        if mark.decision and mark.decision.certificate
    ]
    if not covered:
        return Promise(None, 0, None, None)
    certificate = covered[0][1]
    reference = exercise.pinned[certificate.reference_model]
    losses = [reference[number].quality - mark.quality for mark, _, number in covered]
    if certificate.loss == "net":
        return Promise(certificate, len(losses), sum(losses) / len(losses), None)
    worse = sum(loss > 0 for loss in losses)
    return Promise(certificate, len(losses), worse / len(losses), wilson(worse, len(losses)))


def _percentiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    if not seconds:
        return 0.0, 0.0
    p50, p99 = np.quantile(np.asarray(seconds) * 1000, (0.5, 0.99))
    return float(p50), float(p99)
