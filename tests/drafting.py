"""Worlds in which a small model drafts: families of queries, and drafts that tell how sure it was.

How hard a query is hides from its text; families are plain to see. The small model writes more hedges and
less likely tokens where it is wrong, and more words where the query is hard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headgate.router.offline.datasets import Listed, Outcomes
from headgate.router.types import Draft, Price

_Array = NDArray[np.float64]
SMALL, LARGE = "small", "large"
PRICES = {
    SMALL: Listed(Price(20_000_000, 100_000_000), "s1"),
    LARGE: Listed(Price(300_000_000, 1_500_000_000), "l1"),
}
_NAMES = ("Ada", "Bela", "Chidi", "Dara", "Emre", "Fatou", "Goran", "Hana")
_THINGS = ("pump", "ledger", "orchard", "valve", "lease", "turbine", "parcel", "kiln")
_FAMILIES = (
    "How many {thing}s does {name} have left after selling {a} of {b} and buying {c} more?",
    "Convert {a} kilometres to miles for the {thing} of {name}, to {c} decimals.",
    "Which clause of the {thing} contract lets {name} leave after {a} months of {b}?",
    "Summarise what {name} wrote on page {a} about the {thing} in at most {b} words.",
    "Write a query that lists every {thing} of {name} with more than {a} units since {b}.",
    "Put the dose for {name} right: {a} mg for {b} kg, and the {thing} holds {c} ml.",
)
FIRST_WORDS = tuple(one.split()[0] for one in _FAMILIES)
_SURE = ("The answer is {x}.", "It is {x}, as {y} shows.", "{x}. That follows from {y} at once.")
_UNSURE = ("Perhaps {x}, but {y} might be meant.", "I am not sure; it could be about {x} or {y}.")


@dataclass(frozen=True)
class World:
    """Logits (families,) of being right at a query of middle hardness, and how much hardness counts."""

    small: tuple[float, ...]
    large: tuple[float, ...]
    small_suffers: float
    large_suffers: float


SPECIALIST = World((0.3, 0.5, 0.5, 0.0, 0.7, 0.1), (2.4, 2.2, -3.0, 2.5, -2.8, 2.0), 1.5, 1.0)
"""Small is better at the third and the fifth family, where large is mostly wrong."""
STEADY = World(SPECIALIST.small, (1.4,) * 6, 1.5, 0.0)
"""Large is right four times in five, whatever is asked: there confidence alone is the best there is."""


def drawn(world: World, seed: int, n: int) -> Outcomes:
    """n different queries with the outcomes of both models and the drafts of the small one."""
    rng = np.random.default_rng(seed)
    family, hard = rng.integers(0, len(_FAMILIES), n), rng.normal(size=n)
    right = np.stack([
        rng.random(n) < _chance(np.array(world.small)[family] - world.small_suffers * hard),
        rng.random(n) < _chance(np.array(world.large)[family] - world.large_suffers * hard),
    ], axis=1)  # fmt: skip
    texts = tuple(_query(rng, one, row) for row, one in enumerate(family.tolist()))
    drafts = tuple(
        _draft(rng, good, weight) for good, weight in zip(right[:, 0].tolist(), hard.tolist(), strict=True)
    )
    prompt = np.repeat([[len(text) / 4] for text in texts], 2, axis=1)
    answers = np.stack([[one.tokens for one in drafts], rng.poisson(30.0, n) + 1.0], axis=1)
    return Outcomes(
        tuple(f"q{row}" for row in range(n)), texts, (SMALL, LARGE),
        right.astype(np.float64), prompt, answers, drafts={SMALL: drafts},
    )  # fmt: skip


def _chance(logit: _Array) -> _Array:
    return np.asarray(1 / (1 + np.exp(-logit)))


def _query(rng: np.random.Generator, family: int, row: int) -> str:
    a, b, c = rng.integers(2, 900, 3).tolist()
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    return f"{_FAMILIES[family].format(name=name, thing=thing, a=a, b=b, c=c)} (case {row})"


def _draft(rng: np.random.Generator, right: bool, hard: float) -> Draft:
    sure = rng.random() < (0.8 if right else 0.35)
    words = _SURE if sure else _UNSURE
    said = [
        words[rng.integers(len(words))].format(x=rng.integers(2, 900), y=rng.integers(2, 900))
        for _ in range(1 + rng.poisson(np.exp(0.3 + 0.5 * hard)))
    ]
    text = " ".join(said)
    tokens = max(4, len(text) // 4)
    level = np.exp(rng.normal(-2.0 + (0.0 if right else 0.8) + 0.3 * hard, 0.6))
    logprobs = -rng.exponential(level, tokens)
    return Draft(SMALL, text, tokens=tokens, logprobs=tuple(np.round(logprobs, 4).tolist()))
