"""The policy beside the best plan there is, in worlds that can be solved: `tests.exact`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headgate.router.offline import courses
from headgate.router.policy import GRID, SETTLED, Policy
from headgate.router.types import Price
from tests import exact

WORLDS, REGRET = 40, 0.005
UNIT = 10_000
"""Nano-dollars of a mean call of the reference."""
PRICES = (Price(1_000_000, 0),) * 3
LAMBDAS = np.geomspace(SETTLED, 1.0, 12).tolist()


@pytest.fixture(scope="module")
def worlds(seed: int) -> dict[int, list[exact.World]]:
    return {models: [exact.drawn(seed + one, models) for one in range(WORLDS)] for models in (2, 3)}


@pytest.mark.parametrize("models", [2, 3])
def test_the_policy_wins_nearly_what_the_best_plan_wins(
    worlds: dict[int, list[exact.World]], models: int
) -> None:
    lost = np.array([
        [(exact.best(world, lam) - exact.taken(world, exact.read_by(world), lam)).mean() for lam in LAMBDAS]
        for world in worlds[models]
    ])  # fmt: skip
    of_world = lost.mean(axis=1)
    margin = 1.96 * of_world.std(ddof=1) / np.sqrt(WORLDS)
    print(f"{models} models: regret {lost.mean():.4f} ± {margin:.4f}, worst world {of_world.max():.4f}")
    assert lost.min() >= -1e-12, "nothing is better than the best plan"
    assert lost.mean() <= REGRET


def test_reading_one_draft_at_most_would_lose_more(worlds: dict[int, list[exact.World]]) -> None:
    """Why there are second drafts: even the best plan with one is worse than the best by that much."""
    lost = np.array([
        [(exact.best(one, lam) - exact.taken(one, exact.read_by(one), lam, 1)).mean() for lam in LAMBDAS]
        for one in worlds[3]
    ])  # fmt: skip
    needed = np.array(
        [[(exact.best(one, lam) - exact.best(one, lam, 1)).mean() for lam in LAMBDAS] for one in worlds[3]]
    )
    print(f"one draft at most: regret {lost.mean():.4f}, of the best such plan {needed.mean():.4f}")
    assert lost.mean() > REGRET
    assert needed.mean() > 0.8 * REGRET


@pytest.mark.parametrize("models", [2, 3])
def test_what_drafts_say_is_what_was_known_before_in_the_mean(
    worlds: dict[int, list[exact.World]], models: int
) -> None:
    world = worlds[models][0]
    before = world.after[()][1]
    for m in range(models - 1):
        parts = [world.after[(m, sign),] for sign in range(exact.SIGNS)]
        assert sum(chance for chance, _ in parts) == pytest.approx(np.ones(exact.KINDS))
        assert sum(chance[:, None] * right for chance, right in parts) == pytest.approx(before)


def test_the_best_plan_is_what_drawn_queries_win(worlds: dict[int, list[exact.World]], seed: int) -> None:
    """One plan, drafted model 0 and then the best answer, beside 200,000 queries that are drawn."""
    world, lam, n = worlds[2][0], 0.1, 200_000
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, exact.KINDS, n)
    hard = (rng.random(n)[:, None] > world.hard[kind].cumsum(axis=1)).sum(axis=1)
    right = rng.random((n, 2)) < world.right[kind, hard]
    of_sign = world.signs[0, right[:, 0].astype(int), hard]
    sign = (rng.random(n)[:, None] > of_sign.cumsum(axis=1)).sum(axis=1)
    said = np.stack([world.after[(0, one),][1] for one in range(exact.SIGNS)])[sign, kind]
    going_on = said[:, 1] - lam * world.cost[kind, 1] > said[:, 0]
    won = np.where(going_on, right[:, 1] - lam * world.cost[kind, 1], right[:, 0]) - lam * world.cost[kind, 0]
    expected = sum(
        world.after[(0, one),][0]
        * np.maximum(
            world.after[(0, one),][1][:, 0], world.after[(0, one),][1][:, 1] - lam * world.cost[:, 1]
        )
        for one in range(exact.SIGNS)
    )
    told = np.mean(expected - lam * world.cost[:, 0])
    assert won.mean() == pytest.approx(told, abs=4 * won.std() / np.sqrt(n))
    assert exact.best(world, lam).mean() >= told - 1e-12


def _with_usage(world: exact.World, n: int, seed: int) -> Policy:
    """Its cost at every ninth λ of the usual grid, taken from n queries."""
    expected, readings, _ = exact.asked(world, n, seed)
    policy = replace(exact.read_by(world), grid=(0.0, *GRID[210:560:9]))
    taken = courses.courses(policy, expected, readings)
    paid = (taken.answered[:, :, None] == np.arange(world.models)) | taken.wasted
    usage = np.einsum("ngm,nm->gm", paid, expected.relative_cost) / n * UNIT
    return replace(policy, usage=np.stack((usage, np.zeros_like(usage)), axis=2))


@pytest.mark.parametrize("models", [2, 3])
def test_a_budget_is_what_fresh_queries_cost(
    worlds: dict[int, list[exact.World]], models: int, seed: int
) -> None:
    n, off = 16_000, []
    for number, world in enumerate(worlds[models][:2]):
        policy = _with_usage(world, n, seed + number)
        expected, readings, _ = exact.asked(world, n, seed + 100 + number)
        place, prices = np.random.default_rng(seed).random(n), PRICES[:models]
        costs = policy.usage[:, :, 0].sum(axis=1)
        least, most = costs[-1], costs[np.array(policy.grid) >= SETTLED].max()
        for budget in np.linspace(least, most, 7)[1:-1].round().astype(int).tolist():
            lam = np.array([policy.lam_for_budget(budget, prices, one) for one in place.tolist()])
            spent = np.zeros(n)
            for one in np.unique(lam).tolist():
                course = courses.one_course(policy, expected, readings, one)
                paid = courses.Courses(*(part[:, None] for part in course)).cost(expected.relative_cost)
                spent[lam == one] = paid[lam == one, 0]
            off.append(spent.mean() * UNIT / budget - 1)
    mean, largest = np.abs(off).mean(), np.abs(off).max()
    print(f"{models} models: {len(off)} budgets missed by {mean:.4f} in the mean, at most by {largest:.4f}")
    assert mean <= 0.02
