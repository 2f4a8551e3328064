"""The certificate that ships holds on worksheets that nothing of the bundle has seen."""

from __future__ import annotations

import pytest

from headgate.worker.backends.builtin.worksheets import batch
from tests.bench import certificate
from tests.bench.certificate import Routed

POOL, WINDOWS = 4000, 50


@pytest.fixture(scope="module")
def routed(seed: int) -> list[Routed]:
    bundle = certificate.shipped_bundle()
    return certificate.route(batch(seed, POOL), bundle, bundle.default_risk_target)


def test_the_shipped_certificate_holds_on_fresh_worksheets(routed: list[Routed], seed: int) -> None:
    kept = certificate.promise(routed, certificate.shipped_bundle(), WINDOWS, seed)
    assert kept.held >= kept.confidence * WINDOWS, kept


def test_it_covers_what_it_was_made_for_and_saves_by_it(routed: list[Routed]) -> None:
    assert sum(one.covered for one in routed) >= 0.98 * len(routed)
    quality = sum(one.chosen_right for one in routed) / len(routed)
    reference = sum(one.reference_right for one in routed) / len(routed)
    cost = sum(one.chosen_cost for one in routed) / sum(one.reference_cost for one in routed)
    assert quality >= reference - 0.02
    assert cost <= 0.65
    assert quality - _random_mix(routed, cost) > 0.05, "more than the 95 % interval of 300 worksheets"


def _random_mix(routed: list[Routed], cost: float) -> float:
    """Quality of a coin that sends the share to the reference which costs as much."""
    cheap = sum(one.cheapest_cost for one in routed) / sum(one.reference_cost for one in routed)
    share = (cost - cheap) / (1 - cheap)
    right = (sum(one.cheapest_right for one in routed), sum(one.reference_right for one in routed))
    return ((1 - share) * right[0] + share * right[1]) / len(routed)


def test_a_policy_that_ignores_its_certificate_is_found_out(routed: list[Routed], seed: int) -> None:
    """A planted fault: every worksheet goes to a model that is wrong wherever the small one might be."""
    careless = [Routed(one.reference_right, False, True) for one in routed]
    broken = certificate.promise(careless, certificate.shipped_bundle(), WINDOWS, seed)
    assert broken.held == 0
