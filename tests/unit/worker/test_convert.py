from __future__ import annotations

from time import monotonic

import grpc
import pytest

from headgate.adapters import status_map
from headgate.v1 import types_pb2, worker_pb2
from headgate.worker import convert
from headgate.worker.backends import base
from headgate.worker.slots import QueueFullError


def message(**fields: object) -> worker_pb2.WorkerServiceGenerateRequest:
    turns = [
        types_pb2.Message(role=types_pb2.ROLE_SYSTEM, parts=[types_pb2.Part(text="be brief")]),
        types_pb2.Message(
            role=types_pb2.ROLE_USER, parts=[types_pb2.Part(text="1 + "), types_pb2.Part(text="1 = ?")]
        ),
    ]
    return worker_pb2.WorkerServiceGenerateRequest(messages=turns, **fields)  # type: ignore[arg-type]


def test_a_bare_request_has_the_defaults_of_the_contract() -> None:
    request = convert.request(message(), 10)
    assert request.conversation == (
        base.Turn(base.Role.SYSTEM, "be brief"),
        base.Turn(base.Role.USER, "1 + 1 = ?"),
    )
    assert request.sampling == base.Sampling(temperature=0, top_p=1, max_tokens=0, stop=(), seed=None)
    assert not request.logprobs


def test_every_sampling_field_arrives() -> None:
    sampling = types_pb2.Sampling(temperature=0.5, top_p=0.25, max_tokens=7, stop=["a", "b"], seed=0)
    request = convert.request(message(sampling=sampling, request_id="r"), 10)
    assert request.sampling == base.Sampling(0.5, 0.25, 7, ("a", "b"), 0)
    assert request.request_id == "r"


def test_alternatives_need_log_probabilities() -> None:
    assert convert.request(message(top_logprobs=3), 1).top_logprobs == 0
    assert convert.request(message(logprobs=True, top_logprobs=3), 1).top_logprobs == 3


@pytest.mark.parametrize(("remaining_s", "expected_s"), [(10.0, 9.995), (None, 299.995)])
def test_the_deadline_is_the_callers_less_the_hop_or_the_default(
    remaining_s: float | None, expected_s: float
) -> None:
    before = monotonic()
    deadline = convert.request(message(), remaining_s).deadline
    assert before + expected_s <= deadline <= monotonic() + expected_s


def test_a_chunk_keeps_everything() -> None:
    token = base.Token(52, -0.5, (base.Alternative(53, -0.75, "5"),))
    chunk = base.Chunk("4", (token,), base.FinishReason.LENGTH, base.Usage(3, 1, estimated=True))
    assert convert.response(chunk) == worker_pb2.WorkerServiceGenerateResponse(
        text="4",
        tokens=[
            worker_pb2.Token(
                token_id=52,
                logprob=-0.5,
                alternatives=[worker_pb2.TokenAlternative(token_id=53, logprob=-0.75, text="5")],
            )
        ],
        finish_reason=types_pb2.FINISH_REASON_LENGTH,
        usage=types_pb2.Usage(prompt_tokens=3, completion_tokens=1, estimated=True),
    )


def test_a_chunk_that_is_not_final_has_neither_reason_nor_usage() -> None:
    wire = convert.response(base.Chunk("4"))
    assert wire.finish_reason == types_pb2.FINISH_REASON_UNSPECIFIED
    assert not wire.HasField("usage")


def test_every_finish_reason_has_a_wire_value() -> None:
    for reason in base.FinishReason:
        wire = convert.response(base.Chunk("", (), reason, base.Usage(0, 0)))
        assert types_pb2.FinishReason.Name(wire.finish_reason) == f"FINISH_REASON_{reason.name}"


def test_a_description_without_a_price_has_none_on_the_wire() -> None:
    served = base.ModelDescription("v", 0, logprobs=False, price=None)
    assert not convert.description("m", "b", 4, served).HasField("price")
    priced = base.ModelDescription("v", 0, logprobs=False, price=base.Price(0, 2))
    assert convert.description("m", "b", 4, priced).price == types_pb2.Price(output_nanousd=2)


CODES: dict[Exception, tuple[grpc.StatusCode, str]] = {
    QueueFullError(0.5): (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    base.RequestRejectedError("s"): (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    base.ContextTooLongError("s"): (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_TOO_LONG"),
    base.NotRecordedError("s"): (grpc.StatusCode.NOT_FOUND, "NOT_RECORDED"),
    base.DeadlinePassedError("s"): (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    base.UpstreamTimeoutError("s"): (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    base.UpstreamUnavailableError("s"): (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    base.UpstreamBrokenError("s"): (grpc.StatusCode.UNAVAILABLE, "WORKER_UNAVAILABLE"),
    base.UpstreamOverloadedError("s", 7): (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    base.UpstreamRefusedError("s"): (grpc.StatusCode.FAILED_PRECONDITION, "WORKER_MISCONFIGURED"),
}


@pytest.mark.parametrize("failure", CODES, ids=lambda failure: type(failure).__name__)
def test_every_failure_has_its_status(failure: base.BackendError | QueueFullError) -> None:
    assert status_map.code_of(convert.error(failure)) == CODES[failure]


def test_advice_and_field_travel_along() -> None:
    overloaded = status_map.to_status(convert.error(base.UpstreamOverloadedError("s", 7)))
    assert status_map.retry_after_s(overloaded) == 7
    rejected = convert.error(base.RequestRejectedError("s", "sampling.seed"))
    assert isinstance(rejected, status_map.InvalidRequestError)
    assert rejected.violations == (status_map.Violation("sampling.seed", "s"),)
    unknown = convert.error(base.RequestRejectedError("s", ""))
    assert isinstance(unknown, status_map.InvalidRequestError)
    assert unknown.violations == ()


def test_no_error_class_is_forgotten() -> None:
    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*(below(one) for one in kind.__subclasses__()))

    grouping = {base.BackendError, base.UpstreamError, base.NotLoadableError}
    assert below(base.BackendError) - grouping == {type(failure) for failure in CODES} - {QueueFullError}
