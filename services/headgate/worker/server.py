"""The life of a worker's gRPC server: serving, lame duck, drained."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import channels
from headgate.adapters.decoding import Decoding
from headgate.adapters.health import HealthServicer
from headgate.adapters.loop_lag import LoopLag
from headgate.adapters.telemetry import WorkerMetrics
from headgate.v1 import worker_pb2_grpc
from headgate.worker import convert
from headgate.worker.backends.base import Backend
from headgate.worker.servicer import WorkerServicer
from headgate.worker.slots import Slots

SERVICE = "headgate.v1.WorkerService"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Who the worker is, where it listens and how it drains. Times are seconds."""

    model: str
    backend: str
    listen: str
    slots: int
    queue: int
    lame_duck_s: float
    drain_s: float


class PortTakenError(Exception):
    """The address cannot be listened on."""


class WorkerServer:
    """Serves a loaded backend until `drain`."""

    def __init__(
        self, settings: ServerSettings, backend: Backend, metrics: WorkerMetrics | None = None
    ) -> None:
        self._settings = settings
        self._server = aio.server(interceptors=[Decoding()], options=channels.server_options())
        self._health = HealthServicer()
        self._metrics = metrics or WorkerMetrics(settings.model)
        self._lag = LoopLag(self._metrics.loop_lag.observe)
        description = convert.description(
            settings.model, settings.backend, settings.slots, backend.describe()
        )
        slots = Slots(settings.slots, settings.queue)
        self._watch_gauges(slots)
        servicer = WorkerServicer(description, backend, slots, self._metrics)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self) -> str:
        """Serves, and returns the address with the port it really has. Raises PortTakenError."""
        host = self._settings.listen.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(self._settings.listen)
        except RuntimeError:
            raise PortTakenError(
                f"cannot listen on {self._settings.listen}: the port is in use or not this machine's"
            ) from None
        loop = asyncio.get_running_loop()
        self._metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        await self._server.start()
        self._lag.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return f"{host}:{port}"

    def _watch_gauges(self, slots: Slots) -> None:
        self._metrics.slots.set(self._settings.slots)
        self._metrics.busy.set_function(lambda: slots.busy)
        self._metrics.waiting.set_function(lambda: slots.waiting)

    async def drain(self) -> None:
        """Says NOT_SERVING, goes on for the lame-duck time, then takes nothing new and lets answers end.

        Those that still run after `drain_s` are cancelled.
        """
        self._health.drain()
        await asyncio.sleep(self._settings.lame_duck_s)
        await self._server.stop(self._settings.drain_s)
        self._lag.stop()
