"""What the curriculum hands out next."""

from __future__ import annotations

from random import Random

import pytest

from headgate.worker.backends.builtin.train.curriculum import CELLS, Curriculum
from headgate.worker.backends.builtin.worksheets import split_of


def weights(
    curriculum: Curriculum, all_open: bool = False, **emphasis: float
) -> dict[tuple[str, int], float]:
    return dict(zip(CELLS, curriculum.weights(emphasis, all_open), strict=True))


def test_a_level_opens_with_the_one_below_it() -> None:
    curriculum = Curriculum()
    closed = weights(curriculum)
    assert closed["add", 0] > 10 * closed["add", 1]
    curriculum.accuracy["add", 0] = 0.45
    half = weights(curriculum)
    curriculum.accuracy["add", 0] = 0.7
    whole = weights(curriculum)
    assert closed["add", 1] < half["add", 1] < whole["add", 1] == weights(curriculum, all_open=True)["add", 1]


def test_what_goes_wrong_comes_more_often() -> None:
    curriculum = Curriculum()
    curriculum.accuracy["sort", 0] = 1.0
    found = weights(curriculum)
    assert found["sort", 0] == pytest.approx(found["add", 0] / 5)


def test_emphasis_multiplies() -> None:
    found = weights(Curriculum(), add=3.0)
    assert found["add", 0] == pytest.approx(3 * found["sub", 0])


def test_the_average_moves_towards_what_happens() -> None:
    curriculum = Curriculum()
    for _ in range(200):
        curriculum.record("add", 0, 1.0)
    assert curriculum.accuracy["add", 0] > 0.99
    assert curriculum.mean_by_level()[0] == pytest.approx(curriculum.accuracy["add", 0] * 4 / len(CELLS))


def test_it_draws_from_the_training_split_alone(seed: int) -> None:
    sheets = Curriculum().draw(Random(seed), 400, {}, all_open=True)
    assert len(sheets) == 400
    assert {split_of(sheet.question) for sheet in sheets} == {"train"}
