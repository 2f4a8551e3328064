"""The hand-made bundles as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from typing import Any

import pytest

from headgate.router import bundle as bundles
from headgate.router.bundle import Bundle, Contents
from headgate.router.embedding import Embedding
from headgate.router.features import Familiarity
from headgate.router.offline.graph import Weights
from headgate.router.types import Certificate, Model, Pool, Query
from tests import hand_made
from tests.hand_made import LARGE, SMALL


@pytest.fixture(scope="session")
def make_weights() -> Callable[..., Weights]:
    return hand_made.weights


@pytest.fixture(scope="session")
def make_certificate() -> Callable[..., Certificate]:
    return hand_made.certificate


@pytest.fixture(scope="session")
def stranger() -> Familiarity:
    """Knows no word."""
    return hand_made.familiar_with(everything=False)


@pytest.fixture(scope="session")
def make_contents() -> Callable[..., Contents]:
    """Contents with changes: `make_contents(certificates=(...))`."""
    plain = hand_made.contents()

    def make(**changes: Any) -> Contents:
        return replace(plain, **changes)

    return make


@pytest.fixture(scope="session")
def make_bundle(make_contents: Callable[..., Contents]) -> Callable[..., Bundle]:
    """A loaded bundle with changed contents."""
    return lambda **changes: bundles.load(bundles.dump(make_contents(**changes)))


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


@pytest.fixture(scope="session")
def reading() -> Callable[..., Bundle]:
    """A bundle that reads small's drafts, with changes."""
    return lambda **changes: bundles.load(bundles.dump(hand_made.reading(**changes)))


@pytest.fixture(scope="session")
def pool() -> Pool:
    return Pool((Model("small", SMALL, 256, "s1"), Model("large", LARGE, 1024, "l1")), "large")


@pytest.fixture(scope="session")
def three() -> Bundle:
    """A bundle that reads drafts of small and of mid."""
    return bundles.load(bundles.dump(hand_made.three()))


@pytest.fixture(scope="session")
def pool_of_three(pool: Pool) -> Pool:
    small, large = pool.models
    return Pool((small, replace(small, name="mid"), large), "large")


@pytest.fixture(scope="session")
def ask() -> Callable[..., Query]:
    """A query with changes: `ask("text", temperature=1.0)`."""
    return hand_made.query


@pytest.fixture(scope="session")
def words() -> Embedding:
    """The shipped table of words."""
    return Embedding.read(resources.files("headgate.router").joinpath("words.npz").read_bytes())
