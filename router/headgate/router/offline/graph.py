"""The ONNX graph of the uncertainty model, node by node, from plain arrays; no torch here.

The embedding table travels as float16, the other weights as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headgate.router.bundle import Golden
from headgate.router.features import BUCKETS, SURFACE
from headgate.router.model import UncertaintyModel

_OPSET = 18
_IR = 10
_GOLDEN_ROWS = 32


@dataclass(frozen=True, slots=True)
class Weights:
    """B = H + 1 blocks of U units for M models over D columns and S surface numbers."""

    table: NDArray[np.float16]
    """(BUCKETS, D); row 0 is zero"""
    hidden: NDArray[np.float32]
    """(D + S, B, U)"""
    hidden_bias: NDArray[np.float32]
    """(B, U)"""
    out: NDArray[np.float32]
    """(B, U, M)"""
    out_bias: NDArray[np.float32]
    """(B, M)"""


def build(weights: Weights) -> bytes:
    """The serialized graph; equal weights give equal bytes."""
    blocks, units, models = weights.out.shape
    graph = helper.make_graph(
        _nodes(),
        "uncertainty",
        [
            helper.make_tensor_value_info("ngrams", TensorProto.INT32, ["n", "t"]),
            helper.make_tensor_value_info("surface", TensorProto.FLOAT, ["n", len(SURFACE)]),
        ],
        [helper.make_tensor_value_info("heads", TensorProto.FLOAT, ["n", blocks, models])],
        [numpy_helper.from_array(array, name) for name, array in _initializers(weights, blocks, units)],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="headgate")
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def golden_vectors(graph: bytes, models: int) -> Golden:
    """Drawn arrays that touch every row of the table once and every surface number over its range."""
    rng = np.random.default_rng(0)
    rows = np.zeros(_GOLDEN_ROWS * -(-(BUCKETS - 1) // _GOLDEN_ROWS), dtype=np.int32)
    rows[: BUCKETS - 1] = rng.permutation(np.arange(1, BUCKETS, dtype=np.int32))
    ngrams = rows.reshape(_GOLDEN_ROWS, -1)
    surface = rng.uniform(0.0, 6.0, (_GOLDEN_ROWS, len(SURFACE))).astype(np.float32)
    return Golden(ngrams, surface, UncertaintyModel(graph, models).raw(ngrams, surface))


def _nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Cast", ["table"], ["table32"], to=TensorProto.FLOAT),
        node("Gather", ["table32", "ngrams"], ["embedded"], axis=0),
        node("ReduceSum", ["embedded", "over_ngrams"], ["summed"], keepdims=0),
        node("Cast", ["ngrams"], ["ids"], to=TensorProto.FLOAT),
        node("Min", ["ids", "one"], ["present"]),
        node("ReduceSum", ["present", "over_ngrams"], ["counted"], keepdims=1),
        node("Max", ["counted", "one"], ["count"]),
        node("Div", ["summed", "count"], ["bag"]),
        node("Concat", ["bag", "surface"], ["read"], axis=1),
        node("Gemm", ["read", "hidden", "hidden_bias"], ["hidden_in"]),
        node("Relu", ["hidden_in"], ["active"]),
        node("Reshape", ["active", "blocks"], ["by_block"]),
        node("MatMul", ["by_block", "out"], ["out_in"]),
        node("Add", ["out_in", "out_bias"], ["with_bias"]),
        node("Squeeze", ["with_bias", "squeezed"], ["heads"]),
    ]


def _initializers(weights: Weights, blocks: int, units: int) -> list[tuple[str, NDArray[Any]]]:
    return [
        ("table", weights.table),
        ("hidden", weights.hidden.reshape(len(weights.hidden), blocks * units)),
        ("hidden_bias", weights.hidden_bias.reshape(blocks * units)),
        ("out", weights.out),
        ("out_bias", weights.out_bias[:, None]),
        ("blocks", np.array([0, blocks, 1, units], dtype=np.int64)),
        ("over_ngrams", np.array([1], dtype=np.int64)),
        ("squeezed", np.array([2], dtype=np.int64)),
        ("one", np.array(1.0, dtype=np.float32)),
    ]
