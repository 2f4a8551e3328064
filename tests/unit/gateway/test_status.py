"""Which certificate ordinary queries are covered by."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from headgate.gateway.status import in_force
from headgate.router.types import Certificate, Model, Objective, Pool, Price

PRICE = Price(1, 1)
POOL = Pool((Model("small", PRICE, version="v1"), Model("large", PRICE, version="v2")), "large")
TIGHT = Certificate(
    "tight", "regret", 0.02, 0.9, 0.1, 100, "ff", 0, "large", expires=50, models=("small@v1", "large@v2")
)
LOOSE = replace(TIGHT, id="loose", risk_target=0.1)


def found(target: float, *certificates: Certificate, now: float = 0) -> str:
    bundle: Any = SimpleNamespace(certificates=certificates)
    certificate = in_force(bundle, POOL, Objective(risk_target=target), now)
    return certificate.id if certificate else ""


def test_the_loosest_that_meets_the_objective_is_in_force() -> None:
    assert found(0.05, TIGHT, LOOSE) == "tight"
    assert found(0.2, TIGHT, LOOSE) == "loose"
    assert found(0.01, TIGHT, LOOSE) == ""


@pytest.mark.parametrize(
    "unfit",
    [
        replace(TIGHT, models=("small@v0", "large@v2")),
        replace(TIGHT, reference="small"),
        replace(TIGHT, expires=-1),
    ],
    ids=["another version", "another reference", "expired"],
)
def test_a_certificate_that_speaks_of_something_else_is_not(unfit: Certificate) -> None:
    assert found(0.05, unfit) == ""


def test_a_bare_name_fits_any_version() -> None:
    assert found(0.05, replace(TIGHT, models=("small", "large"))) == "tight"


def test_without_bundle_or_pool_there_is_none() -> None:
    assert in_force(None, POOL, Objective(risk_target=0.1), 0) is None
    bundle: Any = SimpleNamespace(certificates=(TIGHT,))
    assert in_force(bundle, None, Objective(risk_target=0.1), 0) is None
