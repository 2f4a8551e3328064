"""The planted world, and a bundle that is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.router.bundle import Bundle, Contents
from headgate.router.offline import build, certify, datasets
from headgate.router.offline.build import Plan
from headgate.router.offline.certify import Statement
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.train import Recipe
from tests.planted import PRICES, planted, write


@pytest.fixture(scope="session")
def make_outcomes() -> Callable[[int, int], Outcomes]:
    return planted


@pytest.fixture(scope="session")
def outcomes(seed: int) -> Outcomes:
    return planted(seed, 4000)


@pytest.fixture(scope="session")
def fresh(seed: int) -> Outcomes:
    return planted(seed + 1, 4000)


@pytest.fixture(scope="session")
def plan(seed: int) -> Plan:
    return Plan("big", PRICES, Recipe(seed=seed), risk_target=0.1)


@pytest.fixture(scope="session")
def terms() -> Statement:
    return Statement(created=1_000.0, versions=PRICES)


@pytest.fixture(scope="session")
def parts(outcomes: Outcomes, seed: int) -> tuple[Outcomes, Outcomes]:
    """To train and calibrate, and to certify."""
    fitted, threshold = datasets.split(outcomes, seed, (0.7, 0.3))
    return fitted, threshold


@pytest.fixture(scope="session")
def contents(parts: tuple[Outcomes, Outcomes], plan: Plan, terms: Statement) -> Contents:
    fitted, threshold = parts
    made = build.build(fitted, plan)
    return replace(made, certificates=certify.certificates(build.loaded(made), threshold, terms))


@pytest.fixture(scope="session")
def trained(contents: Contents) -> Bundle:
    return build.loaded(contents)


@pytest.fixture(scope="session")
def write_files() -> Callable[[Path, Outcomes], tuple[Path, Path, Path]]:
    return write
