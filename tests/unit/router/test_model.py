from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headgate.router import features
from headgate.router.errors import EstimateError
from headgate.router.features import SURFACE
from headgate.router.model import UncertaintyModel
from headgate.router.offline import graph
from headgate.router.offline.graph import Weights
from headgate.router.types import Query

Ask, MakeWeights = Callable[..., Query], Callable[..., Weights]


def model_of(weights: Weights) -> UncertaintyModel:
    return UncertaintyModel(graph.build(weights), models=2)


def test_heads_are_those_of_the_weights(make_weights: MakeWeights, ask: Ask) -> None:
    batch = features.pack([features.extract(ask(text)) for text in ("no number", "12 and 345")])
    heads = model_of(make_weights(heads=3, easy=3.0, per_digit=2.0)).run(batch)
    assert heads.logits.shape == (2, 3, 2)
    small, large = heads.logits[:, 1, 0], heads.logits[:, 1, 1]
    noise = pytest.approx  # the n-gram unit adds a few thousandths
    assert small == noise([3.0, 3.0 - 2 * np.log1p(5)], abs=0.01)
    assert large == noise([2.0, 2.0], abs=0.01)
    assert heads.tokens == noise(np.array([[10.0, 5.0], [10.0, 5.0]]), rel=1e-5)


def test_padding_changes_nothing(make_weights: MakeWeights, ask: Ask) -> None:
    model = model_of(make_weights())
    short, long = (features.extract(ask(text)) for text in ("12 apples", "a text that is a good deal longer"))
    alone, beside = model.run(features.pack([short])), model.run(features.pack([short, long]))
    assert beside.logits[0] == pytest.approx(alone.logits[0], abs=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e3])
@pytest.mark.parametrize("block", [0, -1])
def test_output_that_is_no_estimate_is_refused(
    make_weights: MakeWeights, ask: Ask, poison: float, block: int
) -> None:
    weights = make_weights()
    bias = weights.out_bias.copy()
    bias[block, 0] = poison
    if block == -1 and poison == -np.inf:
        return  # zero expected tokens, odd but in range
    model = model_of(replace(weights, out_bias=bias))
    for run in (model.run, model.run_one):
        with pytest.raises(EstimateError, match="not finite or out of range"):
            run(features.pack([features.extract(ask())]))


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(EstimateError, match="no ONNX graph"):
        UncertaintyModel(b"not a graph", models=2)


def test_a_graph_for_another_number_of_models_is_refused(make_weights: MakeWeights, ask: Ask) -> None:
    model = UncertaintyModel(graph.build(make_weights()), models=3)
    with pytest.raises(EstimateError, match=r"\(n, heads, 3\)"):
        model.run(features.pack([features.extract(ask())]))


def test_arrays_of_another_shape_fail_clearly(make_weights: MakeWeights) -> None:
    model = model_of(make_weights())
    with pytest.raises(EstimateError, match="failed while running"):
        model.raw(np.ones((1, 3), dtype=np.int32), np.ones((1, len(SURFACE) + 1), dtype=np.float32))


def test_equal_weights_give_equal_bytes(make_weights: MakeWeights) -> None:
    assert graph.build(make_weights()) == graph.build(make_weights())
