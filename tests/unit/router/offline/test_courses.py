"""Drafts of a planted world: the small model writes "sure" where it is right, and "hm" most often where it
is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headgate.router.accept import Look
from headgate.router.bundle import Bundle
from headgate.router.cascade import CallModel, Cascade, Finished, Received, Stopped
from headgate.router.offline import build, certify, courses, curve, datasets, drafts
from headgate.router.offline.build import Plan
from headgate.router.offline.certify import Statement
from headgate.router.offline.datasets import DataError, Outcomes
from headgate.router.reader import Reading
from headgate.router.types import WHOLE, Certificate, Draft, Model, Objective, Pool, Query
from tests.planted import PRICES

SMALL, BIG = "tiny", "big"
SOME = 2
"""Tokens of a draft, of four: the word that tells is among them."""


def with_drafts(outcomes: Outcomes, seed: int) -> Outcomes:
    pair = outcomes.with_models((SMALL, BIG))
    noise = np.random.default_rng(seed).random(len(pair))
    right = pair.score[:, 0] >= 0.5
    words = np.where(right, np.where(noise < 0.9, "sure", "hm"), np.where(noise < 0.8, "hm", "sure"))
    return replace(pair, drafts={SMALL: tuple(Draft(SMALL, f"{word} it is so", tokens=4) for word in words)})


@pytest.fixture(scope="module")
def learnt(outcomes: Outcomes, seed: int) -> tuple[Outcomes, Outcomes]:
    fitted, threshold = datasets.split(with_drafts(outcomes, seed), seed, (0.7, 0.3))
    return fitted, threshold


@pytest.fixture(scope="module")
def cascade(learnt: tuple[Outcomes, Outcomes], plan: Plan) -> Bundle:
    return build.loaded(build.build(learnt[0], replace(plan, hold_backs=(SOME,))))


@pytest.fixture(scope="module")
def other(fresh: Outcomes, seed: int) -> Outcomes:
    return with_drafts(fresh, seed + 1)


def test_a_look_at_the_draft_knows_better_who_is_right(cascade: Bundle, other: Outcomes) -> None:
    expected = build.estimates(cascade, other)
    reading = courses.readings(cascade, other, expected)[0]
    before, after = (
        curve.auc(p[:, 0], other.score[:, 0] >= 0.5) for p in (expected.p_correct, reading.p_correct)
    )
    print(f"AUC {before:.3f} before reading, {after:.3f} after")
    assert after > before + 0.05
    assert abs(reading.p_correct[:, 0].mean() - other.score[:, 0].mean()) < 0.03
    assert 0 < cascade.policy.resolution[0] <= 1
    assert cascade.policy.resolution[1] == 0


def test_one_draft_is_told_what_the_batch_says(cascade: Bundle, other: Outcomes) -> None:
    some = other.take(np.arange(20))
    expected, reader = build.estimates(cascade, some), cascade.readers[SMALL]
    many = courses.readings(cascade, some, expected)[0]
    for row, seen in enumerate(drafts.seen(some, SMALL, logprobs=False)):
        tokens = float(expected.completion_tokens[row, 0])
        p, spread = reader.read_one(seen, expected.logits[row].tolist(), tokens)
        assert list(p) == pytest.approx(many.p_correct[row].tolist(), abs=1e-5)
        assert list(spread) == pytest.approx(many.spread[row].tolist(), abs=1e-5)


def test_a_cascade_costs_less_at_the_same_regret(cascade: Bundle, other: Outcomes) -> None:
    expected = build.estimates(cascade, other)
    blind = replace(cascade.policy, resolution=())
    cost = []
    for policy, readings in (
        (blind, courses.NO_READINGS),
        (cascade.policy, courses.readings(cascade, other, expected)),
    ):
        taken = courses.courses(policy, expected, readings)
        lost = courses.regrets(policy, taken.answered, other.score).mean(axis=0)
        spent = taken.cost(expected.relative_cost).mean(axis=0)
        cost.append(float(spent[lost <= 0.05].min()))
    print(f"cost at a regret of 5 %: {cost[0]:.3f} by query, {cost[1]:.3f} with drafts")
    assert cost[1] < cost[0]


def test_a_draft_that_was_not_accepted_is_paid_beside_the_answer() -> None:
    wasted = np.array([[[True, False], [False, False]]])
    taken = courses.Courses(np.array([[1, 0]]), wasted)
    assert taken.cost(np.array([[0.1, 1.0]])).tolist() == [[1.1, 0.1]]


def test_a_draft_costs_its_tokens_even_where_the_reference_answers(cascade: Bundle, other: Outcomes) -> None:
    """Usage is what a budget is kept by: shares add up to one request and its wasted drafts."""
    usage, grid = cascade.policy.usage, np.array(cascade.policy.grid)
    expected = build.estimates(cascade, other)
    taken = courses.courses(cascade.policy, expected, courses.readings(cascade, other, expected))
    wasted = taken.wasted[:, :, 0].mean(axis=0)
    assert wasted.max() > 0.02
    place = int(wasted.argmax())
    alone = (taken.answered[:, place] == 0).mean()
    prompts = other.estimated_tokens.mean() * cascade.costs.models[0].prompt_ratio
    assert usage[place, 0, 0] > prompts * (alone + wasted[place] / 2), grid[place]


@pytest.mark.parametrize("hold_back", [WHOLE, SOME, 0])
def test_certificates_of_a_cascade_hold_on_fresh_queries(
    cascade: Bundle, learnt: tuple[Outcomes, Outcomes], terms: Statement, other: Outcomes, hold_back: int
) -> None:
    made = [c for c in certify.certificates(cascade, learnt[1], terms) if c.hold_back == hold_back]
    assert made
    view, expected = cascade.holding_back(hold_back), build.estimates(cascade, other)
    taken = courses.courses(view.policy, expected, courses.readings(view, other, expected))
    lost = courses.regrets(view.policy, taken.answered, other.score).mean(axis=0)
    for one in made:
        assert lost[view.policy.grid.index(one.lam)] <= one.risk_target


def test_the_longer_drafts_are_held_back_the_less_an_answer_costs(cascade: Bundle, other: Outcomes) -> None:
    expected, cost = build.estimates(cascade, other), {}
    for view in (cascade.holding_back(tokens) for tokens in (WHOLE, SOME, 0)):
        taken = courses.courses(view.policy, expected, courses.readings(view, other, expected))
        lost = courses.regrets(view.policy, taken.answered, other.score).mean(axis=0)
        cost[view.policy.hold_back] = taken.cost(expected.relative_cost).mean(axis=0)[lost <= 0.05].min()
    print(f"cost at a regret of 5 % by hold-back: {cost}")
    assert cost[WHOLE] <= cost[SOME] + 0.02
    assert cost[SOME] < cost[0] - 0.02, "half a draft tells something"


def test_a_cascade_cannot_be_certified_without_drafts(
    cascade: Bundle, learnt: tuple[Outcomes, Outcomes], terms: Statement
) -> None:
    with pytest.raises(DataError, match="looks at drafts of 'tiny'"):
        certify.certificates(cascade, replace(learnt[1], drafts={}), terms)


def test_a_reader_of_log_probabilities_refuses_drafts_without(
    cascade: Bundle, learnt: tuple[Outcomes, Outcomes], terms: Statement
) -> None:
    [whole, early] = cascade.contents.readers
    needing = replace(cascade.contents, readers=(replace(whole, logprobs=True), early))
    with pytest.raises(DataError, match="by their log-probabilities, and some of these have none"):
        certify.certificates(build.loaded(needing), learnt[1], terms)


def test_readings_join_in_order() -> None:
    one, two = (Reading(np.full((1, 2), x), np.full((1, 2), x)) for x in (1.0, 2.0))
    assert Reading.joined([one, two]).p_correct[:, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("hold_back", [WHOLE, SOME, 0])
def test_what_is_served_is_what_was_certified(cascade: Bundle, other: Outcomes, hold_back: int) -> None:
    """Recorded drafts through the real state machine, beside the courses that certificates are made of."""
    some = other.take(np.arange(300))
    lam, limit = cascade.policy.grid[400], cascade.policy.max_out_of_distribution
    settings = {"max_out_of_distribution": limit, "hold_back": float(hold_back)}
    certificate = Certificate(
        "c", "regret", 0.1, 0.95, lam, 1, "", 0.0, BIG, models=(SMALL, BIG), settings=settings
    )
    loaded = build.loaded(replace(cascade.contents, certificates=(certificate,)))
    served = loaded.holding_back(hold_back)
    pool = Pool(tuple(Model(name, PRICES[name].price) for name in (SMALL, BIG)), BIG)
    expected = build.estimates(served, some)
    answered, wasted = courses.one_course(
        served.policy, expected, courses.readings(served, some, expected), lam
    )
    covered = certify.covered(served.policy, expected)
    begun = drafts.begun(some, SMALL, np.full(len(some), hold_back)).drafts[SMALL]
    ways = [_course(served, pool, *one) for one in zip(some.texts, some.drafts[SMALL], begun, strict=True)]
    told = [
        (served.models[a], SMALL if w[0] else "") if inside else (BIG, "")
        for a, w, inside in zip(answered.tolist(), wasted.tolist(), covered.tolist(), strict=True)
    ]
    assert ways == told
    assert {model for model, _ in ways} == {SMALL, BIG}
    assert any(wasted for _, wasted in ways) is bool(hold_back)


def _course(bundle: Bundle, pool: Pool, text: str, whole: Draft, begun: Draft) -> tuple[str, str]:
    """Who answers, and whose draft was not accepted."""
    cascade = Cascade(bundle, pool, now=0.0)
    query = Query(text, Objective(risk_target=0.1), hold_back=bundle.policy.hold_back, early_stop=False)
    command = cascade.feed(Received(query))
    wasted = ""
    while isinstance(command, CallModel):
        if command.escalation:
            wasted = whole.model
        event: Finished | Stopped = Finished(command.model, whole if command.draft else None)
        if command.draft and whole.tokens >= cascade.hold_back and cascade.look(begun) is Look.STOP:
            event = Stopped(command.model, begun)
        command = cascade.feed(event)
    return command.model, wasted
