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
    heads = model_of(make_weights(easy=3.0, per_digit=2.0)).run(batch)
    assert heads.logits.shape == heads.deviation.shape == heads.tokens.shape == (2, 2)
    d = np.log1p([0.0, 5.0])
    assert heads.logits[:, 0] == pytest.approx(3.0 - 2 * d, abs=0.01), "n-grams add a few thousandths"
    assert heads.logits[:, 1] == pytest.approx([2.0, 2.0], abs=1e-5)
    assert heads.tokens == pytest.approx(np.array([[10.0, 5.0], [10.0, 5.0]]), rel=1e-5)
    shared = 0.01 + (0.1 * d) ** 2
    assert heads.deviation[:, 0] == pytest.approx(np.sqrt(0.25 + shared), rel=1e-4)
    assert heads.deviation[:, 1] == pytest.approx(np.sqrt(shared), rel=1e-4)


@pytest.mark.parametrize("text", ["", "12 apples", "a word " * 400])
def test_one_query_is_told_what_the_batch_is(make_weights: MakeWeights, ask: Ask, text: str) -> None:
    model, batch = model_of(make_weights()), features.pack([features.extract(ask(text))])
    many = model.run(batch)
    for one, row in zip(model.run_one(batch), (many.logits, many.deviation, many.tokens), strict=True):
        assert one == pytest.approx(row[0].tolist(), rel=1e-12)
        assert all(type(number) is float for number in one)


def test_padding_changes_nothing(make_weights: MakeWeights, ask: Ask) -> None:
    model = model_of(make_weights())
    short, long = (features.extract(ask(text)) for text in ("12 apples", "a text that is a good deal longer"))
    alone, beside = model.run(features.pack([short])), model.run(features.pack([short, long]))
    for name in ("logits", "deviation", "tokens"):
        assert getattr(beside, name)[0] == pytest.approx(getattr(alone, name)[0], abs=1e-6)


LOGIT, LOG_TOKENS, VARIANCE = ("bias", 0), ("bias", 2), ("root_bias", 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e3])
@pytest.mark.parametrize("head", [LOGIT, LOG_TOKENS, VARIANCE])
def test_output_that_is_no_estimate_is_refused(
    make_weights: MakeWeights, ask: Ask, poison: float, head: tuple[str, int]
) -> None:
    if (head, poison) == (LOG_TOKENS, -np.inf):
        return  # zero expected tokens, odd but in range
    weights, (name, place) = make_weights(), head
    changed = getattr(weights, name).copy()
    changed[place] = poison
    model = model_of(replace(weights, **{name: changed}))
    for run in (model.run, model.run_one):
        with pytest.raises(EstimateError, match="not finite or out of range"):
            run(features.pack([features.extract(ask())]))


def test_a_variance_below_0_is_none(make_weights: MakeWeights, ask: Ask) -> None:
    """Halves in the table, and rounding, may bring it there."""
    weights = make_weights()
    table = weights.table.copy()
    table[1:, 4] = -0.5
    model, batch = model_of(replace(weights, table=table)), features.pack([features.extract(ask())])
    assert model.raw(batch.ngrams, batch.surface)[0, 2, 0] < 0
    assert model.run(batch).deviation[0, 0] == model.run_one(batch)[1][0] == 0.0


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(EstimateError, match="no ONNX graph"):
        UncertaintyModel(b"not a graph", models=2)


def test_a_graph_for_another_number_of_models_is_refused(make_weights: MakeWeights, ask: Ask) -> None:
    model = UncertaintyModel(graph.build(make_weights()), models=3)
    for run in (model.run, model.run_one):
        with pytest.raises(EstimateError, match=r"\(n, 3, 3\)"):
            run(features.pack([features.extract(ask())]))


def test_arrays_of_another_shape_fail_clearly(make_weights: MakeWeights) -> None:
    model = model_of(make_weights())
    with pytest.raises(EstimateError, match="failed while running"):
        model.raw(np.ones((1, 3), dtype=np.int32), np.ones((1, len(SURFACE) + 1), dtype=np.float32))


def test_equal_weights_give_equal_bytes(make_weights: MakeWeights) -> None:
    assert graph.build(make_weights()) == graph.build(make_weights())
