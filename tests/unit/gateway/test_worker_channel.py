"""A name whose worker drains, and who has it by then: nobody who asks notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import channels
from headgate.adapters.health import HealthServicer
from headgate.gateway import worker_channel
from headgate.gateway.worker_channel import WorkerChannel
from headgate.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.gateway_rig import eventually

Request, Response = worker_pb2.WorkerServiceGenerateRequest, worker_pb2.WorkerServiceGenerateResponse
ASKERS = 8


class Peer(worker_pb2_grpc.WorkerServiceServicer):
    """A worker whose answers take until it is told."""

    def __init__(self) -> None:
        self.asked = self.described = 0
        self.goes_on = asyncio.Event()
        self.health = HealthServicer()
        self.server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)

    async def start(self) -> str:
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.health.set(worker_channel.HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        return f"127.0.0.1:{port}"

    async def DescribeModel(self, request: Any, context: Any) -> worker_pb2.DescribeModelResponse:
        self.described += 1
        return worker_pb2.DescribeModelResponse(model="small")

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked += 1
        yield Response(text="a")
        await self.goes_on.wait()
        yield Response(text="b")


class Name:
    """A name that one worker has, and later another one."""

    def __init__(self) -> None:
        self.old, self.new = Peer(), Peer()
        self._known = ""

    async def start(self, monkeypatch: pytest.MonkeyPatch) -> WorkerChannel:
        real = channels.channel
        monkeypatch.setattr(channels, "channel", lambda _, **options: real(self._known, **options))
        self._known = await self.old.start()
        channel = WorkerChannel("worker-small:7080")
        await channel.describe(30)
        return channel

    async def replace(self) -> None:
        self._known = await self.new.start()
        self.old.health.drain()


@pytest.fixture
async def name() -> AsyncIterator[Name]:
    one = Name()
    yield one
    await asyncio.gather(*(peer.server.stop(0) for peer in (one.old, one.new)))


@pytest.fixture
async def channel(name: Name, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WorkerChannel]:
    one = await name.start(monkeypatch)
    yield one
    await one.close()


async def _until_noticed(channel: WorkerChannel) -> None:
    failing = grpc.ChannelConnectivity.TRANSIENT_FAILURE
    await eventually(lambda: channel.used.get_state() is failing, what="the channel to see the drain")


async def test_no_call_fails_when_the_last_worker_drains(name: Name, channel: WorkerChannel) -> None:
    """Many are made at that moment; the channel knows of the drain before anybody here does."""
    enough = asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            call = channel.generate(Request(), 30)
            assert isinstance(await call.read(), Response)
            call.cancel()

    asking = [asyncio.create_task(ask()) for _ in range(ASKERS)]
    await eventually(lambda: name.old.asked, what="calls")
    await name.replace()
    await eventually(lambda: name.new.asked >= ASKERS or any(one.done() for one in asking), what="new calls")
    enough.set()
    await asyncio.gather(*asking)


async def test_a_probe_changes_it_too(name: Name, channel: WorkerChannel) -> None:
    await name.replace()
    await _until_noticed(channel)
    await channel.describe(30)
    assert name.new.described


async def test_what_the_old_one_is_answering_comes_to_its_end(name: Name, channel: WorkerChannel) -> None:
    answer = channel.generate(Request(), 30)
    assert await answer.read() == Response(text="a")
    await name.replace()
    await _until_noticed(channel)
    await channel.describe(30)
    name.old.goes_on.set()
    assert await answer.read() == Response(text="b")
    assert await answer.read() is grpc.aio.EOF


async def test_where_nobody_serves_calls_fail_soon_and_later_ones_find_who_comes(
    name: Name, channel: WorkerChannel
) -> None:
    name.old.health.drain()
    await _until_noticed(channel)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            await channel.generate(Request(), 30).read()
    assert time.monotonic() - began < worker_channel.RENEW_S
    await name.replace()
    async with asyncio.timeout(30):
        while not name.new.described:
            with suppress(grpc.aio.AioRpcError):
                await channel.describe(30)


async def test_a_call_that_is_cancelled_meanwhile_is_not_made_again(
    name: Name, channel: WorkerChannel
) -> None:
    await name.replace()
    await _until_noticed(channel)
    call = channel.generate(Request(), 30)
    reading = asyncio.create_task(call.read())
    async with asyncio.timeout(30):
        while channel._renewing is None:
            await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not name.new.asked
