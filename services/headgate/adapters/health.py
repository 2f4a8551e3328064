"""The standard health service. A watcher that does not read holds up nobody but itself.

The library's own writes to each watcher under the lock that a change of state needs: one client with a
closed window, which needs no key, would end all probing and every drain.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

State: TypeAlias = "health_pb2.HealthCheckResponse.ServingStatus"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """States of services by name; the empty name is the process."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {"": health_pb2.HealthCheckResponse.NOT_SERVING}
        self._changed = asyncio.Event()
        self._over = False

    def set(self, service: str, state: State) -> None:
        """Tells watchers, and who asks from now on. Changes nothing after `drain`."""
        if not self._over and self._states.get(service) != state:
            self._states[service] = state
            self._tell()

    def drain(self) -> None:
        """NOT_SERVING from now on, whatever is set."""
        self._over = True
        self._states = dict.fromkeys(self._states, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is not served."""
        state = self._states.get(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The state now and whenever it is another; a slow watcher misses those in between."""
        told: State | None = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                told = state
            await changed.wait()
