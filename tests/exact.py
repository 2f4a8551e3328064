"""Worlds small enough to solve: what a policy wins beside what the best plan wins, both exact.

A query is one of a few kinds and has a hidden difficulty. Given both, models are right independently, and
the draft of a model shows one of a few signs that hang on whether it is right and on the difficulty. So
what any set of drafts says of every model is known (Bayes), and so is the best plan of all, by dynamic
programming: answer with a model, or have a draft and go on from what it shows. Drafts at hand are paid
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from headgate.router.bundle import Estimates
from headgate.router.offline.courses import Readings
from headgate.router.policy import GRID, MOST_DRAFTS, Policy
from headgate.router.reader import Reading

_Array = NDArray[np.float64]
KINDS, DIFFICULTIES, SIGNS = 24, 4, 5
Shown = tuple[tuple[int, int], ...]
"""(model, sign) of the drafts that were read, by model."""


@dataclass(frozen=True)
class World:
    """`right` (K, D, M) chances given kind and difficulty, `hard` (K, D) of the difficulties, `signs` (M,
    2, D, S) of the signs given whether the model is right; `cost` (K, M), a mean reference call is 1. The
    last model is the reference, whose answers are no drafts. Kinds are equally frequent."""

    right: _Array
    hard: _Array
    signs: _Array
    cost: _Array

    @property
    def models(self) -> int:
        return self.cost.shape[1]

    @cached_property
    def after(self) -> Mapping[Shown, tuple[_Array, _Array]]:
        """For every set of drafts: how likely they show this, (K,), and who is then right, (K, M)."""
        drafts = range(self.models - 1)
        seen = [[None, *range(self.signs.shape[3])] for _ in drafts]
        shown = [
            tuple((m, s) for m, s in zip(drafts, one, strict=True) if s is not None) for one in product(*seen)
        ]
        return {one: self._after(one) for one in shown}

    def _after(self, shown: Shown) -> tuple[_Array, _Array]:
        chance, right = self.hard.copy(), self.right.copy()
        for m, sign in shown:
            wrong_says, right_says = self.signs[m, :, :, sign]
            p = self.right[:, :, m]
            says = p * right_says + (1 - p) * wrong_says
            right[:, :, m] = p * right_says / says
            chance = chance * says
        total = chance.sum(axis=1)
        return total, np.einsum("kd,kdm->km", chance, right) / total[:, None]


def drawn(seed: int, models: int) -> World:
    """A world whose models are strangers: how good they are, for what, and how plain their drafts are."""
    rng = np.random.default_rng(seed)
    skill = np.sort(rng.normal(0.6, 0.8, models))
    kind = rng.normal(0, 1.2, (KINDS, 1, models)) + rng.normal(0, 1.0, (KINDS, 1, 1))
    steps = np.linspace(-1.5, 1.5, DIFFICULTIES)[None, :, None] * rng.uniform(0.3, 1.5)
    right = 1 / (1 + np.exp(-(skill + kind - steps)))
    hard = rng.dirichlet(np.full(DIFFICULTIES, 2.0), KINDS)
    places = np.linspace(-1, 1, SIGNS)
    plain = rng.uniform(0.3, 2.5, models)
    tilt = rng.uniform(0.0, 0.8, models)
    about = np.linspace(-1, 1, DIFFICULTIES)
    raw = np.array(
        [
            [[plain[m] * (2 * y - 1) * places - tilt[m] * d * places for d in about] for y in (0, 1)]
            for m in range(models)
        ]
    )
    signs = np.exp(raw) / np.exp(raw).sum(axis=3, keepdims=True)
    share = np.sort(np.append(np.exp(rng.uniform(np.log(0.03), np.log(0.7), models - 1)), 1.0))
    cost = share * rng.uniform(0.6, 1.4, (KINDS, 1))
    return World(right, hard, signs, cost / cost[:, -1].mean())


def best(world: World, lam: float, most_drafts: int | None = None) -> _Array:
    """Value of the best plan of at most so many drafts, (K,) by kind: quality less λ times the cost."""
    return _best(world, lam, (), world.models if most_drafts is None else most_drafts)


def _best(world: World, lam: float, shown: Shown, left: int) -> _Array:
    """From here on, what is spent already not counted."""
    chance, right = world.after[shown]
    inside = [m for m, _ in shown]
    due = world.cost.copy()
    due[:, inside] = 0.0
    value = (right - lam * due).max(axis=1)
    for m in [m for m in range(world.models - 1) if m not in inside] if left else []:
        went = -lam * world.cost[:, m]
        for sign in range(world.signs.shape[3]):
            further = tuple(sorted((*shown, (m, sign))))
            went = went + world.after[further][0] / chance * _best(world, lam, further, left - 1)
        value = np.maximum(value, went)
    return value


def read_by(world: World) -> Policy:
    """The policy of that world's models, its resolution as it would be taken from recorded drafts."""
    names = tuple(f"model {m}" for m in range(world.models))
    told = (*(_told(world, m) for m in range(world.models - 1)), 0.0)
    usage = np.zeros((len(GRID), world.models, 2))
    return Policy(names, names[-1], 0.0, 0.5, GRID, usage, 1.0, 0.05, told)


