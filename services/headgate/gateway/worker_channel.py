"""The channel to a model's workers, changed for a fresh one when it knows nobody who serves.

gRPC looks a name up again when a connection ends, not when its server says that it drains: a channel that
knows draining workers alone would refuse calls until they have gone, though others are there. The first call
or probe that it refuses has it changed, and is made again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import grpc
import grpc.aio

from headgate.adapters import channels
from headgate.v1 import worker_pb2, worker_pb2_grpc

HEALTH_SERVICE: Final = "headgate.v1.WorkerService"
RENEW_S: Final = 1.0
"""How long a fresh channel may take to find a worker that serves."""
PAUSE_S: Final = 0.5
"""Between fresh channels that found nobody; calls that reach nobody fail at once meanwhile."""
LONGEST_CALL_S: Final = 600.0
"""What a channel that was changed for a fresh one is left for the calls that run on it."""
_DRAINS: Final = "backend unhealthy"
"""The channel's own words for a server that serves nothing."""

# Text, because gRPC's classes take parameters only in its stubs.
_Request: TypeAlias = worker_pb2.WorkerServiceGenerateRequest
_Response: TypeAlias = worker_pb2.WorkerServiceGenerateResponse
_Generating: TypeAlias = "grpc.aio.UnaryStreamCall[_Request, _Response]"
_Metadata: TypeAlias = tuple[tuple[str, str], ...] | None


class WorkerChannel:
    """Every call of a model's workers goes through it. Belongs to the loop that it was made in."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._renewing: asyncio.Task[None] | None = None
        self._again_at = 0.0
        self._leaving: set[asyncio.Task[None]] = set()
        self._use(channels.channel(address, health_service=HEALTH_SERVICE))

    async def describe(self, timeout_s: float) -> worker_pb2.DescribeModelResponse:
        """What a worker says of itself. Raises AioRpcError, once a fresh channel finds nobody either."""
        request, used = worker_pb2.DescribeModelRequest(), self.used
        try:
            return await self._stub.DescribeModel(request, timeout=timeout_s)
        except grpc.aio.AioRpcError:
            failing = used.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            if not (failing and await self.changed(used)):
                raise
        return await self._stub.DescribeModel(request, timeout=timeout_s)

    def generate(
        self, request: worker_pb2.WorkerServiceGenerateRequest, timeout_s: float, metadata: _Metadata = None
    ) -> Call:
        """Begins an answer."""
        end = time.monotonic() + timeout_s

        def begin() -> _Generating:
            left_s = max(0.0, end - time.monotonic())
            begun: _Generating = self._stub.Generate(request, timeout=left_s, metadata=metadata)
            return begun

        return Call(self, begin)

    async def changed(self, used: grpc.aio.Channel) -> bool:
        """Whether another channel is in use than this one; looks for one where it is not.

        That takes `RENEW_S` at most.
        """
        if used is self.used and time.monotonic() >= self._again_at:
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew())
            await asyncio.wait({self._renewing})
        return used is not self.used

    async def close(self) -> None:
        """Ends the connections and all calls."""
        ending = [*self._leaving, *([self._renewing] if self._renewing else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self.used.close()

    async def _renew(self) -> None:
        fresh = channels.channel(self._address, health_service=HEALTH_SERVICE)
        found = False
        try:
            with suppress(TimeoutError):
                found = await asyncio.wait_for(_found(fresh), RENEW_S)
        finally:
            if not found:
                self._again_at = time.monotonic() + PAUSE_S
                await fresh.close()
        if found:
            leaving = asyncio.create_task(self.used.close(LONGEST_CALL_S))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            self._use(fresh)

    def _use(self, channel: grpc.aio.Channel) -> None:
        self.used = channel
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)


class Call:
    """An answer that a worker writes; `read` and `cancel` are those of gRPC's own calls."""

    def __init__(self, channel: WorkerChannel, begin: Callable[[], _Generating]) -> None:
        self._channel, self._begin = channel, begin
        self._used, self._call = channel.used, begin()
        self._over = False

    async def read(self) -> object:
        """The next chunk, or EOF. Raises AioRpcError, and CancelledError after `cancel`."""
        try:
            return await self._call.read()
        except grpc.aio.AioRpcError as error:
            # Where workers are gone, another model answers sooner than a fresh channel may find one.
            if not (_drains(error) and await self._channel.changed(self._used)):
                raise
        if self._over:
            raise asyncio.CancelledError
        self._used, self._call = self._channel.used, self._begin()
        return await self._call.read()

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        self._over = True
        self._call.cancel()


def _drains(error: grpc.aio.AioRpcError) -> bool:
    """Whether a call failed in its channel, where all drain: no worker has seen it."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and _DRAINS in (error.details() or "")


async def _found(channel: grpc.aio.Channel) -> bool:
    """Whether the channel knows somebody who serves, once it can tell."""
    states = grpc.ChannelConnectivity
    while (state := channel.get_state(try_to_connect=True)) not in (states.READY, states.TRANSIENT_FAILURE):
        await channel.wait_for_state_change(state)
    return state is states.READY
