"""`WorkerService`: wire in, wire out, and a slot held in between."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import structlog
from grpc import StatusCode, aio

from headgate.adapters import status_map, traces, validation
from headgate.adapters import trace_words as words
from headgate.adapters.decoding import Undecodable
from headgate.adapters.telemetry import WorkerMetrics
from headgate.v1 import worker_pb2, worker_pb2_grpc
from headgate.worker import convert, traced
from headgate.worker.backends.base import Backend, BackendError
from headgate.worker.pacing import paced
from headgate.worker.slots import QueueFullError, Slots

_LOG = structlog.get_logger(__name__)

Context = aio.ServicerContext[object, object]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Serves one backend under one name.

    Generate is a coroutine that writes, not a generator: a cancellation then always arrives inside of it, and
    what it holds is let go before the call is over.
    """

    def __init__(
        self,
        description: worker_pb2.DescribeModelResponse,
        backend: Backend,
        slots: Slots,
        metrics: WorkerMetrics,
    ) -> None:
        self._description = description
        self._backend = backend
        self._slots = slots
        self._metrics = metrics

    async def Generate(  # type: ignore[override]  # noqa: N802
        self, message: worker_pb2.WorkerServiceGenerateRequest | Undecodable, context: Context
    ) -> None:
        """Answers a conversation; worker.proto says how."""
        code = StatusCode.CANCELLED
        span = traced.entered(self._description, context)
        try:
            await self._answer(_valid(message), context)
            code = StatusCode.OK
        except asyncio.CancelledError:
            raise
        except Exception as error:
            told = convert.error(error) if isinstance(error, BackendError | QueueFullError) else error
            if not isinstance(told, status_map.ServiceError):
                _LOG.exception("generate failed", model=self._description.model)
            code = status_map.code_of(told)[0]
            await status_map.abort(context, told)
        finally:
            self._metrics.ended(code.name)
            span.end(code.name)

    async def DescribeModel(  # noqa: N802
        self, message: worker_pb2.DescribeModelRequest | Undecodable, context: Context
    ) -> worker_pb2.DescribeModelResponse:
        """Says what is served."""
        if isinstance(message, Undecodable):
            await status_map.abort(context, _unreadable())
        return self._description

    async def _answer(self, message: worker_pb2.WorkerServiceGenerateRequest, context: Context) -> None:
        began, written, span = time.perf_counter(), False, traces.current()
        request = convert.request(message, context.time_remaining())
        async with (
            self._slots.take(request.deadline),
            aclosing(paced(self._backend.generate(request))) as chunks,
        ):
            if span.recording:
                span.set({words.QUEUED: time.perf_counter() - began, words.REQUEST_ID: request.request_id})
            async for chunk in chunks:
                if not written:
                    written = True
                    self._metrics.first_token.observe(time.perf_counter() - began)
                await context.write(convert.response(chunk))
                if chunk.usage is not None:
                    self._metrics.prompt_tokens.inc(chunk.usage.prompt_tokens)
                    self._metrics.completion_tokens.inc(chunk.usage.completion_tokens)
                    traced.answered(span, chunk)
        self._metrics.answer.observe(time.perf_counter() - began)


def _valid(
    message: worker_pb2.WorkerServiceGenerateRequest | Undecodable,
) -> worker_pb2.WorkerServiceGenerateRequest:
    if isinstance(message, Undecodable):
        raise _unreadable()
    validation.check(message)
    return message


def _unreadable() -> status_map.InvalidRequestError:
    return status_map.InvalidRequestError("the request is not a message of this method")
