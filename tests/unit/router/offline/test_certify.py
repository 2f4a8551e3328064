from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle, Contents
from headgate.router.decide import decide
from headgate.router.offline import certify
from headgate.router.offline.certify import Parts, Plan
from headgate.router.offline.datasets import DataError, Listed, Outcomes
from headgate.router.types import Model, Objective, Pool, Price, Query, Reason


def test_the_same_plan_gives_the_same_bytes(
    make_outcomes: Callable[[int, int], Outcomes], plan: Plan
) -> None:
    data = make_outcomes(9, 600)
    rows = np.arange(600)
    small = Parts(data.take(rows[:300]), data.take(rows[300:400]), data.take(rows[400:]))
    quick = replace(plan, recipe=replace(plan.recipe, least_steps=20))
    first, second = (bundles.dump(certify.build(small, quick)) for _ in range(2))
    assert first == second


def test_certificates_say_what_they_rest_on(trained: Bundle, parts: Parts, plan: Plan) -> None:
    assert trained.certificates, "the planted world supports some levels"
    for found in trained.certificates:
        assert found.models == ("tiny@t1", "mid", "big@b1")
        assert found.data_fingerprint == parts.threshold.fingerprint
        assert len(parts.threshold) * 0.98 <= found.n <= len(parts.threshold)
        assert found.confidence == 0.95
        assert found.created == plan.created
        good = parts.threshold.score > 0
        assert found.settings["min_max_tokens"] == parts.threshold.completion_tokens[good].max()
        assert found.settings["max_prompt_tokens"] >= parts.threshold.estimated_tokens.max()
    assert len({found.id for found in trained.certificates}) == len(trained.certificates)


def test_certified_regret_holds_on_fresh_queries(trained: Bundle, fresh: Outcomes) -> None:
    expected = certify.estimates(trained, fresh)
    chosen = certify.choices(trained.policy, expected)
    regret = certify.regrets(trained.policy, chosen, fresh.score)[certify.covered(trained.policy, expected)]
    for found in trained.certificates:
        rate = regret[:, trained.policy.grid.index(found.lam)].mean()
        assert rate <= found.risk_target + 3 * (found.risk_target / len(regret)) ** 0.5


def test_regret_needs_a_worse_answer_than_the_references(trained: Bundle) -> None:
    score = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.6], [0.0, 0.0, 0.0]])
    chosen = np.array([[0, 2], [0, 2], [0, 1], [0, 1]])
    assert certify.regrets(trained.policy, chosen, score).tolist() == [
        [False, False], [True, False], [True, True], [False, False],
    ]  # fmt: skip


def test_usage_is_what_the_policy_takes(trained: Bundle) -> None:
    usage, reference = trained.policy.usage, trained.policy.reference_index
    assert (usage[-1, reference] == 0).all(), "at the end of the grid nobody pays for the reference"
    assert usage[:, reference, 1].tolist() == sorted(usage[:, reference, 1], reverse=True)
    assert usage[..., 0].sum(axis=1) == pytest.approx(usage[0, :, 0].sum()), "every prompt is read once"


def test_lengths_outside_texts_and_versions_are_enforced_end_to_end(trained: Bundle, fresh: Outcomes) -> None:
    prices = {"tiny": Price(1, 1), "mid": Price(2, 2), "big": Price(9, 9)}
    versions = {"tiny": "t1", "mid": "whatever", "big": "b1"}
    pool = Pool(tuple(Model(name, prices[name], 0, versions[name]) for name in trained.models), "big")

    def reason(text: str, pool: Pool = pool) -> Reason:
        return decide(trained, Query(text, Objective(risk_target=0.1)), pool, now=0.0).reason

    assert reason(fresh.texts[0]) is Reason.POLICY
    assert reason("Who wrote the tragedy of Hamlet, prince of Denmark?") is Reason.OUTSIDE_CALIBRATION
    stranger = replace(pool, models=(replace(pool.models[0], version="t2"), *pool.models[1:]))
    assert reason(fresh.texts[0], stranger) is Reason.NO_CERTIFICATE


def test_a_bundle_holds_no_text_of_its_data(contents: Contents, parts: Parts) -> None:
    data = bundles.dump(contents)
    for part in (parts.train, parts.calibration, parts.threshold):
        assert not any(text.encode() in data for text in part.texts)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reference": "huge"}, "reference 'huge' is not among"),
        ({"listed": {"tiny": Listed(Price(1, 1), "")}}, "no model 'mid'"),
    ],
)
def test_plans_that_do_not_fit_the_data_say_so(
    parts: Parts, plan: Plan, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        certify.build(parts, replace(plan, **change))  # type: ignore[arg-type]


def test_the_grid_begins_at_a_safe_end(trained: Bundle, fresh: Outcomes) -> None:
    """Even where quality alone would leave the reference too often, the smallest levels have a beginning."""
    chosen = certify.choices(trained.policy, certify.estimates(trained, fresh))
    regret = certify.regrets(trained.policy, chosen, fresh.score).mean(axis=0)
    assert regret[0] < 0.002
    eager = replace(trained.policy, reluctance=0.0)
    chosen = certify.choices(eager, certify.estimates(trained, fresh))
    assert certify.regrets(eager, chosen, fresh.score).mean(axis=0)[0] > 0.004
