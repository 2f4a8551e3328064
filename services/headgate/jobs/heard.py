"""What a stream of the gateway has said of an answer, and what its failure means for the job."""

from __future__ import annotations

from typing import Final

import google.rpc.status_pb2 as status_pb2  # type: ignore[import-untyped]
import grpc
import grpc.aio

from headgate.adapters import status_map
from headgate.v1 import router_pb2, types_pb2

PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # Of the runner's key, and no query's fault: the operator can set it right while jobs wait.
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Asking again may help."""
CUT: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
"""How gRPC also names a connection that broke. Said by Headgate itself, they mean a bug."""


class Heard:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.begun = False
        """Whether the gateway took the query up: then models were asked, and it counts as a run."""
        self._text: list[str] = []
        self._finished: router_pb2.Finished | None = None
        self._error: status_pb2.Status | None = None
        self._offered: router_pb2.EscalationOffered | None = None

    def add(self, event: router_pb2.StreamGenerateResponse) -> bool:
        """Takes an event in; whether it is one for the job's stream: the last one becomes the job's state."""
        kind = event.WhichOneof("event")
        self.begun = self.begun or kind == "decision"
        if kind == "delta":
            self._text.append(event.delta.text)
        elif kind == "model_switched":
            self._text.clear()
        elif kind == "escalation_offered":
            self._offered = event.escalation_offered
        elif kind == "finished":
            self._finished = event.finished
        elif kind == "error":
            self._error = event.error
        return kind not in ("finished", "error")

    def answer(self) -> router_pb2.GenerateResponse | None:
        """The whole answer; None where the stream did not end well."""
        if self._finished is None:
            return None
        part = types_pb2.Part(text="".join(self._text))
        return router_pb2.GenerateResponse(
            message=types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[part]),
            finish_reason=self._finished.finish_reason,
            usage=self._finished.usage,
            decision=self._finished.decision,
            escalation_offered=self._offered,
        )

    def failure(self, error: grpc.aio.AioRpcError | None) -> tuple[status_pb2.Status, bool]:
        """Why there is no answer, and whether asking again may help."""
        told = self._error or (status_map.of_call(error) if error is not None else None)
        if told is not None:
            return told, status_map.CODES.get(told.code) in PASSING
        code = grpc.StatusCode.UNAVAILABLE if error is None else error.code()
        return _silent(code), code in PASSING | CUT


def _silent(code: grpc.StatusCode) -> status_pb2.Status:
    # gRPC's own text names addresses, which are no business of whoever submitted the job.
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return status_map.status(code, "DEADLINE_EXCEEDED", "the answer was not there in time")
    if code in PASSING | CUT:
        return status_map.status(
            grpc.StatusCode.UNAVAILABLE, "GATEWAY_UNAVAILABLE", "the connection to the gateway broke"
        )
    return status_map.status(code, code.name, "the gateway did not understand its job runner")