def _told(world: World, m: int) -> float:
    """As `readers` has it: deviation of the change of the reference's gain, in units of √(p (1 - p))."""
    before, signs = world.after[()][1], range(world.signs.shape[3])
    chance = np.stack([world.after[(m, sign),][0] for sign in signs])
    change = np.stack([world.after[(m, sign),][1] - before for sign in signs])
    gain = change[:, :, -1] - change[:, :, m]
    mean = np.average(gain, weights=chance)
    deviation = np.sqrt(np.average((gain - mean) ** 2, weights=chance))
    return min(1.0, float(deviation / np.sqrt((before[:, m] * (1 - before[:, m])).mean())))


def taken(world: World, policy: Policy, lam: float, most_drafts: int = MOST_DRAFTS) -> _Array:
    """Value of what the policy does for every kind, (K,), if no more than so many drafts are had."""
    return _taken(world, policy, lam, (), np.arange(len(world.cost)), most_drafts)


def _taken(
    world: World, policy: Policy, lam: float, shown: Shown, rows: NDArray[np.intp], left: int
) -> _Array:
    chance, right = world.after[shown]
    hand, cost = tuple(m for m, _ in shown), world.cost[rows]
    blind = policy if left else replace(policy, resolution=())
    chosen = blind.accept(hand, right[rows], np.zeros(cost.shape), cost, lam)
    value = np.where(np.isin(chosen, hand), 0.0, -lam * np.take_along_axis(cost, chosen[:, None], 1)[:, 0])
    for m in np.unique(chosen).tolist():
        mine, kinds = chosen == m, rows[chosen == m]
        if m in hand or m == world.models - 1 or not left:
            value[mine] += right[kinds, m]
            continue
        for sign in range(world.signs.shape[3]):
            further = tuple(sorted((*shown, (m, sign))))
            then = _taken(world, policy, lam, further, kinds, left - 1)
            value[mine] += world.after[further][0][kinds] / chance[kinds] * then
    return value


def asked(world: World, n: int, seed: int) -> tuple[Estimates, Readings, _Array]:
    """n queries of the world as the courses take them, each some dearer or cheaper than its kind, and who
    is right, (n, M)."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, len(world.cost), n)
    hard = _one_of(rng, world.hard[kind])
    right = (rng.random((n, world.models)) < world.right[kind, hard]).astype(int)
    before, zero = world.after[()][1][kind], np.zeros((n, world.models))
    cost = world.cost[kind] * np.exp(rng.normal(0, 0.3, (n, 1)))
    readings = {}
    for m in range(world.models - 1):
        sign = _one_of(rng, world.signs[m, right[:, m], hard])
        said = np.stack([world.after[(m, one),][1] for one in range(world.signs.shape[3])])
        readings[m] = Reading(said[sign, kind], zero)
    return Estimates(before, zero, zero, cost, zero[:, 0], zero), readings, right.astype(np.float64)


def _one_of(rng: np.random.Generator, chances: _Array) -> NDArray[np.intp]:
    return np.asarray((rng.random(len(chances))[:, None] > chances.cumsum(axis=1)[:, :-1]).sum(axis=1))
