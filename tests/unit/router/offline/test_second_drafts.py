"""Three models of which two draft: what the courses say is what is served, and a second draft may pay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headgate.router.bundle import Bundle
from headgate.router.cascade import CallModel, Cascade, Finished, Received
from headgate.router.offline import build, certify, courses, datasets
from headgate.router.offline.build import Plan
from headgate.router.offline.datasets import Outcomes
from headgate.router.types import Certificate, Draft, Model, Objective, Pool, Query
from tests.planted import MODELS, PRICES, planted

DRAFTING = MODELS[:2]
SERVED = 400


def with_drafts(outcomes: Outcomes, seed: int) -> Outcomes:
    """Each model writes "sure" most often where it is right, and "hm" where it is not."""
    noise = np.random.default_rng(seed).random((len(outcomes), 2))
    sure = (outcomes.score[:, :2] >= 0.5) == (noise < 0.85)
    return replace(outcomes, drafts={
        name: tuple(Draft(name, f"{'sure' if one else 'hm'} it is so", tokens=4) for one in column)
        for name, column in zip(DRAFTING, sure.T.tolist(), strict=True)
    })  # fmt: skip


@pytest.fixture(scope="module")
def fresh(seed: int) -> Outcomes:
    return with_drafts(planted(seed + 1, 1500), seed + 1)


@pytest.fixture(scope="module")
def asking(plan: Plan, seed: int) -> Bundle:
    return build.loaded(build.build(with_drafts(planted(seed, 1500), seed), plan))


def test_what_is_served_with_second_drafts_is_what_was_certified(asking: Bundle, fresh: Outcomes) -> None:
    some = fresh.take(np.arange(SERVED))
    lam = asking.policy.grid[400]
    limit = {"max_out_of_distribution": asking.policy.max_out_of_distribution}
    certificate = Certificate(
        "c", "regret", 0.1, 0.95, lam, 1, "", 0.0, MODELS[-1], models=MODELS, settings=limit
    )
    served = build.loaded(replace(asking.contents, certificates=(certificate,)))
    pool = Pool(tuple(Model(name, PRICES[name].price) for name in MODELS), MODELS[-1])
    expected = build.estimates(served, some)
    answered, wasted = courses.one_course(
        served.policy, expected, courses.readings(served, some, expected), lam
    )
    inside = certify.covered(served.policy, expected)
    told = [
        (MODELS[a], tuple(sorted(MODELS[m] for m in np.flatnonzero(w)))) if there else (MODELS[-1], ())
        for a, w, there in zip(answered.tolist(), wasted, inside.tolist(), strict=True)
    ]
    assert [_served(served, pool, some, row) for row in range(SERVED)] == told
    assert {model for model, _ in told} == set(MODELS)
    assert any(len(drafts) == 2 for _, drafts in told), "two drafts were had, and neither accepted"
    assert any((model, drafts) == (MODELS[0], MODELS[1:2]) for model, drafts in told), (
        "the first of two drafts was the answer"
    )


def _served(bundle: Bundle, pool: Pool, outcomes: Outcomes, row: int) -> tuple[str, tuple[str, ...]]:
    """Who answers, and whose drafts were not accepted, in the order of their names."""
    cascade, drafted = Cascade(bundle, pool, now=0.0), set()
    command = cascade.feed(Received(Query(outcomes.texts[row], Objective(risk_target=0.1))))
    while isinstance(command, CallModel):
        draft = outcomes.drafts[command.model][row] if command.draft else None
        drafted |= {command.model} if draft else set()
        command = cascade.feed(Finished(command.model, draft))
    return command.model, tuple(sorted(drafted - {command.model}))


def test_two_drafts_together_say_better_who_is_right_than_either(asking: Bundle, fresh: Outcomes) -> None:
    expected = build.estimates(asking, fresh)
    one, other = (courses.readings(asking, fresh, expected)[index] for index in (0, 1))
    together = courses.both(expected.p_correct, one, other)
    loss = [
        float(-np.log(np.where(fresh.score >= 0.5, p, 1 - p)).mean())
        for p in (expected.p_correct, one.p_correct, other.p_correct, together.p_correct)
    ]
    print("log loss before, after either, after both:", *(f"{x:.4f}" for x in loss))
    assert loss[3] < min(loss[:3])


def test_a_second_draft_saves_at_the_same_regret(asking: Bundle, fresh: Outcomes) -> None:
    expected = build.estimates(asking, fresh)
    said, cost = courses.readings(asking, fresh, expected), []
    for resolution, readings in (
        ((asking.policy.resolution[0], 0.0, 0.0), {0: said[0]}),
        (asking.policy.resolution, said),
    ):
        policy = replace(asking.policy, resolution=resolution)
        taken = courses.courses(policy, expected, readings)
        lost = courses.regrets(policy, taken.answered, fresh.score).mean(axis=0)
        cost.append(float(taken.cost(expected.relative_cost).mean(axis=0)[lost <= 0.05].min()))
    print(f"cost at a regret of 5 %: {cost[0]:.3f} with tiny's drafts, {cost[1]:.3f} with mid's as well")
    assert cost[1] < cost[0]


def test_a_table_of_three_is_certified_with_its_drafts(asking: Bundle, fresh: Outcomes) -> None:
    labels, rest = datasets.split(fresh, 1, (0.6, 0.4))
    made = certify.certificates(asking, labels, certify.Statement(created=0.0, versions=PRICES))
    assert made
    expected = build.estimates(asking, rest)
    taken = courses.courses(asking.policy, expected, courses.readings(asking, rest, expected))
    lost = courses.regrets(asking.policy, taken.answered, rest.score).mean(axis=0)
    assert all(lost[asking.policy.grid.index(one.lam)] <= one.risk_target for one in made)
