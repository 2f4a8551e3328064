from __future__ import annotations

import pytest

from headgate.gateway.pace import FRESH_S, REMEMBERED, PaceMeter
from headgate.router.types import Pace


def test_nothing_is_known_before_the_first_answer() -> None:
    assert PaceMeter().pace(0.0) is None


def test_it_is_the_median_of_the_last_answers() -> None:
    meter = PaceMeter()
    for _ in range(REMEMBERED):
        meter.finished(100.0, 1.0, now=0.0)
    for number in range(REMEMBERED - 1):
        meter.finished(1.0 + number % 3, 30.0, now=1.0)
    assert meter.pace(1.0) == Pace(seconds=2.0, tokens=30.0)


def test_answers_are_forgotten_so_that_a_model_left_alone_is_tried_again() -> None:
    meter = PaceMeter()
    meter.finished(9.0, 1.0, now=0.0)
    meter.finished(2.0, 1.0, now=10.0)
    assert meter.pace(FRESH_S) == Pace(5.5, 1.0)
    assert meter.pace(FRESH_S + 1) == Pace(2.0, 1.0)
    assert meter.pace(FRESH_S + 11) is None


def test_an_answer_cut_by_its_deadline_shows_that_a_model_is_slow() -> None:
    meter = PaceMeter()
    meter.cut(5.0, 0.0, now=0.0)
    assert meter.pace(0.0) == Pace(5.0, 0.0)


@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_an_answer_cut_sooner_than_usual_says_nothing(seconds: float) -> None:
    meter = PaceMeter()
    meter.finished(2.0, 7.0, now=0.0)
    meter.cut(seconds, 3.0, now=0.0)
    meter.cut(8.0, 3.0, now=0.0)
    assert meter.pace(0.0) == Pace(5.0, 7.0)
