"""The exported graph computes what the trained network computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from headgate.worker.backends.builtin.engine import MODELS, Engine
from headgate.worker.backends.builtin.tokens import CONTEXT, END, VOCABULARY, encode, windows
from headgate.worker.backends.builtin.train.__main__ import PACKAGED
from headgate.worker.backends.builtin.train.export import export, shipped
from headgate.worker.backends.builtin.train.model import Network, Shape
from headgate.worker.backends.builtin.train.recipe import RECIPES
from headgate.worker.backends.builtin.worksheets import batch

TOLERANCE = 2e-4
"""Largest difference of a log probability, fp32 against fp32 in another order of summation."""

Arrays = dict[str, NDArray[Any]]


class Pair:
    """A network with random weights everywhere, and the session of its exported graph."""

    def __init__(self, shape: Shape, path: Path, seed: int) -> None:
        torch.manual_seed(seed)
        network = Network(shape)
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
                else:
                    parameter.uniform_(0.5, 1.5)
        self.network = shipped(network)
        export(self.network, path)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.shape = shape

    def expected(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return torch.log_softmax(self.network(torch.from_numpy(windows(ids))), -1).numpy()

    def empty(self, count: int) -> Arrays:
        cache = np.zeros((count, self.shape.heads, 0, self.shape.head_width), np.float32)
        return {f"{kind}.{layer}": cache for layer in range(self.shape.layers) for kind in ("key", "value")}

    def run(
        self, rows: NDArray[np.int32], last: NDArray[np.int32], cache: Arrays
    ) -> tuple[list[NDArray[Any]], Arrays]:
        names = [output.name for output in self.session.get_outputs()]
        feed = {"windows": rows, "last": last, "total": np.array([last.max() + 1], np.int32), **cache}
        found = dict(zip(names, self.session.run(names, feed), strict=True))
        outputs = [found.pop(name) for name in ("logprobs", "top_logprobs", "top_ids")]
        return outputs, {name.removesuffix(".out"): array for name, array in found.items()}


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Pair:
    path = tmp_path_factory.mktemp("parity") / f"{request.param}.onnx"
    return Pair(RECIPES[request.param].shape, path, seed)


def draw(seed: int, count: int, length: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, length)).astype(np.int32)


@pytest.mark.parametrize("length", [1, 2, 7, 33, 64, 200, CONTEXT])
def test_prefill(pair: Pair, seed: int, length: int) -> None:
    ids = draw(seed, 1, length)
    (logprobs, best, order), _ = pair.run(windows(ids), np.array([length - 1], np.int32), pair.empty(1))
    expected = pair.expected(ids)
    assert np.abs(logprobs - expected).max() < TOLERANCE
    assert np.abs(best - np.sort(expected)[..., :-9:-1]).max() < TOLERANCE
    assert np.abs(np.take_along_axis(logprobs, order, -1) - best).max() == 0


def test_steps_with_a_cache(pair: Pair, seed: int) -> None:
    ids, start = draw(seed, 1, 60), 25
    rows, expected = windows(ids), pair.expected(ids)
    _, cache = pair.run(rows[:, :start], np.array([start - 1], np.int32), pair.empty(1))
    for place in range(start, 60):
        (logprobs, *_), cache = pair.run(rows[:, place : place + 1], np.array([place], np.int32), cache)
        assert np.abs(logprobs[0, 0] - expected[0, place]).max() < TOLERANCE


def test_several_new_bytes_at_once(pair: Pair, seed: int) -> None:
    ids = draw(seed, 1, 40)
    rows, expected = windows(ids), pair.expected(ids)
    _, cache = pair.run(rows[:, :30], np.array([29], np.int32), pair.empty(1))
    (logprobs, *_), _ = pair.run(rows[:, 30:], np.array([39], np.int32), cache)
    assert np.abs(logprobs - expected[:, 30:]).max() < TOLERANCE


def test_a_padded_batch(pair: Pair, seed: int) -> None:
    lengths = np.array([30, 3, 17, 41, 1], np.int32)
    ids = draw(seed, len(lengths), 41)
    padded = np.where(np.arange(41) < lengths[:, None], ids, 0).astype(np.int32)
    (logprobs, *_), _ = pair.run(windows(padded), lengths - 1, pair.empty(len(lengths)))
    expected = pair.expected(ids)
    for lane, length in enumerate(lengths):
        assert np.abs(logprobs[lane, :length] - expected[lane, :length]).max() < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_engine_computes_what_its_own_weights_say(name: str, seed: int) -> None:
    engine, network = Engine.load(name), _network_of(name)
    for sheet in batch(seed, 24):
        steps = list(engine.decode(sheet.question))[:64]
        ids = [*encode(sheet.question), END, *(step.token_id for step in steps)]
        with torch.no_grad():
            logits = network(torch.from_numpy(windows(np.array([ids], np.int32))))
        logprobs = torch.log_softmax(logits, -1)[0, len(sheet.question) :]
        for step, row in zip(steps, logprobs, strict=False):
            assert step.logprob == pytest.approx(float(row[step.token_id]), abs=TOLERANCE)


def _network_of(name: str) -> Network:
    """The torch network with the weights read back out of the shipped ONNX file."""
    graph = onnx.load(PACKAGED / f"{name}.onnx").graph
    arrays = {
        tensor.name.removesuffix(".half"): numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    keys = [entry for entry in graph.input if entry.name.startswith("key.")]
    heads, head_width = (keys[0].type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    network = Network(Shape(len(keys), heads * head_width, heads))
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            source = arrays[_stored_name(key)].astype(np.float32)
            value = source if parameter.ndim == 1 or key == "tables" else source.T
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(parameter.shape))
    return network


def _stored_name(key: str) -> str:
    if key == "norm.gain":
        return "final.gain"
    return key.replace("attention_norm.gain", "attention.gain").replace("forward_norm.gain", "forward.gain")
