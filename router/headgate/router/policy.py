"""The policy: which model a query takes under one parameter λ, and which λ an objective means.

    value of the reference       p_correct - λ · cost
    value of any other model     p_correct - λ · cost - caution · spread - reluctance(λ)

Where drafts of a model are read, it also has the value of a reading: what is expected to be won by going
on to the best other model where the draft turns out doubtful, E[max(0, G)]. G, that model's lead after
the reading, its cost counted, is taken as logistic around the lead before it, so that the value is
softplus (the ex-ante value of cascade routing, Dekoninck et al., ICML 2025). After it the same values
decide among all models, with p_correct and spread as the draft shows them and its cost already paid; a
second draft may be the best that there is, and then the first stays at hand.

Of two models, and of more before λ is SETTLED, a look is only taken where the course is not expected to
cost more than the reference. Above, λ alone says what quality may cost.

Cost is relative to a mean call of the reference. The model of highest value wins, ties go to the cheaper.
Doubt is no reason to leave the reference, hence the caution. The reluctance makes λ = 0 a safe end: there
another model must be far ahead; by λ = SETTLED nothing is left of it and only quality and cost count.
Everything but λ was fixed on other data than the certificate's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router.cost import mean_costs
from headgate.router.errors import ObjectiveError
from headgate.router.types import WHOLE, Certificate, Objective, Price

_Array = NDArray[np.float64]
_TIE = 1e-12
_LOGISTIC = math.sqrt(3) / math.pi
"""Scale of a logistic distribution for one standard deviation."""
_MOST = 700.0
"""An exponent that a float still holds."""

SETTLED = 0.02
"""The λ from which on there is no reluctance."""
_APART = 4
"""Steps of the grid to either side of what a budget means."""
MOST_DRAFTS = 2
"""Read of one query: a third call is the answer's."""
GRID: tuple[float, ...] = (0.0, *np.geomspace(1e-3, 4.0, 600).tolist())
"""The λ that can be certified, rising, fixed before any label was seen.

At the end saving outweighs quality.
"""


