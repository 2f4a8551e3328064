from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from headgate.router.bundle import Estimates
from headgate.router.offline import crossval, datasets
from headgate.router.offline.build import Plan
from headgate.router.offline.crossval import Told, capped, cross_validate
from headgate.router.offline.datasets import DataError, Outcomes

_Array = NDArray[np.float64]
MakeOutcomes = Callable[[int, int], Outcomes]


@pytest.fixture(scope="module")
def pair(make_outcomes: MakeOutcomes, seed: int) -> Outcomes:
    """Questions that are asked with other options again: equal stems."""
    data = make_outcomes(seed, 150).with_models(("tiny", "big"))
    again = tuple(f"{data.texts[i // 2]}\nA) {i} B) {i + 1}" for i in range(150))
    return replace(data, texts=again, subjects=tuple("ab"[i % 2] for i in range(150)))


def _told(test: Outcomes, number: _Array, rivals: dict[str, _Array], n: int) -> Told:
    return Told(test, Estimates(number, number, number, number, number[:, 0], number), rivals, n)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Outcomes, Outcomes]]:
    """What every fold is trained and told on; what is told is the number in the query's id."""
    seen: list[tuple[Outcomes, Outcomes]] = []

    def tell(train: Outcomes, test: Outcomes, plan: Plan, sharing: object) -> Told:
        seen.append((train, test))
        number = np.array([[float(one[1:])] * 2 for one in test.ids])
        return _told(test, number, {"r": number}, len(train))

    monkeypatch.setattr(crossval, "tell", tell)
    return seen


def test_a_stem_is_never_on_both_sides(
    pair: Outcomes, plan: Plan, watched: list[tuple[Outcomes, Outcomes]]
) -> None:
    cross_validate(pair, plan, folds=4)
    assert len(watched) == 4
    for train, test in watched:
        assert not datasets.leaks(train, test)
        assert len(train) + len(test) == len(pair)
    assert len(set(pair.stems)) < len(pair), "there are stems that could be on both"


def test_every_query_is_told_once_and_beside_what_was_said_of_it(
    pair: Outcomes, plan: Plan, watched: list[tuple[Outcomes, Outcomes]]
) -> None:
    told = cross_validate(pair, plan, folds=3)
    assert sorted(told.outcomes.ids) == sorted(pair.ids)
    number = np.array([float(one[1:]) for one in told.outcomes.ids])
    for said in (told.expected.p_correct[:, 0], told.expected.out_of_distribution, told.rivals["r"][:, 1]):
        assert np.array_equal(said, number)
    place = {one: i for i, one in enumerate(pair.ids)}
    rows = np.array([place[one] for one in told.outcomes.ids])
    assert np.array_equal(told.outcomes.score, pair.score[rows])
    assert told.outcomes.texts == tuple(pair.texts[row] for row in rows)
    assert told.outcomes.subjects == tuple(pair.subjects[row] for row in rows)


def test_labels_are_capped_and_drawn_by_seed(
    pair: Outcomes, plan: Plan, watched: list[tuple[Outcomes, Outcomes]]
) -> None:
    assert cross_validate(pair, plan, folds=3, labels=40).labels == 40
    assert [len(train) for train, _ in watched] == [40, 40, 40]
    other = replace(plan, recipe=replace(plan.recipe, seed=plan.recipe.seed + 1))
    drawn = [capped(pair, 40, one).ids for one in (plan, plan, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 40
    assert capped(pair, 10_000, plan) is capped(pair, None, plan) is pair


def test_what_others_say_is_asked_for_without_the_fold(
    pair: Outcomes, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    def tell(train: Outcomes, test: Outcomes, plan: Plan, sharing: Callable[..., None]) -> Told:
        sharing()
        sharing(9)
        some = np.zeros((len(test), 2))
        return _told(test, some, {}, len(train))

    monkeypatch.setattr(crossval, "tell", tell)
    cross_validate(pair, plan, 3, sharing=lambda *folds: asked.append(folds))
    assert asked == [(0,), (0, 9), (1,), (1, 9), (2,), (2, 9)]


def test_progress_names_the_fold(
    pair: Outcomes, plan: Plan, watched: list[tuple[Outcomes, Outcomes]]
) -> None:
    told: list[str] = []
    cross_validate(pair, plan, 3, progress=told.append)
    assert told == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]


def test_one_question_cannot_be_cut_in_folds(pair: Outcomes, plan: Plan) -> None:
    same = replace(pair, texts=tuple(f"Which?\nA) {i}" for i in range(150)))
    with pytest.raises(DataError, match="1 different questions are too few for 3 folds"):
        cross_validate(same, plan, 3)


def test_the_recipe_and_its_rivals_tell_better_than_chance(
    make_outcomes: MakeOutcomes, plan: Plan, seed: int
) -> None:
    data = make_outcomes(seed, 500).with_models(("tiny", "big"))
    told = cross_validate(data, plan, 2)
    assert set(told.rivals) == {"random", "length + LR", "subject mean", "TF-IDF kNN", "TF-IDF + LR"}
    right = told.outcomes.score[:, 0]
    assert np.corrcoef(told.expected.p_correct[:, 0], right)[0, 1] > 0.3
    assert abs(np.corrcoef(told.rivals["random"][:, 0], right)[0, 1]) < 0.2
