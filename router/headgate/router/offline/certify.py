"""Certificates for a bundle, from outcomes that no part of it has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headgate.router import certify
from headgate.router.bundle import Bundle, Estimates
from headgate.router.offline.build import estimates
from headgate.router.offline.courses import courses, readings, regrets
from headgate.router.offline.datasets import DataError, Listed, Outcomes
from headgate.router.policy import Policy
from headgate.router.types import Certificate

Loss = Literal["regret", "net"]

_LONGER_PROMPTS = 1.25
_TIMES = (1, 2, 4, 8)
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a certificate is asked to say."""

    created: float
    """POSIX seconds, written into the certificates."""
    versions: Mapping[str, Listed]
    """What serves each model; a certificate speaks of no other version."""
    loss: Loss = "regret"
    """`regret`: share of answers worse than the reference's; `net`: mean quality lost less quality won."""
    delta: float = 0.05
    levels: tuple[float, ...] = certify.LEVELS
    window: int = 300
    """Requests over which a certificate can be checked; fewer would cost more of the saving."""
    expires: float | None = None
    by_slice: bool = False
    """Whether each must hold in every subject of the queries by itself."""


def certificates(bundle: Bundle, outcomes: Outcomes, statement: Statement) -> tuple[Certificate, ...]:
    """One certificate for each level that these outcomes support, of every policy of the bundle by itself;
    their models in the bundle's order."""
    expected = estimates(bundle, outcomes)
    return tuple(one for view in bundle.views for one in _certificates(view, outcomes, expected, statement))


def _certificates(
    bundle: Bundle, outcomes: Outcomes, expected: Estimates, statement: Statement
) -> Iterator[Certificate]:
    policy = bundle.policy
    rows = np.flatnonzero(covered(policy, expected))
    taken = courses(policy, expected, readings(bundle, outcomes, expected))
    lost = losses(policy, taken.answered[rows], outcomes.score[rows], statement.loss)
    names, slices = _slices(outcomes.take(rows)) if statement.by_slice else ((), None)
    kind = f"{statement.loss}-by-slice" if names else statement.loss
    held = {"hold_back": float(policy.hold_back)} if bundle.contents.shorter else {}
    if policy is not bundle.contents.policy:
        kind = f"{kind}-{policy.hold_back}-held-back"
    for found in _certified(lost, slices, statement):
        yield Certificate(
            id=f"{kind}-{found.level:g}-{bundle.policy_version[:6]}-{outcomes.fingerprint[:6]}",
            loss=statement.loss,
            risk_target=found.level,
            confidence=1 - statement.delta,
            lam=policy.grid[found.index],
            n=found.n,
            data_fingerprint=outcomes.fingerprint,
            created=statement.created,
            reference=policy.reference,
            expires=statement.expires,
            models=tuple(_versioned(name, statement.versions.get(name)) for name in policy.models),
            window=statement.window,
            settings={
                **_settings(outcomes),
                **held,
                "max_out_of_distribution": policy.max_out_of_distribution,
            },
            slices=names,
        )


def _certified(
    lost: NDArray[np.bool_] | _Array, slices: NDArray[np.intp] | None, statement: Statement
) -> list[certify.Certified]:
    test: certify.Test = "binomial" if statement.loss == "regret" else "betting"
    asked = (statement.levels, statement.delta, statement.window, test)
    if slices is None:
        return certify.fixed_sequence(lost, *asked)
    return certify.in_every_slice(lost, slices, *asked)


def _slices(outcomes: Outcomes) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The subjects by name, and the one of every query (n,)."""
    if not all(outcomes.subjects):
        row = outcomes.subjects.index("")
        raise DataError(f"query {outcomes.ids[row]!r} has no subject; slices need one for every query")
    names, of_query = np.unique(np.array(outcomes.subjects), return_inverse=True)
    return tuple(names.tolist()), of_query


@dataclass(frozen=True, slots=True)
class Outlook:
    """What so many labels would buy at a level, if they lost as often as those that are there."""

    labels: int
    away: float
    """Share of requests that another model than the reference answers."""
    cost: float
    """Of what always using the reference costs."""


def outlook(bundle: Bundle, outcomes: Outcomes, statement: Statement, level: float) -> list[Outlook]:
    """For as many labels as there are, for two, four and eight times as many; `level` one of the statement's.

    Labels of the certificate's own part, of covered queries; none if no query is covered.

    Of regret only: what a betting test will do hangs on more than the rate.
    """
    policy, expected = bundle.policy, estimates(bundle, outcomes)
    rows = np.flatnonzero(covered(policy, expected))
    if not len(rows):
        return []
    taken, cost = courses(policy, expected, readings(bundle, outcomes, expected)), expected.relative_cost
    lost = regrets(policy, taken.answered[rows], outcomes.score[rows])
    away = (taken.answered[rows] != policy.reference_index).mean(axis=0)
    spent = taken.cost(cost)[rows].mean(axis=0) / cost[rows, policy.reference_index].mean()
    found = []
    for n in (times * len(rows) for times in _TIMES):
        passed = certify.reach(lost, n, level, statement.levels, statement.delta, statement.window)
        share, price = (away[passed - 1], spent[passed - 1]) if passed else (0.0, 1.0)
        found.append(Outlook(n, float(share), float(price)))
    return found


def losses(policy: Policy, chosen: NDArray[np.intp], score: _Array, loss: Loss) -> NDArray[np.bool_] | _Array:
    """What is lost against the reference, (n, G) as `chosen`: bool for regret, in [-1, 1] for net."""
    if loss == "regret":
        return regrets(policy, chosen, score)
    return score[:, policy.reference_index, None] - np.take_along_axis(score, chosen, axis=1)


def covered(policy: Policy, expected: Estimates) -> NDArray[np.bool_]:
    """Which queries lie inside the out-of-distribution limit, (n,)."""
    return np.asarray(expected.out_of_distribution <= policy.max_out_of_distribution)


def _settings(outcomes: Outcomes) -> dict[str, float]:
    """Greedy single turns no longer than the data's, with room for every answer that was worth something."""
    answers = outcomes.completion_tokens[(outcomes.score > 0) & ~np.isnan(outcomes.completion_tokens)]
    return {
        "max_temperature": 0.0,
        "max_prompt_tokens": float(np.ceil(outcomes.estimated_tokens.max() * _LONGER_PROMPTS)),
        "max_system_bytes": 0.0,
        "max_history_turns": 0.0,
        "min_max_tokens": float(answers.max(initial=0.0)),
    }


def _versioned(name: str, listed: Listed | None) -> str:
    return f"{name}@{listed.version}" if listed and listed.version else name