@dataclass(frozen=True, slots=True)
class Policy:
    """A one-parameter family over `models`; `reference` is the model that regret compares with."""

    models: tuple[str, ...]
    reference: str
    caution: float
    """Standard deviations of spread that count against leaving the reference, at least 0."""
    reluctance: float
    """How far ahead another model than the reference must be at λ = 0, in [0, 1]."""
    grid: tuple[float, ...]
    usage: _Array
    """(G, M, 2): mean prompt and completion tokens that each model takes per request at each λ.

    Shares, not calls.
    """
    max_out_of_distribution: float
    """Queries above it are not like the calibration data."""
    default_risk_target: float
    resolution: tuple[float, ...] = ()
    """How much a look at each model's draft tells, in [0, 1]: the standard deviation of the change that it
    makes to the gain of the reference, in units of √(p (1 - p)). 0 where no look is taken; empty where
    none is at all.
    """
    hold_back: int = WHOLE
    """Tokens of a draft that are written before it is read and, where it is accepted, delivered while the
    rest is being written; 0 where no draft is read."""

    @property
    def reference_index(self) -> int:
        """Where the reference stands in `models`."""
        return self.models.index(self.reference)

    def values(self, p_correct: _Array, spread: _Array, relative_cost: _Array, lam: float) -> _Array:
        """Value of each model, (n, M) from three arrays (n, M)."""
        away = np.ones(len(self.models))
        away[self.reference_index] = 0.0
        return p_correct - lam * relative_cost - away * (self.caution * spread + self._reluctance(lam))

    def _reluctance(self, lam: float) -> float:
        return self.reluctance * max(0.0, 1.0 - lam / SETTLED)

    def choose(
        self, p_correct: _Array, spread: _Array, relative_cost: _Array, lam: float
    ) -> NDArray[np.intp]:
        """Index of the best model for each query, (n,)."""
        return self.accept((), p_correct, spread, relative_cost, lam)

    def accept(
        self, hand: Sequence[int], p_correct: _Array, spread: _Array, relative_cost: _Array, lam: float
    ) -> NDArray[np.intp]:
        """Who comes next when drafts of the models `hand` were read, (n,): one of these, whose draft is
        then the answer, or another model. `p_correct` and `spread` are as the drafts show them."""
        left = relative_cost.copy()
        left[:, list(hand)] = 0.0
        values = self.values(p_correct, spread, left, lam)
        unread = self._unread(hand)
        if any(unread):
            values = values + self._looks(values, p_correct, left, lam) * np.array(unread)
        return _cheapest_best(values, left)

    @property
    def most_drafts(self) -> int:
        """Read of one query: a beginning stands alone, for nobody waits with it for a second draft."""
        return MOST_DRAFTS if self.hold_back >= WHOLE else 1

    def _unread(self, hand: Sequence[int]) -> list[bool]:
        """Of which models a draft may come next."""
        more = len(hand) < self.most_drafts
        return [more and told > 0 and index not in hand for index, told in enumerate(self.resolution)]

    def _looks(self, values: _Array, p_correct: _Array, left: _Array, lam: float) -> _Array:
        """What a look at each model's draft is worth before it is written, (n, M)."""
        rival, its_cost = _best_others(values, left)
        ahead = rival - (values + lam * left)
        scale = _LOGISTIC * np.array(self.resolution) * np.sqrt(p_correct * (1 - p_correct))
        odds = ahead / np.maximum(scale, _TIE)
        spared = left[:, [self.reference_index]] - its_cost
        saves = its_cost / (1 + np.exp(np.minimum(odds, _MOST))) >= left - spared
        taken = (saves | self._pays(lam)) & (scale > _TIE)
        return np.where(taken, scale * np.logaddexp(0.0, odds), 0.0)

    def _pays(self, lam: float) -> bool:
        """Whether quality may cost more than the reference does. Never of a pair."""
        return len(self.models) > 2 and lam >= SETTLED

    def choose_one(
        self, p_correct: Sequence[float], spread: Sequence[float], relative_cost: Sequence[float], lam: float
    ) -> int:
        """As `choose` for one query, in plain numbers."""
        return self.accept_one((), p_correct, spread, relative_cost, lam)

    def accept_one(
        self,
        hand: Sequence[int],
        p_correct: Sequence[float],
        spread: Sequence[float],
        relative_cost: Sequence[float],
        lam: float,
    ) -> int:
        """As `accept` for one query, in plain numbers."""
        left = [0.0 if index in hand else cost for index, cost in enumerate(relative_cost)]
        values = self._values_one(p_correct, spread, left, lam)
        unread = [index for index, may in enumerate(self._unread(hand)) if may]
        looks = [(index, self._look_one(values, p_correct, left, lam, index)) for index in unread]
        for index, look in looks:
            values[index] += look
        return _cheapest_best_one(values, left)

    def stops_one(
        self,
        index: int,
        p_correct: Sequence[float],
        spread: Sequence[float],
        relative_cost: Sequence[float],
        lam: float,
        left: float,
        unwritten: float,
    ) -> bool:
        """Whether a draft of the model at `index` is not worth its end.

        `p_correct` and `spread` are those of what is written, `unwritten` is the share of the draft that is
        not, `left` how much more the rest tells where half is written; it tells less the less is left, as a
        random walk has less way to go. The draft is worth its end where what may be won by accepting it
        after all, E[max(0, -G)] of the reference's lead G, is more than the end's cost.
        """
        paid = [0.0 if one == index else cost for one, cost in enumerate(relative_cost)]
        values = self._values_one(p_correct, spread, paid, lam)
        lead = values[self.reference_index] - values[index]
        p = p_correct[index]
        scale = max(_LOGISTIC * left * math.sqrt(2 * unwritten * p * (1 - p)), _TIE)
        won = scale * _softplus(-lead / scale)
        return lead > 0 and won < lam * relative_cost[index] * unwritten

    def _values_one(
        self, p_correct: Sequence[float], spread: Sequence[float], relative_cost: Sequence[float], lam: float
    ) -> list[float]:
        reluctance, reference = self._reluctance(lam), self.reference_index
        return [
            p - lam * cost - (0.0 if index == reference else self.caution * doubt + reluctance)
            for index, (p, doubt, cost) in enumerate(zip(p_correct, spread, relative_cost, strict=True))
        ]

    def _look_one(
        self,
        values: Sequence[float],
        p_correct: Sequence[float],
        left: Sequence[float],
        lam: float,
        index: int,
    ) -> float:
        p, cost = p_correct[index], left[index]
        scale = _LOGISTIC * self.resolution[index] * math.sqrt(p * (1 - p))
        if scale <= _TIE:
            return 0.0
        other = max((one for one in range(len(values)) if one != index), key=values.__getitem__)
        odds = (values[other] - (values[index] + lam * cost)) / scale
        spared = left[self.reference_index] - left[other]
        saves = left[other] / (1 + math.exp(min(odds, _MOST))) >= cost - spared
        return scale * _softplus(odds) if saves or self._pays(lam) else 0.0

    def lam_for_budget(
        self, budget_nanousd: int, prices: Sequence[Price], place: float | None = None
    ) -> float:
        """The smallest settled λ whose mean cost on calibration data is within the budget, else the largest.

        Costs are counted at `prices`, one for every model. Many queries may change sides at nearly one λ,
        and none then costs what the budget is. With a `place` in [0, 1), drawn by the query, it is one of
        two λ around that: the smaller for as large a share of the queries as the budget pays for.
        """
        costs, settled = mean_costs(prices, self.usage), np.array(self.grid) >= SETTLED
        affordable = np.flatnonzero(settled & (costs <= budget_nanousd))
        if not len(affordable):
            return self.grid[-1]
        index, first = int(affordable[0]), int(settled.argmax())
        if place is None or index == first:
            return self.grid[index]
        below, upper = max(index - _APART, first), costs[index : index + _APART]
        # Cost may rise again with λ, but the last of the cheapest is within the budget for sure.
        above = index + len(upper) - 1 - int(upper[::-1].argmin())
        share = (budget_nanousd - costs[above]) / (costs[below] - costs[above])
        return self.grid[below if place < share else above]


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _best_others(values: _Array, cost: _Array) -> tuple[_Array, _Array]:
    """Value and cost of the best model other than each, (n, M) both."""
    others = np.where(np.eye(values.shape[1], dtype=bool), -np.inf, values[:, None, :]).argmax(axis=2)
    return np.take_along_axis(values, others, axis=1), np.take_along_axis(cost, others, axis=1)


