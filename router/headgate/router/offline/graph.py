"""The ONNX graph of the uncertainty model, node by node, from plain arrays.

    sums = Σ table[ngrams]                          one row for each n-gram of the query
    logits, log tokens = sums / √norm + surface · weights + bias
    variance of the logit = sums / norm + |surface · root + root_bias|²

The table travels as float16, the other weights as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headgate.router.features import BUCKETS, SURFACE
from headgate.router.model import Golden, UncertaintyModel

_OPSET = 18
_IR = 10
_GOLDEN_QUERIES, _GOLDEN_NGRAMS = 32, 128
_LEAST_NORM = 1e-6
_PARITY = 1e-3


@dataclass(frozen=True, slots=True)
class Weights:
    """Of M models over S surface numbers."""

    table: NDArray[np.float16]
    """(BUCKETS, 3M + 1): weights of M logits and of M log tokens, M variances, the n-gram's part of the norm.

    Row 0 is zero.
    """
    surface: NDArray[np.float32]
    """(S, 2M)"""
    bias: NDArray[np.float32]
    """(2M,)"""
    root: NDArray[np.float32]
    """(S, S)"""
    root_bias: NDArray[np.float32]
    """(S,)"""

    @property
    def models(self) -> int:
        """M."""
        return len(self.bias) // 2


def export(weights: Weights) -> tuple[bytes, Golden]:
    """The graph and its golden vectors; ArithmeticError if ONNX Runtime and numpy differ."""
    built = build(weights)
    golden = golden_vectors(built, weights.models, len(weights.surface))
    difference = float(np.abs(golden.heads - heads(weights, golden.ngrams, golden.surface)).max())
    if not difference <= _PARITY:
        raise ArithmeticError(f"ONNX Runtime and numpy differ by {difference:.2g}")
    return built, golden


def build(weights: Weights) -> bytes:
    """The serialized graph; equal weights give equal bytes."""
    graph = helper.make_graph(
        _nodes(),
        "uncertainty",
        [
            helper.make_tensor_value_info("ngrams", TensorProto.INT32, ["n", "t"]),
            helper.make_tensor_value_info("surface", TensorProto.FLOAT, ["n", len(weights.surface)]),
        ],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, ["n", 3, weights.models])],
        [numpy_helper.from_array(array, name) for name, array in _initializers(weights)],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="headgate")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def heads(weights: Weights, ngrams: NDArray[np.int32], surface: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the graph must give, (n, 3, M), in numpy and double precision."""
    m = weights.models
    sums = weights.table[ngrams].astype(np.float64).sum(axis=1)
    norm = np.maximum(sums[:, -1:], _LEAST_NORM)
    lines = sums[:, : 2 * m] / np.sqrt(norm) + surface @ weights.surface.astype(np.float64) + weights.bias
    known = surface @ weights.root.astype(np.float64) + weights.root_bias
    variance = sums[:, 2 * m : 3 * m] / norm + (known**2).sum(axis=1, keepdims=True)
    return np.stack((lines[:, :m], lines[:, m:], variance), axis=1)


def golden_vectors(graph: bytes, models: int, numbers: int = len(SURFACE)) -> Golden:
    """Drawn arrays over the table's rows and the range of every surface number."""
    rng = np.random.default_rng(0)
    ngrams = rng.integers(1, BUCKETS, (_GOLDEN_QUERIES, _GOLDEN_NGRAMS), dtype=np.int32)
    surface = rng.uniform(0.0, 6.0, (_GOLDEN_QUERIES, numbers)).astype(np.float32)
    return Golden(ngrams, surface, UncertaintyModel(graph, models).raw(ngrams, surface))


def _nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Cast", ["table"], ["table32"], to=TensorProto.FLOAT),
        node("Gather", ["table32", "ngrams"], ["rows"], axis=0),
        node("ReduceSum", ["rows", "over_ngrams"], ["sums"], keepdims=0),
        node("Split", ["sums", "widths"], ["by_line", "by_variance", "norm"], axis=1),
        node("Max", ["norm", "least_norm"], ["safe_norm"]),
        node("Sqrt", ["safe_norm"], ["length"]),
        node("Div", ["by_line", "length"], ["unit_lines"]),
        node("Gemm", ["surface", "weights", "bias"], ["surface_lines"]),
        node("Add", ["unit_lines", "surface_lines"], ["lines"]),
        node("Div", ["by_variance", "safe_norm"], ["unit_variance"]),
        node("Gemm", ["surface", "root", "root_bias"], ["known"]),
        node("ReduceSumSquare", ["known", "over_ngrams"], ["surface_variance"], keepdims=1),
        node("Add", ["unit_variance", "surface_variance"], ["variance"]),
        node("Concat", ["lines", "variance"], ["flat"], axis=1),
        node("Reshape", ["flat", "by_model"], ["heads"]),
    ]


def _initializers(weights: Weights) -> list[tuple[str, NDArray[Any]]]:
    m = weights.models
    return [
        ("table", weights.table),
        ("weights", weights.surface),
        ("bias", weights.bias),
        ("root", weights.root),
        ("root_bias", weights.root_bias),
        ("widths", np.array([2 * m, m, 1], dtype=np.int64)),
        ("by_model", np.array([0, 3, m], dtype=np.int64)),
        ("over_ngrams", np.array([1], dtype=np.int64)),
        ("least_norm", np.array(_LEAST_NORM, dtype=np.float32)),
    ]
