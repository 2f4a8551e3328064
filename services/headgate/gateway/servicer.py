"""`RouterService`: wire in, wire out. Errors become statuses here, and streams get their terminal event."""

from __future__ import annotations

import time
from typing import Final

import structlog

from headgate.adapters import status_map
from headgate.adapters.decoding import Undecodable
from headgate.adapters.ports import SideRoomError
from headgate.adapters.status_map import LedgerUnavailableError
from headgate.gateway import records
from headgate.gateway.admission import CALLER, Context
from headgate.gateway.conductor import Conductor
from headgate.gateway.drain import Drain
from headgate.gateway.journey import Event
from headgate.gateway.records import Recorder
from headgate.gateway.visits import STREAM_S, UNARY_S, Visit, Visits, valid
from headgate.v1 import router_pb2, router_pb2_grpc

_LOG = structlog.get_logger(__name__)
SERVICE: Final = "headgate.v1.RouterService"


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """The public methods; router.proto says what each promises."""

    def __init__(self, conductor: Conductor, recorder: Recorder, visits: Visits, drain: Drain) -> None:
        self._conductor = conductor
        self._recorder = recorder
        self._visits = visits
        self._drain = drain

    async def Generate(  # noqa: N802
        self, message: router_pb2.GenerateRequest | Undecodable, context: Context
    ) -> router_pb2.GenerateResponse:
        """Answers in one piece."""

        async def answer(visit: Visit) -> router_pb2.GenerateResponse:
            request = valid(message, router_pb2.GenerateRequest)
            return await self._conductor.answer(visit.arrival(UNARY_S), request.query)

        return await self._visits.attend("Generate", context, answer)

    async def StreamGenerate(  # type: ignore[override]  # noqa: N802
        self, message: router_pb2.StreamGenerateRequest | Undecodable, context: Context
    ) -> None:
        """Answers token by token. A coroutine that writes: a cancellation always arrives inside of it."""

        async def stream(visit: Visit) -> None:
            request = valid(message, router_pb2.StreamGenerateRequest)
            arrival = visit.arrival(STREAM_S)
            answer = await self._conductor.answer(arrival, request.query, context.write, request.watch)
            finished = router_pb2.Finished(
                finish_reason=answer.finish_reason, usage=answer.usage, decision=answer.decision
            )
            async with self._drain.limit(arrival.deadline):
                await context.write(Event(finished=finished))

        await self._visits.attend("StreamGenerate", context, stream, last_word=_broken)

    async def Route(  # noqa: N802
        self, message: router_pb2.RouteRequest | Undecodable, context: Context
    ) -> router_pb2.RouteResponse:
        """Decides without calling a model."""

        async def decide(visit: Visit) -> router_pb2.RouteResponse:
            request = valid(message, router_pb2.RouteRequest)
            decision = await self._conductor.route(visit.arrival(UNARY_S), request.query)
            return router_pb2.RouteResponse(decision=decision)

        return await self._visits.attend("Route", context, decide)

    async def RecordOutcome(  # noqa: N802
        self, message: router_pb2.RecordOutcomeRequest | Undecodable, context: Context
    ) -> router_pb2.RecordOutcomeResponse:
        """Writes an outcome, and says so only when it is written."""

        async def record(visit: Visit) -> router_pb2.RecordOutcomeResponse:
            request = valid(message, router_pb2.RecordOutcomeRequest)
            outcome = records.outcome(CALLER.get().tenant, request, time.time())
            try:
                async with self._drain.limit(visit.arrival(UNARY_S).deadline):
                    await self._recorder.record_now(outcome, visit.seconds_left(UNARY_S))
            except SideRoomError:
                raise LedgerUnavailableError("the ledger cannot be written", retry_after_s=1.0) from None
            return router_pb2.RecordOutcomeResponse()

        return await self._visits.attend("RecordOutcome", context, record)


def _broken(error: BaseException) -> Event:
    return Event(error=status_map.to_status(error))
