"""One request's time inside: it takes a place, its errors become statuses, and how it ended is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from headgate.adapters import status_map, traces, validation
from headgate.adapters import trace_words as words
from headgate.adapters.decoding import Undecodable
from headgate.adapters.status_map import InvalidRequestError
from headgate.adapters.telemetry import Metrics
from headgate.gateway.admission import CALLER, Context, Room
from headgate.gateway.journey import Arrival
from headgate.router.errors import RouterError

_LOG = structlog.get_logger(__name__)
UNARY_S: Final = 60.0
STREAM_S: Final = 300.0
"""How long a call may take whose caller did not say: a long answer fits, and a forgotten call ends."""
LONGEST_S: Final = 600.0
"""Whatever the caller says: connections that are renewed wait for no call that takes longer."""
LAST_EVENT_S: Final = 0.5
"""How long a broken stream's last event may take: a caller that reads has it at once."""

_TRACED: Final = {
    **dict.fromkeys(("Generate", "StreamGenerate", "Route", "RecordOutcome"), "headgate.v1.RouterService"),
    **dict.fromkeys(("SubmitJob", "SubmitJobs"), "headgate.v1.JobService"),
}
"""Methods that have a trace. Who watches, or asks again how a job goes, tells nothing of a request."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")
LastWord = Callable[[BaseException], Message]


@dataclass(frozen=True, slots=True)
class Visit:
    """A call that was let in, from now on."""

    context: Context
    at: float = field(default_factory=time.perf_counter)

    def arrival(self, default_s: float) -> Arrival:
        """Who calls and until when; a caller that set no deadline has `default_s`."""
        return Arrival(CALLER.get(), self.at, self.at + self.seconds_left(default_s))

    def seconds_left(self, default_s: float) -> float:
        """How long it may still take."""
        left = self.context.time_remaining()
        return default_s if left is None else min(left, LONGEST_S)


class Visits:
    """Attends to the calls of all services of the public port."""

    def __init__(self, room: Room, metrics: Metrics) -> None:
        self._room = room
        self._metrics = metrics

    async def attend(
        self,
        method: str,
        context: Context,
        serve: Callable[[Visit], Awaitable[T]],
        last_word: LastWord | None = None,
        room: Room | None = None,
    ) -> T:
        """What `serve` returns. A stream that breaks says its `last_word` before its status.

        `room`: where the call takes its place, if not among all others.
        """
        visit, room = Visit(context), room or self._room
        span = _entered(method, context)
        code = grpc.StatusCode.CANCELLED
        try:
            with room.place(job=CALLER.get().runs_jobs):
                result = await serve(visit)
            code = grpc.StatusCode.OK
        except asyncio.CancelledError:
            raise
        except Exception as error:
            code = status_map.code_of(error)[0]
            if not isinstance(error, status_map.ServiceError | RouterError):
                _LOG.exception("request failed", method=method)
            if last_word is not None:
                await _tell(context, last_word(error))
            await status_map.abort(context, error)
        else:
            return result
        finally:
            self._metrics.requests.labels(method, code.name).inc()
            span.end(code.name)


def valid(message: M | Undecodable, _kind: type[M]) -> M:
    """The request, checked against its proto's rules. Raises InvalidRequestError."""
    if isinstance(message, Undecodable):
        raise InvalidRequestError("the request is not a message of this method")
    validation.check(message)
    return message


def _entered(method: str, context: Context) -> traces.Span:
    if traces.tracer is None or (service := _TRACED.get(method)) is None:
        return traces.NONE
    span = traces.entered(method, "server", context.invocation_metadata, begins=True)
    if span.recording:
        tenant = CALLER.get().tenant
        span.set({words.RPC_SYSTEM: "grpc", words.RPC_METHOD: f"{service}/{method}", words.TENANT: tenant})
    return span


async def _tell(context: Context, event: Message) -> None:
    """Sends a stream's last event to a caller that reads. One that does not still has a write before it."""
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(LAST_EVENT_S):
            await context.write(event)
