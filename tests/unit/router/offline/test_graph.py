from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from headgate.router import features
from headgate.router.features import BUCKETS, SURFACE
from headgate.router.model import UncertaintyModel
from headgate.router.offline import graph
from headgate.router.offline.datasets import Outcomes
from headgate.router.offline.graph import Weights, export, heads
from headgate.router.types import Objective, Query

ODD = ("", "x", "word " * 2000, "\ud800 {}")


@pytest.fixture(scope="module")
def weights(seed: int) -> Weights:
    """Three models, every number drawn."""
    rng, s = np.random.default_rng(seed), len(SURFACE)
    table = rng.normal(0, 0.5, (BUCKETS, 10))
    table[:, 6:] = np.abs(table[:, 6:]) + 1
    table[0] = 0
    return Weights(
        table.astype(np.float16),
        rng.normal(0, 0.1, (s, 6)).astype(np.float32),
        rng.normal(0, 1, 6).astype(np.float32),
        rng.normal(0, 0.05, (s, s)).astype(np.float32),
        rng.normal(0, 0.1, s).astype(np.float32),
    )


@pytest.fixture(scope="module")
def model(weights: Weights) -> UncertaintyModel:
    return UncertaintyModel(graph.build(weights), 3)


def test_the_graph_is_numpys_heads_alone_and_in_padded_batches(
    weights: Weights, model: UncertaintyModel, make_outcomes: Callable[[int, int], Outcomes]
) -> None:
    chosen = [
        *make_outcomes(1, 40).features,
        *(features.extract(Query(text, Objective(0.1))) for text in ODD),
    ]
    batch = features.pack(chosen)
    together = model.raw(batch.ngrams, batch.surface)
    assert together == pytest.approx(heads(weights, batch.ngrams, batch.surface), abs=1e-4)
    for row, one in zip(together, chosen, strict=True):
        assert row == pytest.approx(model.raw(one.ngrams[None], one.surface[None])[0], abs=1e-4)


def test_a_query_without_ngrams_is_told_by_its_surface(weights: Weights, model: UncertaintyModel) -> None:
    surface = np.ones((1, len(SURFACE)), dtype=np.float32)
    found = model.raw(np.zeros((1, 5), dtype=np.int32), surface)[0]
    lines = surface[0] @ weights.surface + weights.bias
    assert found[:2].ravel() == pytest.approx(lines, abs=1e-4)
    known = surface[0] @ weights.root + weights.root_bias
    assert found[2] == pytest.approx(np.full(3, known @ known), rel=1e-4)


def test_golden_vectors_are_the_graphs_own_output(weights: Weights) -> None:
    built, golden = export(weights)
    assert (UncertaintyModel(built, 3).raw(golden.ngrams, golden.surface) == golden.heads).all()
    assert golden.heads == pytest.approx(heads(weights, golden.ngrams, golden.surface), abs=1e-3)


@pytest.mark.parametrize("name", ["surface", "bias", "root_bias"])
def test_a_graph_that_differs_from_numpy_is_refused(
    weights: Weights, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = graph.build(replace(weights, **{name: getattr(weights, name) + np.float32(0.01)}))
    monkeypatch.setattr(graph, "build", lambda weights: other)
    with pytest.raises(ArithmeticError, match=r"differ by \d"):
        export(weights)


def test_output_that_is_no_number_is_refused(weights: Weights) -> None:
    bias = weights.bias.copy()
    bias[1] = np.nan
    with pytest.raises(ArithmeticError, match="differ by nan"):
        export(replace(weights, bias=bias))


def test_the_graph_holds_the_table_as_halves_and_is_checked_by_onnx(weights: Weights) -> None:
    loaded = onnx.load_from_string(graph.build(weights))
    onnx.checker.check_model(loaded, full_check=True)
    types = {one.name: one.data_type for one in loaded.graph.initializer}
    assert types.pop("table") == onnx.TensorProto.FLOAT16
    assert types["weights"] == types["root"] == onnx.TensorProto.FLOAT
