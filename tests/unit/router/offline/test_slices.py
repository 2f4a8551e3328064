"""Slices: biases that average out are found in them and mended, and nothing is found where nothing is."""

from __future__ import annotations

import numpy as np

from headgate.router.offline import slices
from tests.planted import planted


def biased(seed: int, bias: float) -> slices.Misfit:
    """Predictions that are too high by `bias` for one verb and too low for the other."""
    outcomes = planted(seed, 1_500)
    rng = np.random.default_rng(seed)
    right = np.where([text.startswith("add") for text in outcomes.texts], 0.5 - bias, 0.5 + bias)
    score = (rng.random(len(right)) < right).astype(float)
    return slices.misfit(outcomes, np.full(len(right), 0.5), score, seed)


def test_what_is_calibrated_in_every_slice_has_next_to_no_loss(seed: int) -> None:
    found = biased(seed, 0.0)
    assert found.loss < 0.005
    assert found.brier_change.high > -0.001


def test_opposite_biases_that_average_out_are_found_and_mended(seed: int) -> None:
    found = biased(seed, 0.25)
    assert 0.03 < found.loss < 0.09, "0.25² in all, less what the surface does not show"
    assert found.brier_change.high < -0.02


def test_the_same_seed_finds_the_same(seed: int) -> None:
    assert biased(seed, 0.1) == biased(seed, 0.1)


def test_a_shift_that_is_the_same_everywhere_is_loss_too(seed: int) -> None:
    outcomes = planted(seed, 1_500)
    score = (np.random.default_rng(seed).random(1_500) < 0.5).astype(float)
    found = slices.misfit(outcomes, np.full(1_500, 0.7), score, seed)
    assert 0.02 < found.loss < 0.07, "0.2²: calibration's part"
