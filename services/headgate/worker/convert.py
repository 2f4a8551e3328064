"""The only place of the worker that knows both the wire and the domain."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic

from headgate.adapters import status_map
from headgate.v1 import types_pb2, worker_pb2
from headgate.worker.backends import base
from headgate.worker.backends.base import (
    Alternative,
    Chunk,
    FinishReason,
    GenerationRequest,
    ModelDescription,
    Price,
    Role,
    Sampling,
    Speculation,
    Token,
    Turn,
    Usage,
)
from headgate.worker.slots import QueueFullError

DEFAULT_DEADLINE_S = 300.0
"""For calls that bring no deadline of their own."""
HOP_S = 0.005
"""Kept back from the caller's deadline, so that an explained error still reaches it."""

_ROLES = {
    types_pb2.ROLE_SYSTEM: Role.SYSTEM,
    types_pb2.ROLE_USER: Role.USER,
    types_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_FINISH_REASONS = {
    FinishReason.STOP: types_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: types_pb2.FINISH_REASON_LENGTH,
    FinishReason.DECLINED: types_pb2.FINISH_REASON_DECLINED,
}


def request(message: worker_pb2.WorkerServiceGenerateRequest, remaining_s: float | None) -> GenerationRequest:
    """A valid message as a domain request; `remaining_s` is what is left of the call's deadline."""
    return GenerationRequest(
        conversation=tuple(_turn(turn) for turn in message.messages),
        deadline=monotonic() + (DEFAULT_DEADLINE_S if remaining_s is None else remaining_s) - HOP_S,
        sampling=_sampling(message.sampling),
        logprobs=message.logprobs,
        top_logprobs=message.top_logprobs if message.logprobs else 0,
        request_id=message.request_id,
    )


def _turn(message: types_pb2.Message) -> Turn:
    return Turn(_ROLES[message.role], "".join(part.text for part in message.parts))


def _sampling(message: types_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=message.temperature,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        max_tokens=message.max_tokens,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
    )


def response(chunk: Chunk) -> worker_pb2.WorkerServiceGenerateResponse:
    """A chunk for the wire."""
    message = worker_pb2.WorkerServiceGenerateResponse(text=chunk.text, tokens=_tokens(chunk.tokens))
    if chunk.finish_reason is not None:
        message.finish_reason = _FINISH_REASONS[chunk.finish_reason]
    if chunk.usage is not None:
        message.usage.CopyFrom(_usage(chunk.usage))
    if chunk.speculation is not None:
        message.speculation.CopyFrom(_speculation(chunk.speculation))
    return message


def _speculation(speculation: Speculation) -> types_pb2.Speculation:
    return types_pb2.Speculation(
        drafted_tokens=speculation.drafted_tokens,
        accepted_tokens=speculation.accepted_tokens,
        target_forwards=speculation.target_forwards,
    )


def _tokens(tokens: Iterable[Token]) -> list[worker_pb2.Token]:
    return [
        worker_pb2.Token(
            token_id=token.token_id, logprob=token.logprob, alternatives=map(_alternative, token.alternatives)
        )
        for token in tokens
    ]


def _alternative(alternative: Alternative) -> worker_pb2.TokenAlternative:
    return worker_pb2.TokenAlternative(
        token_id=alternative.token_id, logprob=alternative.logprob, text=alternative.text
    )


def _usage(usage: Usage) -> types_pb2.Usage:
    return types_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        estimated=usage.estimated,
    )


def description(
    model: str, backend: str, slots: int, served: ModelDescription
) -> worker_pb2.DescribeModelResponse:
    """What the worker says about itself."""
    return worker_pb2.DescribeModelResponse(
        model=model,
        backend=backend,
        version=served.version,
        context_tokens=served.context_tokens,
        logprobs=served.logprobs,
        slots=slots,
        capabilities=served.capabilities,
        price=_price(served.price),
    )


def _price(price: Price | None) -> types_pb2.Price | None:
    if price is None:
        return None
    return types_pb2.Price(input_nanousd=price.input_nanousd, output_nanousd=price.output_nanousd)


def error(failure: base.BackendError | QueueFullError) -> status_map.ServiceError:
    """What the caller is told of a failure."""
    sentence = str(failure)
    match failure:
        case base.ContextTooLongError():
            return status_map.ContextTooLongError(sentence, _violations(failure))
        case base.NotRecordedError():
            return status_map.NotRecordedError(sentence)
        case base.RequestRejectedError():
            return status_map.InvalidRequestError(sentence, _violations(failure))
        case QueueFullError() | base.UpstreamOverloadedError():
            return status_map.OverloadedError(sentence, retry_after_s=failure.retry_after_s)
        case base.DeadlinePassedError():
            return status_map.DeadlineError(sentence)
        case base.UpstreamRefusedError():
            return status_map.WorkerMisconfiguredError(sentence)
        case _:
            return status_map.WorkerUnavailableError(sentence)


def _violations(failure: base.RequestRejectedError) -> list[status_map.Violation]:
    return [status_map.Violation(failure.field, str(failure))] if failure.field else []
