from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from headgate.router import features
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.export import run_torch
from headgate.router.offline.train import Network, Recipe, train
from headgate.router.types import Objective, Query

MakeOutcomes = Callable[[int, int], Outcomes]
QUICK = Recipe(seed=3, epochs=10, least_steps=30)


def heads(network: Network, *texts: str) -> np.ndarray:
    """(n, H + 1, M) of some texts."""
    batch = features.pack([features.extract(Query(text, Objective(0.1))) for text in texts])
    return run_torch(network, batch.ngrams, batch.surface)


def test_equal_seeds_train_equal_networks(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    first, second, other = (train(data, replace(QUICK, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.table, other.table)


def test_frozen_units_stay_as_they_were_drawn(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    short, long = (train(data, replace(QUICK, least_steps=steps)) for steps in (5, 40))
    assert torch.equal(short.prior_in, long.prior_in)
    assert torch.equal(short.prior_out, long.prior_out)
    assert not torch.equal(short.out, long.out)


def test_progress_is_told_about_twenty_times_and_reaches_the_end(make_outcomes: MakeOutcomes) -> None:
    told: list[tuple[int, int, float]] = []
    train(make_outcomes(5, 600), QUICK, lambda *news: told.append(news))
    assert 20 <= len(told) <= 40
    assert told[-1][1] == QUICK.steps(600) == 30
    assert all(np.isfinite(loss) for *_, loss in told)


def test_the_network_learns_difficulty_and_length(outcomes: Outcomes) -> None:
    network = train(outcomes, Recipe(seed=3))
    found = heads(
        network, "add 3 and 4 of 123456", "add 34567 and 45678 of 123456", "name 34567 and 45678 of 12"
    )
    p = 1 / (1 + np.exp(-found[:, :-1].mean(axis=1)))
    assert p[0, 0] > p[1, 0] + 0.4, "tiny fails at long numbers"
    assert p[1, 2] > 0.85
    assert p[2, 0] > p[2, 2], "and is ahead in its speciality"
    assert np.abs(np.exp(found[:, -1]) / [4.0, 8.0, 16.0] - 1).max() < 0.25


def test_heads_disagree_more_where_nothing_was_seen(outcomes: Outcomes) -> None:
    network = train(outcomes, QUICK)
    near = heads(network, *outcomes.texts[:200])[:, :-1].std(axis=1).mean()
    strange = [
        "\\int_0^1 {x}^2 dx; def f(): return `y`",
        "ÀÉÎÕÜ ÀÉÎÕÜ ÀÉÎÕÜ",
        "((((((((((((((((((((",
        "A) b\nB) c\nC) d\n" * 9,
    ]
    assert heads(network, *strange)[:, :-1].std(axis=1).mean() > 1.5 * near


def test_unknown_lengths_keep_the_default(make_outcomes: MakeOutcomes) -> None:
    data = make_outcomes(5, 300)
    blind = replace(data, completion_tokens=np.full_like(data.completion_tokens, np.nan))
    network = train(blind, replace(QUICK, default_answer_tokens=99.0, decay=0.0))
    assert np.abs(np.exp(heads(network, "add 3 and 4 of 5")[0, -1]) - 99.0).max() < 0.5
