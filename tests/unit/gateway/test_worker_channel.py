"""The last worker that a channel knows drains, and another has its name by then: who asks does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from headgate.adapters import channels
from headgate.adapters.health import HealthServicer
from headgate.gateway import worker_channel
from headgate.gateway.worker_channel import WorkerChannel
from headgate.gateway.workers import Worker
from headgate.v1 import worker_pb2, worker_pb2_grpc
from tests.integration.gateway_rig import eventually

Request, Response = worker_pb2.WorkerServiceGenerateRequest, worker_pb2.WorkerServiceGenerateResponse
ASKERS = 8


class Peer(worker_pb2_grpc.WorkerServiceServicer):
    """A worker whose answers take until it is told."""

    def __init__(self) -> None:
        self.asked = self.described = 0
        self.fails = ""
        """What it ends an answer with, if with anything."""
        self.left_s = 0.0
        """What the last call of it has."""
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
        self.left_s = context.time_remaining()
        return worker_pb2.DescribeModelResponse(model="small")

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.asked += 1
        self.left_s = context.time_remaining()
        yield Response(text="a")
        await self.goes_on.wait()
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.fails)
        yield Response(text="b")


class Name:
    """A name that one worker has, and later another one."""

    def __init__(self) -> None:
        self.old, self.new = Peer(), Peer()
        self.channels = 0
        """How many have looked it up."""
        self._known = ""

    async def start(self, monkeypatch: pytest.MonkeyPatch) -> WorkerChannel:
        real = channels.channel

        def look_up(_name: str, **options: Any) -> grpc.aio.Channel:
            self.channels += 1
            return real(self._known, **options)

        monkeypatch.setattr(channels, "channel", look_up)
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
    """Until the channel refuses calls; nobody has it replaced before one is made."""
    await _until_state(channel, grpc.ChannelConnectivity.TRANSIENT_FAILURE)


async def _until_state(channel: WorkerChannel, state: grpc.ChannelConnectivity) -> None:
    await eventually(lambda: channel.current.get_state() is state, what=f"the channel to be {state}")


async def test_no_call_fails_when_the_last_worker_drains(name: Name, channel: WorkerChannel) -> None:
    """Many are made at that moment; the channel knows of the drain before anybody here does."""
    enough = asyncio.Event()

    async def ask() -> None:
        while not enough.is_set():
            call = channel.generate(Request(), 30)
            assert isinstance(await call.read(), Response)
            call.cancel()

    async with asyncio.TaskGroup() as group:
        for _ in range(ASKERS):
            group.create_task(ask())
        await eventually(lambda: name.old.asked, what="calls")
        await name.replace()
        await eventually(lambda: name.new.asked >= ASKERS, what="calls of the new one")
        enough.set()


async def test_a_probe_replaces_it_too(name: Name, channel: WorkerChannel) -> None:
    await name.replace()
    await _until_noticed(channel)
    await channel.describe(30)
    assert name.new.described


async def test_nor_does_one_fail_when_the_last_worker_is_gone(name: Name, channel: WorkerChannel) -> None:
    """The channel tells its last error alone, and a worker that drained before may be gone by then."""
    await name.replace()
    await name.old.server.stop(0)
    await _until_noticed(channel)
    assert await channel.generate(Request(), 30).read() == Response(text="a")
    assert name.new.asked == 1


async def test_what_the_old_one_is_answering_comes_to_its_end(name: Name, channel: WorkerChannel) -> None:
    answer = channel.generate(Request(), 30)
    assert await answer.read() == Response(text="a")
    await name.replace()
    await _until_noticed(channel)
    await channel.describe(30)
    name.old.goes_on.set()
    assert await answer.read() == Response(text="b")
    assert await answer.read() is grpc.aio.EOF


@pytest.mark.parametrize("kind", ["calls", "shadows"])
async def test_to_close_a_worker_ends_it(name: Name, channel: WorkerChannel, kind: str) -> None:
    worker = Worker("small", "worker-small:7080", None)
    await worker.channel.describe(30)
    answer = worker.channel.generate(Request(), 60)
    getattr(worker, kind).add(answer)
    await answer.read()
    await name.replace()
    await _until_noticed(worker.channel)
    await worker.channel.describe(30)
    async with asyncio.timeout(10):
        await worker.close()
        with pytest.raises(asyncio.CancelledError):
            await answer.read()


async def test_where_nobody_serves_calls_fail_soon_and_one_search_finds_who_comes(
    name: Name, channel: WorkerChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channel, "RENEW_S", 30)
    name.old.health.set(worker_channel.HEALTH_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    await _until_noticed(channel)
    before = name.channels
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
            async with asyncio.timeout(10):
                await channel.generate(Request(), 30).read()
    assert name.channels == before + 1
    name.old.health.set(worker_channel.HEALTH_SERVICE, health_pb2.HealthCheckResponse.SERVING)
    await _until_state(channel, grpc.ChannelConnectivity.READY)
    assert await channel.generate(Request(), 30).read() == Response(text="a")


async def test_after_a_search_in_vain_the_next_call_begins_another(
    name: Name, channel: WorkerChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_channel, "RENEW_S", 0.05)
    name.old.health.drain()
    await _until_noticed(channel)
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await channel.generate(Request(), 30).read()
    assert channel._search is not None
    await asyncio.wait({channel._search})
    monkeypatch.setattr(worker_channel, "RENEW_S", 30)
    await name.replace()
    assert await channel.generate(Request(), 30).read() == Response(text="a")
    assert name.new.asked == 1


def _slow(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Every search takes so long, and more."""
    ready = worker_channel._ready

    async def slowly(*given: Any) -> None:
        await asyncio.sleep(seconds)
        await ready(*given)

    monkeypatch.setattr(worker_channel, "_ready", slowly)


@pytest.mark.parametrize("kind", ["answer", "probe"])
async def test_what_is_made_again_has_the_rest_of_its_time(
    name: Name, channel: WorkerChannel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    _slow(monkeypatch, 0.5)
    await name.replace()
    await _until_noticed(channel)
    await (channel.describe(30) if kind == "probe" else channel.generate(Request(), 30).read())
    assert 0 < name.new.left_s < 29.6


@pytest.mark.parametrize("kind", ["answer", "probe"])
async def test_nobody_waits_longer_for_a_search_than_he_has_time(
    name: Name, channel: WorkerChannel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(worker_channel, "RENEW_S", 60)
    _slow(monkeypatch, 60)
    await name.replace()
    await _until_noticed(channel)
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        async with asyncio.timeout(30):
            await (channel.describe(0.1) if kind == "probe" else channel.generate(Request(), 0.1).read())


async def test_a_call_that_is_cancelled_meanwhile_is_not_made_again(
    name: Name, channel: WorkerChannel
) -> None:
    await name.replace()
    await _until_noticed(channel)
    call = channel.generate(Request(), 30)
    reading = asyncio.create_task(call.read())
    async with asyncio.timeout(30):
        while channel._search is None:
            await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not name.new.asked


async def test_an_answer_that_has_begun_is_never_begun_again(name: Name, channel: WorkerChannel) -> None:
    """Whatever words its worker fails with."""
    name.old.fails = "connections to all backends failing"
    call = channel.generate(Request(), 30)
    await call.read()
    name.old.goes_on.set()
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await call.read()
    assert name.old.asked == 1
