"""`WorkerService`: wire in, wire out, and a slot held in between."""

from __future__ import annotations

from contextlib import aclosing

import structlog
from grpc import aio

from headgate.adapters import status_map, validation
from headgate.adapters.decoding import Undecodable
from headgate.v1 import worker_pb2, worker_pb2_grpc
from headgate.worker import convert
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

    def __init__(self, description: worker_pb2.DescribeModelResponse, backend: Backend, slots: Slots) -> None:
        self._description = description
        self._backend = backend
        self._slots = slots

    async def Generate(  # type: ignore[override]  # noqa: N802
        self, message: worker_pb2.WorkerServiceGenerateRequest | Undecodable, context: Context
    ) -> None:
        """Answers a conversation; worker.proto says how."""
        try:
            await self._answer(_valid(message), context)
        except (BackendError, QueueFullError) as error:
            await status_map.abort(context, convert.error(error))
        except status_map.ServiceError as error:
            await status_map.abort(context, error)
        except Exception as error:
            _LOG.exception("generate failed", model=self._description.model)
            await status_map.abort(context, error)

    async def DescribeModel(  # noqa: N802
        self, message: worker_pb2.DescribeModelRequest | Undecodable, context: Context
    ) -> worker_pb2.DescribeModelResponse:
        """Says what is served."""
        if isinstance(message, Undecodable):
            await status_map.abort(context, _unreadable())
        return self._description

    async def _answer(self, message: worker_pb2.WorkerServiceGenerateRequest, context: Context) -> None:
        request = convert.request(message, context.time_remaining())
        async with (
            self._slots.take(request.deadline),
            aclosing(paced(self._backend.generate(request))) as chunks,
        ):
            async for chunk in chunks:
                await context.write(convert.response(chunk))


def _valid(
    message: worker_pb2.WorkerServiceGenerateRequest | Undecodable,
) -> worker_pb2.WorkerServiceGenerateRequest:
    if isinstance(message, Undecodable):
        raise _unreadable()
    validation.check(message)
    return message


def _unreadable() -> status_map.InvalidRequestError:
    return status_map.InvalidRequestError("the request is not a message of this method")
