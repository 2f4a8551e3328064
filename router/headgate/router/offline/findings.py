"""What a report says of a pair beyond its figures.

What keeping most of the quality takes, how honest p_correct is, where routing fares how, and which decisions
are worth reading.

Everything stands at one default point: queries go to the large model in the order of expected gain, until at
most RISK_TARGET of all lose quality. The point is found on the queries that are told, so it is what hindsight
would have chosen; a certificate keeps more room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.router.calibrate import expected_calibration_error
from headgate.router.offline import frontier
from headgate.router.offline.crossval import Told
from headgate.router.offline.curve import Interval
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.frontier import Band

RISK_TARGET = 0.05
LEVELS = (0.95, 0.98)
"""Of the large model's quality."""
BINS = 10
SHOWN = 10
"""Decisions of each kind."""
_FEWEST = 20
"""Queries of a bin, and of a subject that stands alone."""

_Array = NDArray[np.float64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Kept:
    """What keeping `level` of the large model's quality takes, as shares of large calls."""

    level: float
    share: Interval
    by_chance: float
    spared: Interval
    """By how much `share` is below `by_chance`, the same queries drawn for both."""
    rivals: dict[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """The default point: large calls, mean quality, and regret, all as shares of the queries."""

    target: float
    large_share: float
    quality: float
    regret: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Queries of about equal p_correct: mean p_correct, mean quality with its Wilson interval."""

    p_correct: float
    quality: Interval
    n: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Some of the queries at the default point; `ece` is of "small is right"."""

    name: str
    n: int
    small: float
    large: float
    large_share: float
    regret: Interval
    ece: float


@dataclass(frozen=True, slots=True)
class Case:
    """One decision. `p_correct`, `spread` and `quality` are of small and large."""

    id: str
    text: str
    p_correct: tuple[float, float]
    spread: tuple[float, float]
    quality: tuple[float, float]

    @property
    def gain(self) -> float:
        """What was expected of the large model more than of the small one."""
        return self.p_correct[1] - self.p_correct[0]


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a report shows beside the figures; `by` says what the slices are."""

    kept: tuple[Kept, ...]
    point: Point
    quality: Band
    regret: Band
    reliability: tuple[tuple[Bin, ...], tuple[Bin, ...]]
    by: str
    slices: tuple[Slice, ...]
    regretted: tuple[Case, ...]
    """Small answered, the large model would have been better: where that was expected least."""
    wasted: tuple[Case, ...]
    """Large was called, small was right as well or alone: where that was expected least."""

    def plain(self) -> dict[str, Any]:
        """As JSON, without the bands; of the decisions the ids only, no text."""
        shown = asdict(self)
        for name in ("quality", "regret"):
            del shown[name]
        for name in ("regretted", "wasted"):
            shown[name] = [case.id for case in getattr(self, name)]
        return shown


def find(told: Told, seed: int, target: float = RISK_TARGET) -> Findings:
    """The findings of a pair, small and large in this order."""
    score, p = told.outcomes.score, told.expected.p_correct
    gain = gains(p)
    sent = _sent(gain, score, target)
    by, slices = _slices(told, sent)
    return Findings(
        kept=tuple(_kept(told, level, seed) for level in LEVELS),
        point=_point(score, sent, target),
        quality=frontier.band(frontier.quality, gain, score, seed),
        regret=frontier.band(frontier.regret, gain, score, seed),
        reliability=(reliability(p[:, 0], score[:, 0]), reliability(p[:, 1], score[:, 1])),
        by=by,
        slices=slices,
        regretted=_cases(told, gain, ~sent & (score[:, 0] < score[:, 1])),
        wasted=_cases(told, -gain, sent & (score[:, 0] >= score[:, 1]) & (score[:, 0] >= 0.5)),
    )


def gains(p: _Array) -> _Array:
    """What is expected of large more than of small, (n,) from p_correct (n, 2)."""
    return np.asarray(p[:, 1] - p[:, 0])


def _sent(gain: _Array, score: _Array, target: float) -> _Mask:
    """Which queries go to the large model at the default point, (n,)."""
    sent = np.zeros(len(gain), dtype=bool)
    sent[np.argsort(-gain, kind="stable")[: frontier.calls_for(gain, score, target)]] = True
    return sent


def _point(score: _Array, sent: _Mask, target: float) -> Point:
    got = np.where(sent, score[:, 1], score[:, 0])
    return Point(target, float(sent.mean()), float(got.mean()), float((got < score[:, 1]).mean()))


def _kept(told: Told, level: float, seed: int) -> Kept:
    score = told.outcomes.score
    gain = gains(told.expected.p_correct)
    ours, spared = (of(gain, score, level, seed) for of in (frontier.keeps_within, frontier.spared_within))
    theirs = {name: frontier.keeps(gains(p), score, level) for name, p in told.rivals.items()}
    return Kept(level, ours, frontier.keeps_by_chance(score, level), spared, theirs)


def reliability(p: _Array, score: _Array, bins: int = BINS) -> tuple[Bin, ...]:
    """Equally filled bins of p (n,) beside the quality found (n,); fewer of them than `bins` for small n."""
    parts = np.array_split(np.argsort(p, kind="stable"), max(1, min(bins, len(p) // _FEWEST)))
    return tuple(Bin(float(p[part].mean()), share_of(score[part]), len(part)) for part in parts)


def share_of(values: _Array) -> Interval:
    """Mean of values (n,) in [0, 1] with its 95 % Wilson interval, which a graded quality makes too wide."""
    from scipy.stats import binomtest

    found = binomtest(round(float(values.sum())), len(values)).proportion_ci(0.95, "wilson")
    return Interval(float(values.mean()), float(found.low), float(found.high))


def _slices(told: Told, sent: _Mask) -> tuple[str, tuple[Slice, ...]]:
    by, parts = _parts(told.outcomes)
    return by, tuple(_slice(name, told, sent, mask) for name, mask in parts)


def _parts(outcomes: Outcomes) -> tuple[str, list[tuple[str, _Mask]]]:
    """By subject where subjects are known, the small ones together; else by quarters of prompt length."""
    if len(set(outcomes.subjects)) > 1:
        return "subject", list(_by_subject(np.array(outcomes.subjects)))
    return "prompt length", list(_by_length(outcomes.estimated_tokens))


def _by_subject(subjects: NDArray[np.str_]) -> Iterator[tuple[str, _Mask]]:
    names, counts = np.unique(subjects, return_counts=True)
    alone = [str(name) for name, count in zip(names, counts, strict=True) if count >= _FEWEST]
    for name in alone:
        yield name or "not known", subjects == name
    rest = ~np.isin(subjects, alone)
    if rest.any():
        yield f"{len(names) - len(alone)} smaller ones", rest


def _by_length(tokens: _Array) -> Iterator[tuple[str, _Mask]]:
    edges = np.quantile(tokens, (0, 0.25, 0.5, 0.75, 1))
    quarter = np.clip(np.searchsorted(edges, tokens, side="left") - 1, 0, 3)
    for number in np.unique(quarter).tolist():
        mask = quarter == number
        yield f"{tokens[mask].min():.0f} to {tokens[mask].max():.0f} tokens", mask


def _slice(name: str, told: Told, sent: _Mask, mask: _Mask) -> Slice:
    score, p = told.outcomes.score[mask], told.expected.p_correct[mask]
    worse = ~sent[mask] & (score[:, 0] < score[:, 1])
    small, large = score.mean(axis=0).tolist()
    return Slice(name, len(score), small, large, float(sent[mask].mean()), share_of(worse.astype(float)),
                 expected_calibration_error(p[:, 0], score[:, 0]))  # fmt: skip


def _cases(told: Told, rank: _Array, mask: _Mask) -> tuple[Case, ...]:
    """The decisions of the mask, those of the lowest rank first."""
    rows = np.flatnonzero(mask)
    return tuple(_case(told, row) for row in rows[np.argsort(rank[rows], kind="stable")][:SHOWN].tolist())


def _case(told: Told, row: int) -> Case:
    table, e = told.outcomes, told.expected
    p, spread, score = ((float(a[row, 0]), float(a[row, 1])) for a in (e.p_correct, e.spread, table.score))
    return Case(table.ids[row], table.texts[row], p, spread, score)
