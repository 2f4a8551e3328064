"""The uncertainty model: one small ONNX graph that is linear in what it reads.

Inputs   ngrams (n, t) int32, surface (n, S) float32
Output   heads (n, 3, M) float32, for each of M models: the logit of p_correct, the logarithm of expected
         completion tokens, and the variance of the logit

Where labels were few, or the text is strange, the variance is large: it is what the model does not know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from headgate.router.errors import EstimateError
from headgate.router.features import Batch

_OUTPUTS = ("heads",)
_LARGEST_LOGIT = 60.0
_LARGEST_LOG_TOKENS = 14.0
_LARGEST_VARIANCE = 1e4
_OUT_OF_RANGE = "the uncertainty model's output is not finite or out of range"


@dataclass(frozen=True, slots=True)
class Heads:
    """Raw output for n queries, (n, M) each: `logits` within ±60, their `deviation`, answer `tokens`."""

    logits: NDArray[np.float64]
    deviation: NDArray[np.float64]
    tokens: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Golden:
    """Feature arrays and the output they must give: (g, t) int32, (g, S) float32, (g, 3, M) float32."""

    ngrams: NDArray[np.int32]
    surface: NDArray[np.float32]
    heads: NDArray[np.float32]


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
        logits, log_tokens, variance = output[:, 0], output[:, 1], output[:, 2]
        # A comparison with NaN is false, so this refuses NaN as well as too large a number.
        in_range = (
            (np.abs(logits) <= _LARGEST_LOGIT)
            & (log_tokens <= _LARGEST_LOG_TOKENS)
            & (variance <= _LARGEST_VARIANCE)
        )
        if not in_range.all():
            raise EstimateError(_OUT_OF_RANGE)
        return Heads(logits, np.sqrt(np.maximum(variance, 0.0)), np.exp(log_tokens))

    def run_one(self, batch: Batch) -> tuple[list[float], list[float], list[float]]:
        """As `run` for a batch of one, in plain numbers: logits, their deviations and answer tokens."""
        logits, log_tokens, variance = self.raw(batch.ngrams, batch.surface)[0].tolist()
        for z, log_token, square in zip(logits, log_tokens, variance, strict=True):
            if not (
                abs(z) <= _LARGEST_LOGIT and log_token <= _LARGEST_LOG_TOKENS and square <= _LARGEST_VARIANCE
            ):
                raise EstimateError(_OUT_OF_RANGE)
        deviation = [math.sqrt(max(square, 0.0)) for square in variance]
        return logits, deviation, [math.exp(each) for each in log_tokens]

    def raw(self, ngrams: NDArray[np.int32], surface: NDArray[np.float32]) -> NDArray[np.float32]:
        """The graph's output as it is, (n, 3, M).

        EstimateError if it has another shape or the run fails.
        """
        try:
            (output,) = self._session.run(_OUTPUTS, {"ngrams": ngrams, "surface": surface})
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise EstimateError("the uncertainty model failed while running") from error
        if output.ndim != 3 or output.shape[1:] != (3, self._models):
            raise EstimateError(f"the uncertainty model's output must be (n, 3, {self._models})")
        return np.asarray(output, dtype=np.float32)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return options
