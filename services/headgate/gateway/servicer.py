"""`RouterService`: wire in, wire out. Errors become statuses here, and streams get their terminal event."""

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

from headgate.adapters import status_map, validation
from headgate.adapters.decoding import Undecodable
from headgate.adapters.ports import SideRoomError
from headgate.adapters.status_map import InvalidRequestError, LedgerUnavailableError
from headgate.adapters.telemetry import Metrics
from headgate.gateway import records
from headgate.gateway.admission import CALLER, Context, Room
from headgate.gateway.conductor import Conductor
from headgate.gateway.drain import Drain
from headgate.gateway.journey import Arrival, Event
from headgate.gateway.records import Recorder
from headgate.router.errors import RouterError
from headgate.v1 import router_pb2, router_pb2_grpc

_LOG = structlog.get_logger(__name__)
SERVICE: Final = "headgate.v1.RouterService"
UNARY_S: Final = 60.0
STREAM_S: Final = 300.0
"""How long a call may take whose caller did not say: a long answer fits, and a forgotten call ends."""
LONGEST_S: Final = 600.0
"""Whatever the caller says: connections that are renewed wait for no call that takes longer."""
LAST_EVENT_S: Final = 0.5
"""How long a broken stream's last event may take: a caller that reads has it at once."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """The public methods; router.proto says what each promises."""

    def __init__(
        self, conductor: Conductor, recorder: Recorder, room: Room, metrics: Metrics, drain: Drain
    ) -> None:
        self._conductor = conductor
        self._recorder = recorder
        self._room = room
        self._metrics = metrics
        self._drain = drain

    async def Generate(  # noqa: N802
        self, message: router_pb2.GenerateRequest | Undecodable, context: Context
    ) -> router_pb2.GenerateResponse:
        """Answers in one piece."""

        async def answer(visit: _Visit) -> router_pb2.GenerateResponse:
            request = _valid(message, router_pb2.GenerateRequest)
            return await self._conductor.answer(visit.arrival(UNARY_S), request.query)

        return await self._attend("Generate", context, answer)

    async def StreamGenerate(  # type: ignore[override]  # noqa: N802
        self, message: router_pb2.StreamGenerateRequest | Undecodable, context: Context
    ) -> None:
        """Answers token by token. A coroutine that writes: a cancellation always arrives inside of it."""

        async def stream(visit: _Visit) -> None:
            request = _valid(message, router_pb2.StreamGenerateRequest)
            arrival = visit.arrival(STREAM_S)
            answer = await self._conductor.answer(arrival, request.query, context.write, request.watch)
            finished = router_pb2.Finished(
                finish_reason=answer.finish_reason, usage=answer.usage, decision=answer.decision
            )
            async with self._drain.limit(arrival.deadline):
                await context.write(Event(finished=finished))

        await self._attend("StreamGenerate", context, stream, last_word=_broken)

    async def Route(  # noqa: N802
        self, message: router_pb2.RouteRequest | Undecodable, context: Context
    ) -> router_pb2.RouteResponse:
        """Decides without calling a model."""

        async def decide(visit: _Visit) -> router_pb2.RouteResponse:
            request = _valid(message, router_pb2.RouteRequest)
            decision = await self._conductor.route(visit.arrival(UNARY_S), request.query)
            return router_pb2.RouteResponse(decision=decision)

        return await self._attend("Route", context, decide)

    async def RecordOutcome(  # noqa: N802
        self, message: router_pb2.RecordOutcomeRequest | Undecodable, context: Context
    ) -> router_pb2.RecordOutcomeResponse:
        """Writes an outcome, and says so only when it is written."""

        async def record(visit: _Visit) -> router_pb2.RecordOutcomeResponse:
            request = _valid(message, router_pb2.RecordOutcomeRequest)
            outcome = records.outcome(CALLER.get().tenant, request, time.time())
            try:
                async with self._drain.limit(visit.arrival(UNARY_S).deadline):
                    await self._recorder.record_now(outcome, visit.seconds_left(UNARY_S))
            except SideRoomError:
                raise LedgerUnavailableError("the ledger cannot be written", retry_after_s=1.0) from None
            return router_pb2.RecordOutcomeResponse()

        return await self._attend("RecordOutcome", context, record)

    async def _attend(
        self,
        method: str,
        context: Context,
        serve: Callable[[_Visit], Awaitable[T]],
        last_word: LastWord | None = None,
    ) -> T:
        """One request's time inside: takes a place, turns errors into statuses, counts how it ended."""
        visit = _Visit(context)
        code = grpc.StatusCode.CANCELLED
        try:
            with self._room.enter():
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


LastWord = Callable[[BaseException], Event]


@dataclass(frozen=True, slots=True)
class _Visit:
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


async def _tell(context: Context, event: Event) -> None:
    """Sends a stream's last event to a caller that reads. One that does not still has a write before it."""
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(LAST_EVENT_S):
            await context.write(event)


def _broken(error: BaseException) -> Event:
    return Event(error=status_map.to_status(error))


def _valid(message: M | Undecodable, _kind: type[M]) -> M:
    if isinstance(message, Undecodable):
        raise InvalidRequestError("the request is not a message of this method")
    validation.check(message)
    return message
