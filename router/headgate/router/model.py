"""The uncertainty model: one small ONNX graph, an ensemble of heads that share what they read.

Inputs   ngrams (n, t) int32, surface (n, S) float32
Output   heads (n, H + 1, M) float32: H heads of logits of p_correct, one for each of M models,
         then one row of the logarithms of expected completion tokens

Where the heads disagree the model knows little: their standard deviation is the epistemic spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from headgate.router.errors import EstimateError
from headgate.router.features import Batch

_LARGEST_LOGIT = 60.0
_LARGEST_LOG_TOKENS = 14.0
_OUT_OF_RANGE = "the uncertainty model's output is not finite or out of range"


@dataclass(frozen=True, slots=True)
class Heads:
    """Raw output for n queries: `logits` (n, H, M) within ±60, `tokens` (n, M) expected answer tokens."""

    logits: NDArray[np.float64]
    tokens: NDArray[np.float64]


class UncertaintyModel:
    """A loaded graph. One thread, no spinning: it shares its core with the gateway's event loop."""

    def __init__(self, graph: bytes, models: int) -> None:
        """Loads the graph.

        EstimateError if ONNX Runtime refuses it or its output has another number of models.
        """
        try:
            self._session = ort.InferenceSession(graph, _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise EstimateError(
                "the bundle's graph is no ONNX graph that this ONNX Runtime can run"
            ) from error
        self._models = models

    def run(self, batch: Batch) -> Heads:
        """Heads for every query.

        EstimateError if the output is not finite, out of range or of another shape.
        """
        output = self.raw(batch.ngrams, batch.surface).astype(np.float64)
        logits, log_tokens = output[:, :-1], output[:, -1]
        # A comparison with NaN is false, so this refuses NaN as well as too large a number.
        if not (np.abs(logits) <= _LARGEST_LOGIT).all() or not (log_tokens <= _LARGEST_LOG_TOKENS).all():
            raise EstimateError(_OUT_OF_RANGE)
        return Heads(logits, np.exp(log_tokens))

    def run_one(self, batch: Batch) -> tuple[list[list[float]], list[float]]:
        """As `run` for a batch of one, in plain numbers: logits by head and model, and answer tokens."""
        *logits, log_tokens = self.raw(batch.ngrams, batch.surface)[0].tolist()
        in_range = all(abs(z) <= _LARGEST_LOGIT for head in logits for z in head)
        if not in_range or not all(each <= _LARGEST_LOG_TOKENS for each in log_tokens):
            raise EstimateError(_OUT_OF_RANGE)
        return logits, [math.exp(each) for each in log_tokens]

    def raw(self, ngrams: NDArray[np.int32], surface: NDArray[np.float32]) -> NDArray[np.float32]:
        """The graph's output as it is, (n, H + 1, M).

        EstimateError if it has another shape or the run fails.
        """
        try:
            (output,) = self._session.run(None, {"ngrams": ngrams, "surface": surface})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise EstimateError("the uncertainty model failed while running") from error
        if output.ndim != 3 or output.shape[1] < 2 or output.shape[2] != self._models:
            raise EstimateError(f"the uncertainty model's output must be (n, heads, {self._models})")
        return np.asarray(output, dtype=np.float32)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options
