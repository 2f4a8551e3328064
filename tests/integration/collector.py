"""A collector of traces: OTLP over real gRPC, which keeps what it is told and can be frozen.

async with Collector() as collector:
    ... telemetry: {otlp_endpoint: collector.endpoint} ...
    spans = await collector.trace(trace_id, 9)
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.integration.gateway_rig import eventually


@dataclass(frozen=True, slots=True)
class Told:
    """One span as it came."""

    service: str
    wire: trace_pb2.Span

    @property
    def name(self) -> str:
        return self.wire.name

    @property
    def trace_id(self) -> str:
        return self.wire.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return {one.key: _plain(one.value) for one in self.wire.attributes}

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(one.name, {a.key: _plain(a.value) for a in one.attributes}) for one in self.wire.events]

    @property
    def failed(self) -> bool:
        return self.wire.status.code == trace_pb2.Status.STATUS_CODE_ERROR


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span, and every message as it came."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.raw: list[bytes] = []
        self.goes_on = asyncio.Event()
        """Cleared, it takes what comes and says nothing, as a process under SIGSTOP."""
        self.goes_on.set()

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def Export(self, request: Any, _context: object) -> Any:
        await self.goes_on.wait()
        self.raw.append(request.SerializeToString())
        for resource in request.resource_spans:
            named = {one.key: _plain(one.value) for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [Told(named["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Told]:
        """What has come of a trace, in the order in which its spans began."""
        found = (one for one in self.spans if one.trace_id == trace_id)
        return sorted(found, key=lambda one: one.wire.start_time_unix_nano)

    async def trace(self, trace_id: str, count: int) -> list[Told]:
        """The same, once so many spans have come."""
        await eventually(lambda: len(self.of(trace_id)) >= count, what=f"{count} spans of a trace")
        return self.of(trace_id)


def _plain(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
