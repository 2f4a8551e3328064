from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from headgate.router.calibrate import (
    KINDS,
    LARGEST_SPREAD,
    Calibrator,
    Kind,
    apply_all,
    brier,
    expected_calibration_error,
    fit,
    sigmoid,
    spreads,
)


def labelled(seed: int, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by a factor of 2 and shifted by 1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0.5, 1.5, n)
    return 2 * (truth - 1), (rng.random(n) < sigmoid(truth)).astype(float)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_lowers_brier_and_error(seed: int, kind: Kind) -> None:
    logits, scores = labelled(seed)
    half = len(logits) // 2
    calibrator = fit(kind, logits[:half], scores[:half])
    raw, better = sigmoid(logits[half:]), calibrator.apply(logits[half:])
    assert brier(better, scores[half:]) < brier(raw, scores[half:]) - 0.005
    if kind != "temperature":  # a factor alone cannot undo the shift
        assert (
            expected_calibration_error(better, scores[half:])
            < 0.02
            < expected_calibration_error(raw, scores[half:])
        )


def test_platt_is_logistic_regression(seed: int) -> None:
    logits, scores = labelled(seed, 2000)
    ours = fit("platt", logits, scores)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], scores)
    assert ours.rise == ours.fall == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert ours.bias == pytest.approx(oracle.intercept_[0], abs=1e-4)


@given(st.sampled_from(KINDS), st.integers(0, 2**32 - 1))
def test_calibration_never_turns_the_order_round(kind: Kind, draw: int) -> None:
    rng = np.random.default_rng(draw)
    logits = rng.normal(0, 2, 60)
    scores = (rng.random(60) < sigmoid(-3 * logits)).astype(float)  # labels that ask for a falling map
    p = fit(kind, logits, scores).apply(np.linspace(-30, 30, 50))
    assert (np.diff(p) >= -1e-12).all()
    assert ((p >= 0) & (p <= 1)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_that_are_all_alike_give_a_finite_map(kind: Kind, label: float) -> None:
    p = fit(kind, np.linspace(-3, 3, 50), np.full(50, label)).apply(np.array([-2.0, 0.0, 2.0]))
    assert np.isfinite(p).all()


def test_apply_all_gives_each_model_its_own_map(seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(5, 3, 2))
    pair = Calibrator("beta", 2.0, 0.5, 0.1), Calibrator("platt", 0.7, 0.7, -1.0)
    together = apply_all(pair, logits)
    for m, one in enumerate(pair):
        assert together[..., m] == pytest.approx(one.apply(logits[..., m]))


@pytest.mark.parametrize("map_", [Calibrator("beta", 2.0, 0.5, 0.1), Calibrator("platt", 0.7, 0.7, -1.0)])
def test_one_logit_gives_what_an_array_of_it_gives(map_: Calibrator) -> None:
    logits, deviation = np.linspace(-60, 60, 241)[:, None], np.linspace(0, 40, 241)[:, None]
    p = apply_all((map_,), logits)
    spread = spreads((map_,), logits, deviation, p)
    ones = [map_.one(z, d) for z, d in zip(logits[:, 0].tolist(), deviation[:, 0].tolist(), strict=True)]
    assert np.array(ones) == pytest.approx(np.concatenate((p, spread), axis=1), abs=1e-12)


@pytest.mark.parametrize("map_", [Calibrator("beta", 2.0, 0.5, 0.1), Calibrator("platt", 0.7, 0.7, -1.0)])
def test_a_spread_is_the_slope_of_the_map_times_the_deviation(map_: Calibrator) -> None:
    logits, step = np.linspace(-6, 6, 49), 1e-5
    slope = (map_.apply(logits + step) - map_.apply(logits - step)) / (2 * step)
    found = spreads((map_,), logits[:, None], np.full((49, 1), 0.3), map_.apply(logits)[:, None])
    assert found[:, 0] == pytest.approx(0.3 * slope, rel=1e-6)


def test_a_spread_is_that_of_drawn_logits_while_the_map_is_nearly_straight(seed: int) -> None:
    map_, deviation = Calibrator("beta", 1.2, 0.8, 0.1), 0.2
    drawn = map_.apply(0.4 + deviation * np.random.default_rng(seed).normal(size=100_000))
    logits = np.full((1, 1), 0.4)
    found = spreads((map_,), logits, np.full((1, 1), deviation), map_.apply(logits))
    assert found[0, 0] == pytest.approx(drawn.std(), rel=0.02)


def test_no_deviation_makes_a_spread_larger_than_a_quality_can_have() -> None:
    steep = Calibrator("platt", 3.0, 3.0, 0.0)
    logits, deviation = np.zeros((1, 1)), np.full((1, 1), 100.0)
    assert spreads((steep,), logits, deviation, steep.apply(logits)) == LARGEST_SPREAD == 0.5
    assert steep.one(0.0, 100.0)[1] == LARGEST_SPREAD


def test_platt_form_and_beta_form_agree() -> None:
    logits = np.linspace(-40, 40, 81)
    stacked = np.stack((logits, logits), axis=-1)
    mixed = apply_all((Calibrator("platt", 0.8, 0.8, 0.3), Calibrator("beta", 1.0, 2.0, 0.0)), stacked)[:, 0]
    assert mixed == pytest.approx(sigmoid(0.8 * logits + 0.3))


def test_errors_of_known_tables() -> None:
    p, scores = np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.0, 1.0, 1.0, 1.0])
    assert brier(p, scores) == pytest.approx((0.04 + 0.64 + 0.04 + 0.04) / 4)
    assert expected_calibration_error(p, scores, bins=2) == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)


def test_no_label_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one label"):
        fit("platt", np.empty(0), np.empty(0))
