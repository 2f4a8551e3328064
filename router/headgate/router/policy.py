"""The policy: which model a query takes under one parameter λ, and which λ an objective means.

    value of the reference       p_correct - λ · cost
    value of any other model     p_correct - λ · cost - caution · spread - reluctance(λ)

Cost is relative to a mean call of the reference. The model of highest value wins, ties go to the cheaper.
Doubt is no reason to leave the reference, hence the caution. The reluctance makes λ = 0 a safe end: there
another model must be far ahead; by λ = SETTLED nothing is left of it and only quality and cost count.
Everything but λ was fixed on other data than the certificate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router.cost import mean_costs
from headgate.router.errors import ObjectiveError
from headgate.router.types import Certificate, Objective, Price

_Array = NDArray[np.float64]
_TIE = 1e-12

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
        best = values >= values.max(axis=1, keepdims=True) - _TIE
        return np.asarray(np.where(best, relative_cost, np.inf).argmin(axis=1))

    def choose_one(
        self, p_correct: Sequence[float], spread: Sequence[float], relative_cost: Sequence[float], lam: float
    ) -> int:
        """As `choose` for one query, in plain numbers."""
        reluctance, reference = self._reluctance(lam), self.reference_index
        values = [
            p - lam * cost - (0.0 if index == reference else self.caution * doubt + reluctance)
            for index, (p, doubt, cost) in enumerate(zip(p_correct, spread, relative_cost, strict=True))
        ]
        best = max(values) - _TIE
        return min((cost, index) for index, cost in enumerate(relative_cost) if values[index] >= best)[1]

    def lam_for_budget(self, budget_nanousd: int, prices: Sequence[Price]) -> float:
        """The smallest settled λ whose mean cost on calibration data is within the budget, else the largest.

        Costs are counted at `prices`, one for every model.
        """
        settled = np.array(self.grid) >= SETTLED
        affordable = np.flatnonzero(settled & (mean_costs(prices, self.usage) <= budget_nanousd))
        return self.grid[affordable[0]] if len(affordable) else self.grid[-1]


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
