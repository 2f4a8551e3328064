"""A small real gRPC server that speaks RouterService as the question asks it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from headgate.v1 import router_pb2, router_pb2_grpc, types_pb2

DECISION = types_pb2.Decision(
    request_id="r-1",
    model="small",
    reason=types_pb2.REASON_POLICY,
    cost_nanousd=1250,
    certificate=types_pb2.Certificate(
        id="c", risk_target=0.05, confidence=0.95, n=10, reference_model="large"
    ),
    estimates=[
        types_pb2.ModelEstimate(model="small", p_correct=0.9, spread=0.1, expected_cost_nanousd=5),
        types_pb2.ModelEstimate(model="large", expected_cost_nanousd=50),
    ],
    overhead=Duration(nanos=1_500_000),
)
DELAY = Duration(seconds=2, nanos=500_000_000)


@dataclass
class Gateway(router_pb2_grpc.RouterServiceServicer):
    """Answers `ok`; fails, hangs or breaks off where the question says so. Remembers what it saw."""

    address: str = ""
    seen: list[object] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    remaining_s: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def Generate(
        self, request: router_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> router_pb2.GenerateResponse:
        question = self._note(request, context)
        if question == "hang":
            self.go_on.wait(30)
        fail(question, context)
        return router_pb2.GenerateResponse(
            message=types_pb2.Message(
                role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text="4"), types_pb2.Part(text="2")]
            ),
            finish_reason=types_pb2.FINISH_REASON_STOP,
            usage=types_pb2.Usage(prompt_tokens=3, completion_tokens=2),
            decision=DECISION,
        )

    def StreamGenerate(
        self, request: router_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[router_pb2.StreamGenerateResponse]:
        question = self._note(request, context)
        context.add_callback(self.cancelled.set)
        yield router_pb2.StreamGenerateResponse(decision=DECISION)
        if question == "switch":
            switched = router_pb2.ModelSwitched(
                from_model="small",
                to_model="large",
                escalation=True,
                explanation="It is doubtful.",
                draft=[router_pb2.Delta(text="5", logprobs=[-2, -1])] if request.watch else [],
            )
            yield router_pb2.StreamGenerateResponse(model_switched=switched)
        first = router_pb2.Delta(text="4", logprobs=[-0.5] if request.watch else [])
        yield router_pb2.StreamGenerateResponse(delta=first)
        if question == "hold":
            self.go_on.wait(30)
        if question == "cut":
            return
        if question == "error event":
            status = Status(code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="too slow")
            yield router_pb2.StreamGenerateResponse(error=status)
        fail(question, context)
        yield router_pb2.StreamGenerateResponse(delta=router_pb2.Delta(text="2"))
        finished = router_pb2.Finished(
            finish_reason=types_pb2.FINISH_REASON_LENGTH,
            usage=types_pb2.Usage(completion_tokens=2),
            decision=DECISION,
        )
        yield router_pb2.StreamGenerateResponse(finished=finished)

    def Route(
        self, request: router_pb2.RouteRequest, context: grpc.ServicerContext
    ) -> router_pb2.RouteResponse:
        fail(self._note(request, context), context)
        return router_pb2.RouteResponse(decision=DECISION)

    def RecordOutcome(
        self, request: router_pb2.RecordOutcomeRequest, context: grpc.ServicerContext
    ) -> router_pb2.RecordOutcomeResponse:
        self.seen.append(request)
        return router_pb2.RecordOutcomeResponse()

    def _note(self, request: router_pb2.GenerateRequest, context: grpc.ServicerContext) -> str:
        self.seen.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.remaining_s = context.time_remaining()
        return request.query.messages[-1].parts[0].text


def fail(question: str, context: grpc.ServicerContext) -> None:
    """Ends the call with the status that the question names, as the gateway does: with rich details."""
    code = getattr(grpc.StatusCode, question, None)
    if code is None:
        return
    status = rich(
        code, "one sentence", reason={"FAILED_PRECONDITION": "NO_CERTIFICATE"}.get(question, "SOME_REASON")
    )
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, "one sentence")


def rich(code: grpc.StatusCode, message: str, *, reason: str) -> Status:
    details = [
        ErrorInfo(reason=reason, domain="headgate"),
        RetryInfo(retry_delay=DELAY),
        BadRequest(
            field_violations=[BadRequest.FieldViolation(field="query.messages", description="give one")]
        ),
    ]
    status = Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    served = Gateway()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        router_pb2_grpc.add_RouterServiceServicer_to_server(served, server)
        served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield served
        served.go_on.set()
        server.stop(None).wait()
