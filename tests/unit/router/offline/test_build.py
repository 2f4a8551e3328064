from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle, Contents
from headgate.router.calibrate import expected_calibration_error
from headgate.router.offline import build, courses, datasets
from headgate.router.offline.build import FOLDS, Plan
from headgate.router.offline.datasets import DataError, Listed, Outcomes
from headgate.router.offline.difficulty import Difficulty, Prior
from headgate.router.offline.terms import Terms
from headgate.router.types import Price

MakeOutcomes = Callable[[int, int], Outcomes]
Parts = tuple[Outcomes, Outcomes]


def test_the_same_plan_gives_the_same_bytes(make_outcomes: MakeOutcomes, plan: Plan) -> None:
    data = make_outcomes(9, 200)
    first, second = (bundles.dump(build.build(data, plan)) for _ in range(2))
    assert first == second


def test_a_bundle_holds_no_text_and_no_certificate_of_its_data(
    make_outcomes: MakeOutcomes, plan: Plan
) -> None:
    data = make_outcomes(9, 200)
    made = build.build(data, plan)
    parts = (made.graph, bundles._npy(made.golden.ngrams), bundles.dump(made))
    assert not any(text.encode() in part for text in data.texts for part in parts)
    assert made.certificates == ()
    assert made.notes == {"seed": plan.recipe.seed, "queries": 200, "fingerprint": data.fingerprint}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"reference": "huge"}, "no model 'huge'"),
        ({"listed": {"tiny": Listed(Price(1, 1), "")}}, "no model 'mid'"),
    ],
)
def test_plans_that_do_not_fit_the_data_say_so(
    parts: Parts, plan: Plan, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        build.build(parts[0], replace(plan, **change))  # type: ignore[arg-type]


def test_the_default_risk_target_and_the_calibrator_are_the_plans(
    make_outcomes: MakeOutcomes, plan: Plan
) -> None:
    made = build.build(make_outcomes(9, 150), replace(plan, risk_target=0.03, calibrator="platt"))
    assert made.policy.default_risk_target == 0.03
    assert {one.kind for one in made.calibrators} == {"platt"}


def test_estimates_are_near_frequencies_on_fresh_queries(trained: Bundle, fresh: Outcomes) -> None:
    expected = build.estimates(trained, fresh)
    for m in range(3):
        assert expected_calibration_error(expected.p_correct[:, m], fresh.score[:, m]) < 0.05
    assert expected.relative_cost[:, 2].mean() == pytest.approx(1.0, rel=0.1), (
        "one reference call is the unit"
    )
    assert np.isfinite(expected.spread).all()
    assert (expected.spread >= 0).all()


def test_estimates_in_batches_are_those_of_each_query(trained: Bundle, fresh: Outcomes) -> None:
    some = fresh.take(np.arange(build._BATCH - 3, build._BATCH + 3))
    whole, part = build.estimates(trained, fresh), build.estimates(trained, some)
    for name in ("p_correct", "spread", "completion_tokens", "relative_cost", "out_of_distribution"):
        rows = getattr(whole, name)[build._BATCH - 3 : build._BATCH + 3]
        assert rows == pytest.approx(getattr(part, name), abs=1e-6)


def test_no_model_judges_what_it_was_trained_on(
    make_outcomes: MakeOutcomes, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that are pure noise: whoever had seen them would tell right from wrong."""
    data, rng = make_outcomes(9, 200), np.random.default_rng(9)
    noise = replace(data, score=(rng.random(data.score.shape) < 0.5).astype(float))
    trained_on: list[set[str]] = []
    real = build.train

    def watched(rows: Outcomes, *rest: object) -> object:
        trained_on.append(set(rows.stems))
        return real(rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "train", watched)
    folds = datasets.folds(noise, plan.recipe.seed, FOLDS)
    heads, unfamiliar = build._cross_fitted(noise, plan, folds, build.nothing_shared, lambda doing: None)
    assert len(trained_on) == FOLDS
    for fold, seen in enumerate(trained_on):
        told = {noise.stems[row] for row in np.flatnonzero(folds == fold)}
        assert not seen & told
        assert seen | told == set(noise.stems)
    skill = np.corrcoef(heads.logits[:, 0], noise.score[:, 0])[0, 1]
    assert abs(skill) < 0.3
    assert ((unfamiliar >= 0) & (unfamiliar <= 1)).all()


def test_what_others_say_of_a_fold_is_asked_for_without_it(make_outcomes: MakeOutcomes, plan: Plan) -> None:
    data, asked = make_outcomes(9, 120), []
    terms = Terms.of(data.features)
    prior = Prior(np.zeros(1), np.ones(1), np.zeros(1), np.eye(1))
    nothing = Difficulty(terms, np.zeros((len(terms.seen), 1), dtype=np.float32), prior)

    def sharing(*folds: int) -> Difficulty:
        asked.append(folds)
        return nothing

    build.build(data, plan, sharing)
    assert sorted(asked) == [(), *((fold,) for fold in range(FOLDS))]


def test_regret_needs_a_worse_answer_than_the_references(trained: Bundle) -> None:
    score = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.6], [0.0, 0.0, 0.0]])
    chosen = np.array([[0, 2], [0, 2], [0, 1], [0, 1]])
    assert courses.regrets(trained.policy, chosen, score).tolist() == [
        [False, False], [True, False], [True, True], [False, False],
    ]  # fmt: skip


def test_usage_is_what_the_policy_takes(trained: Bundle) -> None:
    usage, reference = trained.policy.usage, trained.policy.reference_index
    assert (usage[-1, reference] == 0).all(), "at the end of the grid nobody pays for the reference"
    assert usage[:, reference, 1].tolist() == sorted(usage[:, reference, 1], reverse=True)
    assert usage[..., 0].sum(axis=1) == pytest.approx(usage[0, :, 0].sum()), "every prompt is read once"


def test_usage_counts_what_was_written_where_that_is_known(trained: Bundle, fresh: Outcomes) -> None:
    """A budget is paid for means, and an expected answer is the likeliest length."""
    expected = build.estimates(trained, fresh)
    longer, unknown = (
        replace(fresh, completion_tokens=tokens)
        for tokens in (2 * expected.completion_tokens, np.full(fresh.score.shape, np.nan))
    )
    known, told = (
        build._usage(trained.policy, expected, courses.NO_READINGS, table, trained.costs)
        for table in (longer, unknown)
    )
    assert known[..., 1] == pytest.approx(2 * told[..., 1])
    assert np.array_equal(known[..., 0], told[..., 0])


def test_the_grid_begins_at_a_safe_end(trained: Bundle, fresh: Outcomes) -> None:
    """Even where quality alone would leave the reference too often, the smallest levels have a beginning."""
    expected = build.estimates(trained, fresh)

    def regret(reluctance: float) -> float:
        policy = replace(trained.policy, reluctance=reluctance)
        return float(courses.regrets(policy, courses.choices(policy, expected), fresh.score).mean(axis=0)[0])

    assert regret(trained.policy.reluctance) < 0.002
    assert regret(0.0) > 0.004


def test_a_rare_word_does_not_make_its_like_familiar(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(9, 30)
    texts = ("once upon midnight dreary", *("thrice said words here",) * 3, *data.texts[4:])
    known = build._familiarity(replace(data, texts=texts))
    read = {
        text: known.unfamiliar(one.contexts)
        for text, one in zip(texts, replace(data, texts=texts).features, strict=True)
    }
    assert read["once upon midnight dreary"] == 1.0
    assert read["thrice said words here"] == 0.0


def test_contents_survive_a_gateway(contents: Contents, trained: Bundle) -> None:
    assert trained.contents.calibrators == contents.calibrators
    assert trained.certificates == contents.certificates
