from __future__ import annotations

import numpy as np
import pytest

from headgate.router.offline import curve, frontier

GAIN = np.array([0.1, 0.9, 0.5, -0.2])
SCORE = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])


def test_paths_are_counted_by_hand() -> None:
    assert frontier.quality(GAIN, SCORE).tolist() == [0.5, 0.75, 1.0, 1.0, 0.75]
    assert frontier.regret(GAIN, SCORE).tolist() == [0.5, 0.25, 0.0, 0.0, 0.0]


def test_the_least_share_that_keeps_a_level_is_counted_by_hand() -> None:
    assert [frontier.keeps(GAIN, SCORE, level) for level in (0.5, 0.7, 1.0, 1.2)] == [0.0, 0.25, 0.25, 0.5]
    assert frontier.calls_for(GAIN, SCORE, 0.25) == 1
    assert frontier.calls_for(GAIN, SCORE, 0.2) == 2
    assert frontier.calls_for(GAIN, SCORE, 0.5) == 0


def test_by_lot_the_share_is_on_the_line_between_the_two() -> None:
    assert frontier.keeps_by_chance(np.array([[0.2, 0.8]]), 0.95) == pytest.approx(0.56 / 0.6)
    assert frontier.keeps_by_chance(np.array([[0.79, 0.8]]), 0.95) == 0.0
    assert frontier.keeps_by_chance(np.array([[0.8, 0.2]]), 0.95) == 0.0


def test_quality_recovers_what_the_curve_recovers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, score = rng.random(300), (rng.random((300, 2)) < (0.3, 0.8)).astype(float)
    path = frontier.quality(gain, score)
    assert (path - path[0]) / (path[-1] - path[0]) == pytest.approx(curve.recovered(gain, score))


def test_a_band_holds_its_line_and_narrows_with_more_queries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, score = rng.random(1600), (rng.random((1600, 2)) < (0.3, 0.8)).astype(float)
    few, many = (frontier.band(frontier.quality, gain[:n], score[:n], seed, 200) for n in (100, 1600))
    for found, n in ((few, 100), (many, 1600)):
        assert found.value[[0, -1]] == pytest.approx(score[:n].mean(axis=0))
        assert ((found.low <= found.value) & (found.value <= found.high)).all()
    assert np.mean(many.high - many.low) < 0.5 * np.mean(few.high - few.low)
    assert few.high[-1] - few.low[-1] == pytest.approx(2 * 1.96 * np.std(score[:100, 1]) / 10, rel=0.25)


def test_the_order_of_the_rows_does_not_move_a_band(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain, score = rng.random(80), rng.random((80, 2))
    again = rng.permutation(80)
    one, other = (
        frontier.band(frontier.regret, gain[rows], score[rows], seed, 50) for rows in (np.arange(80), again)
    )
    assert np.array_equal(one.high, other.high)


def test_what_is_spared_is_the_difference_to_a_choice_by_lot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hard = rng.random(800)
    score = (rng.random((800, 2)) < np.stack((1 - hard, np.full(800, 0.95)), axis=1)).astype(float)
    spared = frontier.spared_within(hard, score, 0.95, seed)
    assert spared.value == frontier.keeps_by_chance(score, 0.95) - frontier.keeps(hard, score, 0.95)
    assert 0 < spared.low < spared.value < spared.high
    kept = frontier.keeps_within(hard, score, 0.95, seed)
    assert kept.low <= kept.value == frontier.keeps(hard, score, 0.95) <= kept.high
