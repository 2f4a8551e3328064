"""Real outcomes of real models, as they lie beside the checkout; nothing of them is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from headgate.router.offline import build, crossval, datasets, formats
from headgate.router.offline.build import Plan
from headgate.router.offline.datasets import Listed, Outcomes
from headgate.router.offline.train import Recipe
from headgate.router.types import Price

SEED = 1
SMALL, LARGE = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public outcomes."""
    return Path(__file__).parents[3] / "shared" / "data"


def plan(small: str, large: str) -> Plan:
    """Prices of which only the order matters."""
    listed = {name: Listed(Price(price, price), "") for name, price in ((small, 10**8), (large, 10**9))}
    return Plan(large, listed, Recipe(seed=SEED))


@pytest.fixture(scope="session")
def mmlu(data: Path) -> tuple[Outcomes, Outcomes]:
    """MMLU of two models, without high-school mathematics: 3,000 queries to learn from, and others."""
    table = formats.read(
        data,
        source="routellm",
        datasets=["mmlu"],
        models=[SMALL, LARGE],
        exclude=["routellm_contaminated=1", "subject=high_school_mathematics"],
    )
    fold = datasets.folds(table, SEED, build.FOLDS)
    learnt, other = table.take((fold != 0).nonzero()[0]), table.take((fold == 0).nonzero()[0])
    return crossval.capped(learnt, 3_000, plan(SMALL, LARGE)), other
