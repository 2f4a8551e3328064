"""A trained network as an ONNX graph for ONNX Runtime.

The graph is written node by node, because a model this small is bound by the number of nodes: attention with
rotary positions and key-value cache is one (GroupQueryAttention), each residual sum is one with the norm
that follows it. Weights are stored as fp16 and cast to fp32 when a session is made.

Inputs, with n sequences, t new positions, and cache rows for c positions:
- `windows` int32 (n, t, 4);
- `last` int32 (n,): index of the last valid position of each sequence, cached ones included;
- `total` int32 (1,): the largest such index + 1;
- `key.i`, `value.i` float32 (n, heads, c, head width) per layer i, c >= 0.
Outputs: `logprobs` float32 (n, t, 128), `top_logprobs` and `top_ids` (n, t, 8), and the caches grown to
max(c, total) positions as `key.i.out`, `value.i.out`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from headgate.worker.backends.builtin.tokens import CONTEXT, VOCABULARY, WINDOW
from headgate.worker.backends.builtin.train.model import NORM_EPSILON, Shape, rotary_tables

TOP = 8
_MICROSOFT = "com.microsoft"
_OPSET = 21
_FEW, _SIZE = "n", "t"

Weights = Mapping[str, NDArray[np.float32]]


class _Graph:
    """Nodes and initializers in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(
        self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: Any
    ) -> str:
        name = f"{outputs[0]}.{operator}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def half(self, name: str, value: NDArray[np.float32]) -> str:
        """A weight stored as fp16 and read as fp32."""
        stored = self.constant(f"{name}.half", value.astype(np.float16))
        return self.add("Cast", [stored], [name], to=TensorProto.FLOAT)


def build(shape: Shape, weights: Weights) -> onnx.ModelProto:
    """The graph of a network's `state_dict`, as numpy arrays."""
    graph = _Graph()
    offsets = graph.constant("offsets", (np.arange(WINDOW) * VOCABULARY).astype(np.int32))
    rows = graph.add("Add", ["windows", offsets], ["rows"])
    vectors = graph.add("Gather", [graph.half("tables", weights["tables"]), rows], ["vectors"])
    x = graph.add("ReduceSum", [vectors, graph.constant("axis", np.array([2]))], ["x"], keepdims=0)
    cos, sin = (table.numpy() for table in rotary_tables(shape.head_width, CONTEXT))
    graph.constant("cos", cos)
    graph.constant("sin", sin)
    branch = ""
    for layer in range(shape.layers):
        x, branch = _block(graph, shape, layer, x, branch, weights)
    _, normed = _add_and_norm(graph, "final", x, branch, weights["norm.gain"])
    _head(graph, normed, weights["head"])
    return _model(graph, shape)


def _block(graph: _Graph, shape: Shape, layer: int, x: str, branch: str, weights: Weights) -> tuple[str, str]:
    """One block. `x` and `branch` are the residual stream and what is still to be added to it."""
    prefix = f"blocks.{layer}."
    x, normed = _add_and_norm(graph, f"{prefix}attention", x, branch, weights[prefix + "attention_norm.gain"])
    qkv = weights[prefix + "qkv"].reshape(-1, shape.width)
    packed = _linear(graph, prefix + "qkv", normed, qkv)
    mixed = graph.add(
        "GroupQueryAttention",
        [packed, "", "", f"key.{layer}", f"value.{layer}", "last", "total", "cos", "sin"],
        [prefix + "mixed", f"key.{layer}.out", f"value.{layer}.out"],
        _MICROSOFT,
        num_heads=shape.heads,
        kv_num_heads=shape.heads,
        do_rotary=1,
        rotary_interleaved=0,
    )
    branch = _linear(graph, prefix + "out", mixed, weights[prefix + "out"])
    x, normed = _add_and_norm(graph, f"{prefix}forward", x, branch, weights[prefix + "forward_norm.gain"])
    hidden = graph.add(
        "Relu", [_linear(graph, prefix + "up", normed, weights[prefix + "up"])], [prefix + "relu"]
    )
    squared = graph.add("Mul", [hidden, hidden], [prefix + "squared"])
    return x, _linear(graph, prefix + "down", squared, weights[prefix + "down"])


def _linear(graph: _Graph, name: str, x: str, weight: NDArray[np.float32]) -> str:
    return graph.add("MatMul", [x, graph.half(name, weight.T)], [f"{name}.y"])


def _add_and_norm(
    graph: _Graph, name: str, x: str, branch: str, gain: NDArray[np.float32]
) -> tuple[str, str]:
    """x + branch, and its norm."""
    scale, normed = graph.constant(f"{name}.gain", gain), f"{name}.normed"
    if not branch:
        return x, graph.add(
            "SimplifiedLayerNormalization", [x, scale], [normed], axis=-1, epsilon=NORM_EPSILON
        )
    total = f"{name}.sum"
    graph.add(
        "SkipSimplifiedLayerNormalization",
        [x, branch, scale],
        [normed, "", "", total],
        _MICROSOFT,
        epsilon=NORM_EPSILON,
    )
    return total, normed


def _head(graph: _Graph, normed: str, weight: NDArray[np.float32]) -> None:
    logits = _linear(graph, "head", normed, weight)
    graph.add("LogSoftmax", [logits], ["logprobs"], axis=-1)
    count = graph.constant("count", np.array([TOP]))
    graph.add("TopK", ["logprobs", count], ["top_logprobs", "top_ids"], axis=-1)


def _model(graph: _Graph, shape: Shape) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    cache: list[str | int | None] = [_FEW, shape.heads, "c", shape.head_width]
    grown: list[str | int | None] = [_FEW, shape.heads, "grown", shape.head_width]
    names = [f"{kind}.{layer}" for layer in range(shape.layers) for kind in ("key", "value")]
    inputs = [
        info("windows", TensorProto.INT32, [_FEW, _SIZE, WINDOW]),
        info("last", TensorProto.INT32, [_FEW]),
        info("total", TensorProto.INT32, [1]),
        *(info(name, TensorProto.FLOAT, cache) for name in names),
    ]
    outputs = [
        info("logprobs", TensorProto.FLOAT, [_FEW, _SIZE, VOCABULARY]),
        info("top_logprobs", TensorProto.FLOAT, [_FEW, _SIZE, TOP]),
        info("top_ids", TensorProto.INT64, [_FEW, _SIZE, TOP]),
        *(info(f"{name}.out", TensorProto.FLOAT, grown) for name in names),
    ]
    proto = helper.make_graph(graph.nodes, "headgate-builtin", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=10, producer_name="headgate")
