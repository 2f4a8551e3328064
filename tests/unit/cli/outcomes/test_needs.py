"""How many labels a first certificate takes is what the certificate's own test says."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from headgate.cli.bundles.train import train
from headgate.cli.outcomes import needs
from headgate.router import certify


@pytest.mark.parametrize("window", [needs.WINDOW, 0])
@pytest.mark.parametrize("level", certify.LEVELS)
def test_with_so_many_labels_and_no_regret_the_level_is_certified_and_with_one_less_not(
    level: float, window: int
) -> None:
    n = needs.to_certify(level, window=window)

    def certified(count: int) -> list[float]:
        regret = np.zeros((count, 1), dtype=np.bool_)
        return [one.level for one in certify.fixed_sequence(regret, certify.LEVELS, needs.DELTA, window)]

    assert level in certified(n)
    assert level not in certified(n - 1)


def test_training_keeps_its_own_part() -> None:
    for level in certify.LEVELS:
        assert needs.to_collect(level) * needs.THRESHOLD_SHARE >= needs.to_certify(level)


def test_the_numbers_are_those_that_training_uses() -> None:
    defaults = _defaults()
    assert defaults["window"] == needs.WINDOW
    assert defaults["certify_share"] == needs.THRESHOLD_SHARE
    assert inspect.signature(certify.fixed_sequence).parameters["delta"].default == needs.DELTA


def _defaults() -> dict[str, object]:
    return {name: one.default for name, one in inspect.signature(train).parameters.items()}


@pytest.mark.parametrize(("target", "level"), [(0.05, 0.05), (0.07, 0.05), (0.5, 0.10), (0.001, 0.01)])
def test_the_largest_level_within_the_target_is_aimed_at(target: float, level: float) -> None:
    assert needs.level_for(target) == level