def _cheapest_best(values: _Array, relative_cost: _Array) -> NDArray[np.intp]:
    best = values >= values.max(axis=1, keepdims=True) - _TIE
    return np.asarray(np.where(best, relative_cost, np.inf).argmin(axis=1))


def _cheapest_best_one(values: Sequence[float], relative_cost: Sequence[float]) -> int:
    best = max(values) - _TIE
    return min((cost, index) for index, cost in enumerate(relative_cost) if values[index] >= best)[1]


def resolve(
    policy: Policy,
    objective: Objective,
    certificates: Sequence[Certificate],
    prices: Sequence[Price],
    place: float | None = None,
) -> tuple[float, Certificate]:
    """λ for an objective and the certificate that covers it; `certificates` are valid ones, at least one.

    A risk target takes the largest level that is not above it; ObjectiveError if there is none. A budget
    is honoured as far as the certificates reach, and the smallest level that covers its λ is named.
    `place` as for `lam_for_budget`; it has nothing to do with who is right, so that the certificate
    covers both λ.
    """
    if objective.risk_target is not None:
        met = [c for c in certificates if c.risk_target <= objective.risk_target]
        if not met:
            least = min(c.risk_target for c in certificates)
            raise ObjectiveError(
                f"no certificate meets a risk target of {objective.risk_target:g}; ask for {least:g} or more"
            )
        certificate = max(met, key=lambda c: c.risk_target)
        return certificate.lam, certificate
    wanted = policy.lam_for_budget(objective.budget_nanousd or 0, prices, place)
    lam = min(wanted, max(c.lam for c in certificates))
    return lam, min((c for c in certificates if c.lam >= lam), key=lambda c: c.risk_target)
