"""A planted world: three models whose chances are known functions of the text."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from headgate.router.offline.datasets import Listed, Outcomes
from headgate.router.types import Price

MODELS = ("tiny", "mid", "big")
PRICES = {
    "tiny": Listed(Price(10_000_000, 10_000_000), "t1"),
    "mid": Listed(Price(40_000_000, 40_000_000), ""),
    "big": Listed(Price(200_000_000, 200_000_000), "b1"),
}


def chances(verb: str, digits: int) -> tuple[float, float, float]:
    """P(right) of tiny, mid, big: longer numbers are harder; naming is tiny's speciality."""
    if verb == "name":
        return 0.97, 0.8, 0.7
    return max(0.02, 0.99 - 0.22 * (digits - 1)), max(0.1, 0.99 - 0.1 * (digits - 1)), 0.96


def planted(seed: int, n: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    texts: dict[str, tuple[float, float, float]] = {}
    while len(texts) < n:
        verb, digits = rng.choice(["add", "take", "name"]), int(rng.integers(1, 6))
        first, second = rng.integers(10 ** (digits - 1), 10**digits, 2)
        texts[f"{verb} {first} and {second} of {rng.integers(10**6)}"] = chances(str(verb), digits)
    p = np.array(list(texts.values()))
    score = (rng.random(p.shape) < p).astype(float)
    prompt = np.repeat(np.array([len(text) for text in texts], dtype=float)[:, None], 3, axis=1)
    answers = rng.poisson((4.0, 8.0, 16.0), p.shape).astype(float)
    return Outcomes(tuple(f"q{i}" for i in range(n)), tuple(texts), MODELS, score, prompt, answers)


def write(folder: Path, outcomes: Outcomes) -> tuple[Path, Path, Path]:
    """Queries, outcomes and prices as the files that the commands read."""
    rows = range(len(outcomes))
    _write(
        folder / "queries.csv",
        ("query_id", "query"),
        [(outcomes.ids[i], outcomes.texts[i]) for i in rows],
    )
    cells = [
        (
            "planted",
            outcomes.ids[i],
            name,
            outcomes.score[i, m],
            int(outcomes.prompt_tokens[i, m]),
            int(outcomes.completion_tokens[i, m]),
        )
        for m, name in enumerate(outcomes.models)
        for i in rows
    ]
    head = ("dataset", "query_id", "model", "score", "prompt_tokens", "completion_tokens")
    _write(folder / "outcomes.csv", head, cells)
    prices = [
        (name, one.price.input_nanousd / 1e9, one.price.output_nanousd / 1e9, one.version)
        for name, one in PRICES.items()
    ]
    _write(folder / "prices.csv", ("model", "usd_per_m_input", "usd_per_m_output", "version"), prices)
    return folder / "queries.csv", folder / "outcomes.csv", folder / "prices.csv"


def _write(path: Path, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
