"""The policy: which model a query takes under one parameter λ, and which λ an objective means.

    value of the reference       p_correct - λ · cost
    value of any other model     p_correct - λ · cost - caution · spread - reluctance(λ)

Where drafts of a model are read, it also has the value of a reading: what is expected to be won by going
on to the reference where the draft turns out doubtful, E[max(0, G)]. G, the reference's lead after the
reading, its cost counted, is taken as logistic around the lead before it, so that the value is softplus (the
ex-ante value of cascade routing, Dekoninck et al., ICML 2025, for two models). A look is only taken where
it is expected to save. After it the same values decide, with p_correct and spread as the draft shows them
and the draft's cost already paid.

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
        values = self.values(p_correct, spread, relative_cost, lam)
        if any(self.resolution):
            values = values + self._looks(values, p_correct, relative_cost, lam)
        return _cheapest_best(values, relative_cost)

    def _looks(self, values: _Array, p_correct: _Array, relative_cost: _Array, lam: float) -> _Array:
        """What a look at each model's draft is worth before it is written, (n, M)."""
        reference = self.reference_index
        ahead = values[:, [reference]] - (values + lam * relative_cost)
        scale = _LOGISTIC * np.array(self.resolution) * np.sqrt(p_correct * (1 - p_correct))
        odds = ahead / np.maximum(scale, _TIE)
        saves = relative_cost[:, [reference]] / (1 + np.exp(np.minimum(odds, _MOST))) >= relative_cost
        return np.where(saves & (scale > _TIE), scale * np.logaddexp(0.0, odds), 0.0)

    def accept(
        self, index: int, p_correct: _Array, spread: _Array, relative_cost: _Array, lam: float
    ) -> NDArray[np.intp]:
        """Who answers after a look at drafts of the model at `index`, (n,), it or the reference: that
        model's own where the draft is accepted. `p_correct` and `spread` are those of the look; the drafts
        are paid already."""
        left = relative_cost.copy()
        left[:, index] = 0.0
        values = self.values(p_correct, spread, left, lam)
        pair = np.isin(np.arange(len(self.models)), (index, self.reference_index))
        return _cheapest_best(np.where(pair, values, -np.inf), left)

    def choose_one(
        self, p_correct: Sequence[float], spread: Sequence[float], relative_cost: Sequence[float], lam: float
    ) -> int:
        """As `choose` for one query, in plain numbers."""
        values = self._values_one(p_correct, spread, relative_cost, lam)
        if any(self.resolution):
            looks = [
                self._look_one(values, p_correct, relative_cost, lam, index) for index in range(len(values))
            ]
            values = [value + look for value, look in zip(values, looks, strict=True)]
        return _cheapest_best_one(values, relative_cost)

    def accept_one(
        self,
        index: int,
        p_correct: Sequence[float],
        spread: Sequence[float],
        relative_cost: Sequence[float],
        lam: float,
    ) -> int:
        """As `accept` for one query, in plain numbers."""
        left = [0.0 if one == index else cost for one, cost in enumerate(relative_cost)]
        values = self._values_one(p_correct, spread, left, lam)
        lead = values[self.reference_index] - values[index]
        # Ties go to the cheaper, and the draft costs nothing more.
        return self.reference_index if lead > _TIE else index

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
        relative_cost: Sequence[float],
        lam: float,
        index: int,
    ) -> float:
        p, cost, reference = p_correct[index], relative_cost[index], self.reference_index
        scale = _LOGISTIC * self.resolution[index] * math.sqrt(p * (1 - p))
        if scale <= _TIE:
            return 0.0
        odds = (values[reference] - (values[index] + lam * cost)) / scale
        if relative_cost[reference] / (1 + math.exp(min(odds, _MOST))) < cost:
            return 0.0
        return scale * _softplus(odds)

    def lam_for_budget(self, budget_nanousd: int, prices: Sequence[Price]) -> float:
        """The smallest settled λ whose mean cost on calibration data is within the budget, else the largest.

        Costs are counted at `prices`, one for every model.
        """
        settled = np.array(self.grid) >= SETTLED
        affordable = np.flatnonzero(settled & (mean_costs(prices, self.usage) <= budget_nanousd))
        return self.grid[affordable[0]] if len(affordable) else self.grid[-1]


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _cheapest_best(values: _Array, relative_cost: _Array) -> NDArray[np.intp]:
    best = values >= values.max(axis=1, keepdims=True) - _TIE
    return np.asarray(np.where(best, relative_cost, np.inf).argmin(axis=1))


def _cheapest_best_one(values: Sequence[float], relative_cost: Sequence[float]) -> int:
    best = max(values) - _TIE
    return min((cost, index) for index, cost in enumerate(relative_cost) if values[index] >= best)[1]


def resolve(
    policy: Policy, objective: Objective, certificates: Sequence[Certificate], prices: Sequence[Price]
) -> tuple[float, Certificate]:
    """λ for an objective and the certificate that covers it; `certificates` are valid ones, at least one.

    A risk target takes the largest level that is not above it; ObjectiveError if there is none. A budget is
    honoured as far as the certificates reach, and the smallest level that covers its λ is named.
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
    wanted = policy.lam_for_budget(objective.budget_nanousd or 0, prices)
    lam = min(wanted, max(c.lam for c in certificates))
    return lam, min((c for c in certificates if c.lam >= lam), key=lambda c: c.risk_target)
