"""A client's channel, which is changed for a fresh one when all gateways that it knows drain.

gRPC looks a name up again when a connection ends, not when its server says that it drains: a channel that
knows draining gateways alone would fail every call until they have gone, though others are there. So a call
that finds the channel so waits, at most two seconds, until a fresh one has found a gateway that serves, and
one that meets the very moment at which the last of them begins to drain is made again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc
import grpc.aio

from headgate.client.channel import MAX_TIMEOUT_S, Connection
from headgate.v1 import jobs_pb2_grpc, router_pb2_grpc

RENEW_S = 2.0
"""How long a fresh channel may take: name, connection, TLS and health, far away or on a busy machine.

Where it finds nobody, calls fail at once for as long again.
"""
_LOOK_S = 0.005
_STATES = {state.value[0]: state for state in grpc.ChannelConnectivity}
_FAILING = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_DRAINS = "backend unhealthy"
"""The channel's own words for a server that serves nothing."""
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Metadata = tuple[tuple[str, str], ...]


def unseen(error: grpc.RpcError) -> bool:
    """Whether a call failed in its channel, where all gateways drain: no server has seen it."""
    told = error.details() if error.code() is grpc.StatusCode.UNAVAILABLE else ""
    return _DRAINS in (told or "")


class Link:
    """For threads, any number at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._credentials = connection, connection.credentials()
        self._lock = threading.Lock()
        self._left: list[tuple[float, grpc.Channel]] = []
        """Channels that were changed, and when: what runs on them comes to its end."""
        self._again_at = 0.0
        self._use(self._opened())

    def settle(self, within_s: float = RENEW_S) -> float:
        """Before a call begins: waits until the channel has somebody to send it to, or nobody was found.

        That takes `RENEW_S` and `within_s` at most. What is left of `within_s`, in seconds.
        """
        began = time.monotonic()
        if self._failing() and self._lock.acquire(timeout=max(0.0, min(RENEW_S, within_s))):
            try:
                self._renew(began + min(RENEW_S, within_s))
            finally:
                self._lock.release()
        return max(0.0, began + within_s - time.monotonic())

    def unary(
        self,
        choose: Callable[[Link], grpc.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float,
        metadata: _Metadata,
    ) -> _Response:
        """A call of the method that is chosen, made again where no server saw it. Raises grpc.RpcError."""
        end = time.monotonic() + timeout_s
        left_s = self.settle(timeout_s)
        try:
            return choose(self)(request, timeout=left_s, metadata=metadata)
        except grpc.RpcError as error:
            if not unseen(error):
                raise
        left_s = self.settle(end - time.monotonic())
        return choose(self)(request, timeout=left_s, metadata=metadata)

    def close(self) -> None:
        """Ends the connections and all calls."""
        with self._lock:
            for channel in (self._channel, *(one for _, one in self._left)):
                channel.close()

    def _renew(self, end: float) -> None:
        began = time.monotonic()
        if not self._failing() or began < self._again_at:
            return
        fresh = self._opened()
        while _state(fresh, connect=True) is not grpc.ChannelConnectivity.READY:
            if (now := time.monotonic()) > end:
                fresh.close()
                self._again_at = now + (now - began)
                return
            time.sleep(_LOOK_S)
        now = time.monotonic()
        # By then every call has ended.
        while self._left and self._left[0][0] < now - MAX_TIMEOUT_S:
            self._left.pop(0)[1].close()
        self._left.append((now, self._channel))
        self._use(fresh)

    def _failing(self) -> bool:
        return self._connection.watch_health and _state(self._channel) is _FAILING

    def _use(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.router_stub = router_pb2_grpc.RouterServiceStub(channel)
        self.jobs_stub = jobs_pb2_grpc.JobServiceStub(channel)

    def _opened(self) -> grpc.Channel:
        options = self._connection.options()
        if self._credentials is None:
            return grpc.insecure_channel(self._connection.address, options)
        return grpc.secure_channel(self._connection.address, self._credentials, options)


def _state(channel: grpc.Channel, *, connect: bool = False) -> grpc.ChannelConnectivity | None:
    """None where it does not say, as one that somebody's instrumentation wraps.

    What gRPC offers openly takes a thread for each channel, which dies with a traceback when that is closed.
    """
    asked = getattr(getattr(channel, "_channel", None), "check_connectivity_state", None)
    return None if asked is None else _STATES[asked(connect)]


class AsyncLink:
    """For the loop that it was made in."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._credentials = connection, connection.credentials()
        self._renewing: asyncio.Task[None] | None = None
        self._left: list[tuple[float, grpc.aio.Channel]] = []
        self._again_at = 0.0
        self._use(self._opened())

    @property
    def failing(self) -> bool:
        """Whether `settle` would wait."""
        if not self._connection.watch_health or time.monotonic() < self._again_at:
            return False
        return self._channel.get_state() is _FAILING

    async def settle(self, within_s: float = RENEW_S) -> float:
        """As of `Link`."""
        began = time.monotonic()
        if self.failing:
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.create_task(self._renew())
            await asyncio.wait({self._renewing}, timeout=max(0.0, within_s))
        return max(0.0, began + within_s - time.monotonic())

    async def unary(
        self,
        choose: Callable[[AsyncLink], grpc.aio.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout_s: float,
        metadata: _Metadata,
    ) -> _Response:
        """As of `Link`. Raises AioRpcError."""
        end = time.monotonic() + timeout_s
        left_s = await self.settle(timeout_s)
        try:
            return await choose(self)(request, timeout=left_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            if not unseen(error):
                raise
        left_s = await self.settle(end - time.monotonic())
        return await choose(self)(request, timeout=left_s, metadata=metadata)

    async def close(self) -> None:
        """Ends the connections and all calls."""
        if self._renewing is not None:
            self._renewing.cancel()
        for channel in (self._channel, *(one for _, one in self._left)):
            await channel.close()

    async def _renew(self) -> None:
        fresh = self._opened()
        try:
            await asyncio.wait_for(fresh.channel_ready(), RENEW_S)
        except TimeoutError:
            await fresh.close()
            self._again_at = time.monotonic() + RENEW_S
            return
        except asyncio.CancelledError:
            await fresh.close()
            raise
        now, old = time.monotonic(), self._channel
        self._use(fresh)
        self._left.append((now, old))
        while self._left[0][0] < now - MAX_TIMEOUT_S:
            await self._left.pop(0)[1].close()

    def _use(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.router_stub = router_pb2_grpc.RouterServiceStub(channel)
        self.jobs_stub = jobs_pb2_grpc.JobServiceStub(channel)

    def _opened(self) -> grpc.aio.Channel:
        options = self._connection.options()
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._connection.address, options)
        return grpc.aio.secure_channel(self._connection.address, self._credentials, options)
