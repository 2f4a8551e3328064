from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from headgate.router import features
from headgate.router.model import UncertaintyModel
from headgate.router.offline import export as exporting
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.export import export, run_torch
from headgate.router.offline.train import Network, Recipe, train


@pytest.fixture(scope="module")
def network(make_outcomes: Callable[[int, int], Outcomes], seed: int) -> Network:
    return train(make_outcomes(seed, 300), Recipe(seed=seed, least_steps=40))


def test_the_graph_agrees_with_torch_alone_and_in_padded_batches(
    network: Network, outcomes: Outcomes
) -> None:
    graph, _ = export(network)
    model = UncertaintyModel(graph, 3)
    chosen = [*outcomes.features[:40], *(features.extract(one) for one in odd_queries())]
    batch = features.pack(chosen)
    together = model.raw(batch.ngrams, batch.surface)
    assert together == pytest.approx(run_torch(network, batch.ngrams, batch.surface), abs=1e-4)
    for row, one in zip(together, chosen, strict=True):
        assert row == pytest.approx(model.raw(one.ngrams[None], one.surface[None])[0], abs=1e-4)


def odd_queries() -> list[features.Query]:
    from headgate.router.types import Objective

    return [features.Query(text, Objective(0.1)) for text in ("", "x", "word " * 2000)]


def test_golden_vectors_are_the_graphs_own_output(network: Network) -> None:
    graph, golden = export(network)
    assert (UncertaintyModel(graph, 3).raw(golden.ngrams, golden.surface) == golden.heads).all()


def test_a_graph_that_differs_from_torch_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = exporting._weights(network)
    wrong = replace(right, out_bias=right.out_bias + np.float32(0.01))
    monkeypatch.setattr(exporting, "_weights", lambda network: wrong)
    with pytest.raises(ArithmeticError, match=r"differ by 0\.01"):
        export(network)


def test_the_padding_row_is_zero(network: Network) -> None:
    export(network)
    assert torch.equal(network.table[0], torch.zeros_like(network.table[0]))
