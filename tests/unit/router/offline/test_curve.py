from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from headgate.router.offline import curve
from headgate.router.offline.curve import auc

# Of five queries two are lost by small alone, one by large alone.
SCORE = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_recovered_is_counted_by_hand() -> None:
    best, worst = np.array([0.1, 0.9, 0.2, 0.0, 0.8]), np.array([0.3, 0.1, 0.2, 0.9, 0.0])
    assert curve.recovered(best, SCORE).tolist() == [0, 1, 2, 2, 2, 1]
    assert curve.recovered(worst, SCORE).tolist() == [0, -1, -1, -1, 0, 1]


def test_apgr_is_the_area_under_the_recovered() -> None:
    best = np.array([0.1, 0.9, 0.2, 0.0, 0.8])
    assert curve.apgr(best, SCORE) == pytest.approx((0 / 2 + 1 + 2 + 2 + 2 + 1 / 2) / 5)


def test_cpt_is_the_first_share_that_recovers_enough() -> None:
    order = np.array([0.9, 0.5, 0.8, 0.0, 0.4])
    assert curve.recovered(order, SCORE).tolist() == [0, 0, 0, 1, 2, 1]
    assert [curve.cpt(order, SCORE, wanted) for wanted in (0.0, 0.5, 1.0, 2.0)] == [0.0, 0.6, 0.6, 0.8]


def test_ties_keep_the_order_of_the_queries() -> None:
    assert curve.recovered(np.zeros(5), SCORE).tolist() == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("score", [SCORE[:, ::-1], SCORE[[0, 0, 2]]], ids=["worse", "equal"])
def test_without_a_gap_nothing_is_recovered(score: np.ndarray) -> None:
    gain = np.arange(float(len(score)))
    assert np.isnan(curve.recovered(gain, score)).all()
    assert np.isnan([curve.apgr(gain, score), curve.cpt(gain, score, 0.5)]).all()


def test_apgr_is_routellms_on_many_cuts(seed: int) -> None:
    """PGR at evenly spaced shares of large calls, and their mean (Ong et al. 2024, section 3)."""
    rng = np.random.default_rng(seed)
    hard, cuts = rng.random(2000), 2000
    score = (rng.random((2000, 2)) > np.stack((0.8 * hard, 0.3 * hard), axis=1)).astype(float)
    gain = hard + rng.normal(0, 0.3, 2000)
    small, large = score.mean(axis=0)
    pgr = []
    for cut in range(1, cuts + 1):
        to_large = np.zeros(2000, dtype=bool)
        to_large[np.argsort(-gain, kind="stable")[: round(2000 * cut / cuts)]] = True
        pgr.append((np.where(to_large, score[:, 1], score[:, 0]).mean() - small) / (large - small))
    assert curve.apgr(gain, score) == pytest.approx(np.mean(pgr), abs=0.001)


def test_chance_has_half_and_the_truth_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = (rng.random((4000, 2)) < (0.5, 0.8)).astype(float)
    drawn = np.mean([curve.apgr(rng.random(4000), score) for _ in range(50)])
    assert drawn == pytest.approx(0.5, abs=0.03)
    assert curve.apgr(score[:, 1] - score[:, 0], score) > 0.9


def test_auc_is_sklearns_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, positive = rng.integers(0, 20, 500) / 20, rng.random(500) < 0.3
    assert auc(p, positive) == pytest.approx(roc_auc_score(positive, p))
    assert np.isnan(auc(p, np.ones(500, dtype=bool)))


def test_an_interval_holds_its_value_and_has_the_width_of_the_mean(seed: int) -> None:
    values = np.random.default_rng(seed).random(400)
    found = curve.interval(lambda rows: float(values[rows].mean()), 400, seed)
    assert found.low < found.value == values.mean() < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert curve.interval(lambda rows: float(values[rows].mean()), 400, seed) == found


def test_draws_without_a_value_are_left_out_of_an_interval() -> None:
    def sometimes(rows: np.ndarray) -> float:
        return 1.0 if rows[0] % 2 else float("nan")

    found = curve.interval(sometimes, 10, 0)
    assert (found.low, found.high) == (1.0, 1.0)
    never = curve.interval(lambda rows: float("nan"), 10, 0)
    assert np.isnan([never.value, never.low, never.high]).all()
