"""The channel to a model's workers, replaced by a fresh one when it knows nobody who serves.

gRPC looks a name up again when a connection ends, not when its server says that it drains: a channel that
knows draining workers alone would refuse calls until they have gone, though others are there. The first call
or probe that it refuses has it replaced, and is made again: no worker has seen it.
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
"""How long a fresh channel may look for a worker that serves. Calls wait until it has tried all once."""
LONGEST_CALL_S: Final = 600.0
"""What a channel that was replaced is left for the calls that run on it."""
_REFUSES: Final = "connections to all backends failing"
"""A channel's own words where it has nobody to send a call to."""

# Text, because gRPC's classes take parameters only in its stubs.
_Request: TypeAlias = worker_pb2.WorkerServiceGenerateRequest
_Response: TypeAlias = worker_pb2.WorkerServiceGenerateResponse
_Generating: TypeAlias = "grpc.aio.UnaryStreamCall[_Request, _Response]"
_Metadata: TypeAlias = tuple[tuple[str, str], ...] | None


class WorkerChannel:
    """Every call of a model's workers goes through it. Belongs to the loop that it was made in."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._search: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        """Whether the search has found somebody, or nobody at its first attempt."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._use(channels.channel(address, health_service=HEALTH_SERVICE))

    async def describe(self, timeout_s: float) -> worker_pb2.DescribeModelResponse:
        """What a worker says of itself. Raises AioRpcError."""
        request, refusing, end = worker_pb2.DescribeModelRequest(), self.current, time.monotonic() + timeout_s
        try:
            return await self._stub.DescribeModel(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if not await self.replaced(error, refusing, end):
                raise
        return await self._stub.DescribeModel(request, timeout=_left_s(end))

    def generate(
        self, request: worker_pb2.WorkerServiceGenerateRequest, timeout_s: float, metadata: _Metadata = None
    ) -> Call:
        """Begins an answer."""
        end = time.monotonic() + timeout_s

        def begin() -> _Generating:
            begun: _Generating = self._stub.Generate(request, timeout=_left_s(end), metadata=metadata)
            return begun

        return Call(self, begin, end)

    async def replaced(self, error: grpc.aio.AioRpcError, refusing: grpc.aio.Channel, end: float) -> bool:
        """Whether a call failed because this channel refused it, and another one is there instead by now.

        Looks for one until `end`, an instant of `time.monotonic`, but no longer than until nobody was found.
        """
        if error.code() is not grpc.StatusCode.UNAVAILABLE or _REFUSES not in (error.details() or ""):
            return False
        if refusing is self.current:
            if self._search is None or self._search.done():
                self._tried = asyncio.Event()
                self._search = asyncio.create_task(self._look(self._tried))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _left_s(end))
        return refusing is not self.current

    async def close(self) -> None:
        """Ends the connections, once calls on replaced channels have ended: cancel them before."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait({self._search})
        await asyncio.gather(*self._leaving)
        await self.current.close()

    async def _look(self, tried: asyncio.Event) -> None:
        fresh, old = channels.channel(self._address, health_service=HEALTH_SERVICE), self.current
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(_ready(fresh, tried), RENEW_S)
                self._use(fresh)
        finally:
            closing = old.close(LONGEST_CALL_S) if self.current is fresh else fresh.close()
            leaving = asyncio.create_task(closing)
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            tried.set()

    def _use(self, channel: grpc.aio.Channel) -> None:
        self.current = channel
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)


class Call:
    """An answer that a worker writes; `read` and `cancel` are those of gRPC's own calls."""

    def __init__(self, channel: WorkerChannel, begin: Callable[[], _Generating], end: float) -> None:
        self._channel, self._begin, self._end = channel, begin, end
        self._used, self._call = channel.current, begin()
        self._seen = self._over = False

    async def read(self) -> object:
        """The next chunk, or EOF. Raises AioRpcError, and CancelledError after `cancel`."""
        try:
            chunk = await self._call.read()
        except grpc.aio.AioRpcError as error:
            again = not self._seen and await self._channel.replaced(error, self._used, self._end)
            if self._over:
                raise asyncio.CancelledError from None
            if not again:
                raise
            self._call = self._begin()
            chunk = await self._call.read()
        self._seen = True
        return chunk

    def cancel(self) -> None:
        """Ends the call; harmless after its end."""
        self._over = True
        self._call.cancel()


def _left_s(end: float) -> float:
    return max(0.0, end - time.monotonic())


async def _ready(channel: grpc.aio.Channel, tried: asyncio.Event) -> None:
    """Returns when the channel knows somebody who serves; `tried` is set where it does not at first."""
    states = grpc.ChannelConnectivity
    while (state := channel.get_state(try_to_connect=True)) is not states.READY:
        if state is states.TRANSIENT_FAILURE:
            tried.set()
        await channel.wait_for_state_change(state)
